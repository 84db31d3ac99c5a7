"""A curriculum: each step has the noise of its stage, evaluation and resumption that of the whole run."""

import pytest
import torch

import noiselab as nl
from noiselab.data import TokenBlocks
from noiselab.objectives import elbo
from noiselab.training import Callback, Optimization, Place, Run, Stage, Trainer, noised_loss, process_at, staged_loss

V, MASK = 9, 8
MASKS = nl.masked(vocab_size=V, mask_id=MASK)
WORDS = nl.uniform(vocab_size=V, special=[MASK])


class Recorder(nl.Denoiser):
    """Logits of its own for each token, and a record of what was denoised in training."""

    def __init__(self):
        super().__init__()
        self.out, self.trained, self.evaluated = torch.nn.Embedding(V, V), [], []
        torch.nn.init.zeros_(self.out.weight)

    def forward(self, z, t):
        (self.trained if self.training else self.evaluated).append(z.clone())
        return self.out(z)


def run(folder, curriculum, steps=5, recorder=None, process=WORDS, **more):
    tokens = torch.randint(MASK, (16, 32), generator=torch.Generator().manual_seed(0))
    blocks = TokenBlocks(tokens, torch.full((16,), 32), vocab_size=V)
    recorder = Recorder() if recorder is None else recorder
    return Trainer(
        recorder,
        Optimization(steps, batch=8, weight_decay=0.0),
        Run(folder, save_every=2, cpu=True, progress=False),
        train_dataset=blocks,
        eval_dataset=blocks,
        process=process,
        curriculum=curriculum,
        **more,
    ), recorder


def test_the_stage_of_a_step():
    other = nl.gidd(vocab_size=V, mask_id=MASK, p_uniform=0.1)
    stages = [Stage(MASKS, 2), Stage(other, 1), Stage(WORDS, 4)]
    assert [process_at(stages, step) for step in range(9)] == [MASKS, MASKS, other, *[WORDS] * 6]
    with pytest.raises(ValueError, match="at least one stage"):
        process_at([], 0)


def test_the_loss_is_that_of_the_noise_of_the_step():
    network, batch = Recorder(), {"input_ids": torch.arange(MASK)[None].repeat(4, 1)}
    options = {"objective": elbo, "call": lambda model, z, t, mask: model(z, t)}
    stages = [Stage(MASKS, 3), Stage(WORDS, 3)]
    torch.nn.init.normal_(network.out.weight)
    for step, process in ((0, MASKS), (2, MASKS), (3, WORDS), (7, WORDS)):
        found = staged_loss(network, batch, stages=stages, place=Place(step), **options)
        assert torch.equal(found, noised_loss(network, batch, process=process, place=Place(step), **options))
    assert staged_loss(network, batch, stages=stages, place=Place(2), **options) != noised_loss(
        network, batch, process=WORDS, place=Place(2), **options
    )


def test_a_run_trains_on_one_noise_after_another_and_evaluates_the_last(tmp_path):
    trainer, recorder = run(tmp_path, [Stage(MASKS, 3)])
    recorder.trained.clear(), recorder.evaluated.clear()
    trainer.train()
    masks = [bool((z == MASK).any()) for z in recorder.trained]
    assert masks == [True, True, True, False, False]
    trainer.evaluate()
    assert recorder.evaluated and not any((z == MASK).any() for z in recorder.evaluated)


def test_a_resumed_run_continues_in_its_stage_and_must_have_the_same_curriculum(tmp_path):
    whole, recorder = run(tmp_path / "whole", [Stage(MASKS, 3)])
    whole.train()

    class Stop(Callback):
        def on_step(self, trainer):
            if trainer.step == 4:
                trainer.stop()

    first, _ = run(tmp_path / "parts", [Stage(MASKS, 3)], callbacks=[Stop()])
    assert first.train().step == 4
    for other in ([Stage(MASKS, 2)], [], [Stage(WORDS, 3)]):
        with pytest.raises(ValueError, match="curriculum"):
            run(tmp_path / "parts", other)[0].train()
    again, resumed = run(tmp_path / "parts", [Stage(MASKS, 3)])
    resumed.trained.clear()
    again.train()
    assert not any((z == MASK).any() for z in resumed.trained) and len(resumed.trained) == 1
    assert torch.equal(resumed.out.weight, recorder.out.weight)


def test_a_curriculum_that_does_not_fit_is_refused(tmp_path):
    with pytest.raises(ValueError, match=r"number of tokens of the last, 9; got 12"):
        run(tmp_path, [Stage(nl.masked(vocab_size=12, mask_id=8), 3)])
    some = nl.uniform(vocab_size=V, special=[0, MASK])  # data hold token 0
    with pytest.raises(ValueError, match="clean data must hold tokens of the process's support only"):
        run(tmp_path, [Stage(some, 3)])[0].train()
