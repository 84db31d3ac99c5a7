"""Other measures of the network in training: those of the averaged weights, which leave training as it was."""

import pytest
import torch
from toy_training import Rows, V, make

import noiselab as nl
from noiselab.evaluation import validation_bound
from noiselab.networks.huggingface import TransformersDenoiser
from noiselab.training import Callback

PROCESS = nl.gidd(vocab_size=V, mask_id=V - 1, p_uniform=0.2)


def bound(network):
    random = torch.Generator().manual_seed(0)
    return validation_bound(PROCESS, TransformersDenoiser(network), Rows(13, seed=5), batch_size=4, generator=random)


def test_the_measure_is_that_of_the_averaged_weights_and_changes_nothing(tmp_path):
    seen = []

    class Measures(Callback):
        def on_step(self, trainer):
            before = torch.random.get_rng_state()
            measured = trainer.measure(bound)
            assert torch.equal(torch.random.get_rng_state(), before) and trainer.module.training
            with trainer.average.applied():
                averaged = bound(trainer.network)
            assert torch.equal(measured.nats, averaged.nats)
            seen.append((measured.nelbo, bound(trainer.network).nelbo))

    plain, measured = make(tmp_path / "plain"), make(tmp_path / "measured", callbacks=[Measures()])
    plain.train()
    measured.train()
    assert measured.losses_of_steps.seen == plain.losses_of_steps.seen
    assert len(seen) == 14 and seen[-1][0] != pytest.approx(seen[-1][1], rel=1e-6)
