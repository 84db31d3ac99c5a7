"""The loss in blocks: all of them in one pass, equal to a pass for each, with times of their own over the whole step."""

import json
import os
import subprocess
import sys
from itertools import product
from pathlib import Path

import pytest
import torch
from one_pass_worlds import SeparatePasses
from test_fused_loss import ROWS, both, encoder, fusions, results  # noqa: F401 (a fixture)
from toy_training import L, Rows, V, digest, llama, make, network

import noiselab as nl
from noiselab.denoisers import BlockDenoiser
from noiselab.networks.dit import DiT
from noiselab.networks.huggingface import TransformersDenoiser
from noiselab.networks.masked_lm import MaskedLanguageModel
from noiselab.objectives import Clipped, elbo
from noiselab.training import Place, Stage, TimesPerBlock, draw_noise, noised_loss, staged_loss
from noiselab.training.losses import call_denoiser

SIZE, PLACE = 4, Place(3, seed=5)  # of six tokens: the second block is shorter
PROCESSES = {
    "masked": nl.masked(vocab_size=V, mask_id=V - 1),
    "hybrid": nl.gidd(vocab_size=V, mask_id=V - 1, p_uniform=0.2),
    "uniform": nl.uniform(vocab_size=V),
    "token rates": nl.processes.TokenRates(0.5 + torch.arange(V) % 3, mask_id=V - 1),
}
NETWORKS = {
    "DiT": (lambda: network(0.0).double(), 1e-5),
    "DiT as a denoiser": (lambda: TransformersDenoiser(network(0.0)).double(), 1e-5),
    "GPT-2": (lambda: encoder("GPT2LMHeadModel"), 1e-10),
    "BERT": (lambda: encoder("BertForMaskedLM"), 1e-10),
}  # parts of the DiT are computed in float32


def batch(marked=True):
    ids = torch.randint(V - 2, (ROWS, L), generator=torch.Generator().manual_seed(2))
    labels, real = ids.clone(), torch.ones_like(ids, dtype=torch.bool)
    if marked:
        labels[:, :1], real[:2, -3:] = -100, False
    return {"input_ids": ids, "labels": labels, "attention_mask": real} if marked else {"input_ids": ids}


class Cut(nl.WrappedDenoiser):
    """The logits of the first tokens."""

    def __init__(self, inner, states):
        super().__init__(inner)
        self.states = states

    def forward(self, z, t, rows=None):
        return self.inner(z, t, rows)[..., : self.states]


def by_hand(model, given, process, objective=elbo, predicts="leave_one_out", times=None):
    """The mean over tokens of the weighted bound, from a pass for each block, at the noise of the place."""
    times = TimesPerBlock(SIZE) if times is None else times
    noisy = draw_noise(given, process=process, objective=objective, place=PLACE, times=times, select=0)
    inner = model if isinstance(model, nl.Denoiser) else TransformersDenoiser(model)
    real = given.get("attention_mask", torch.ones_like(given["input_ids"])).bool()
    separate = SeparatePasses(inner, SIZE, given["input_ids"], real)
    separate.predicts = predicts
    logits = nl.denoisers.as_leave_one_out(Cut(separate, V), process)(noisy.seen, noisy.times)
    nats = nl.nelbo(process, logits, noisy.x, noisy.z, noisy.t)
    if noisy.weight is not None:
        nats = nats * noisy.weight / process.elbo_weight(noisy.x, noisy.z, noisy.t).clamp(min=1e-300)
    learned = noisy.scale > 0
    return torch.where(learned, nats * noisy.scale, 0).sum()


@pytest.mark.parametrize("noise", PROCESSES)
@pytest.mark.parametrize("name", NETWORKS)
def test_loss_and_gradients_are_those_of_a_pass_for_each_block(name, noise, fusions):  # noqa: F811
    (build, rtol), process, given = NETWORKS[name], PROCESSES[noise], batch()
    model = build()
    call = {"call": call_denoiser, "predicts": model.predicts} if isinstance(model, nl.Denoiser) else {}
    predicts = call.get("predicts", "leave_one_out")
    ours = results(
        model,
        lambda: noised_loss(model, given, process=process, objective=elbo, place=PLACE, blocks=SIZE, **call),
    )
    assert len(fusions) == int(noise != "token rates")
    theirs = results(model, lambda: by_hand(model, given, process, predicts=predicts))
    torch.testing.assert_close(ours, theirs, rtol=rtol, atol=rtol)
    assert max(g.abs().max() for g in ours[1:]) > 1e-3
    # The denoiser in blocks is the same as the argument, at the same times.
    inner = model if isinstance(model, nl.Denoiser) else TransformersDenoiser(model)
    again = noised_loss(
        BlockDenoiser(inner, SIZE),
        given,
        process=process,
        objective=elbo,
        place=PLACE,
        times=TimesPerBlock(SIZE),
        call=call_denoiser,
        predicts=predicts,
    )
    torch.testing.assert_close(again.detach(), ours[0], rtol=1e-12, atol=0)
    # The ordinary loss is another.
    whole = noised_loss(model, given, process=process, objective=elbo, place=PLACE, times=TimesPerBlock(SIZE), **call)
    assert abs(whole.detach() - ours[0]) > 1e-4


def test_other_objectives_times_and_predictions():
    model, process, given = encoder("GPT2LMHeadModel"), PROCESSES["hybrid"], batch()
    known = {"process": process, "place": PLACE, "call": call_denoiser, "blocks": SIZE, "predicts": model.predicts}
    for options in (
        {"objective": Clipped(1.5)},
        {"objective": elbo, "times": lambda n, length, generator: torch.rand(n, generator=generator) * 0.8 + 0.1},
    ):
        ours = noised_loss(model, given, **known, **options).detach()
        theirs = by_hand(model, given, process, predicts=model.predicts, **options).detach()
        torch.testing.assert_close(ours, theirs, rtol=1e-9, atol=0)
    # All logits in one call, not fused.
    given = batch(marked=False)
    ours, theirs = both(BlockDenoiser(model, SIZE), process, given, times=TimesPerBlock(SIZE))
    torch.testing.assert_close(ours, theirs, rtol=1e-10, atol=1e-12)


def test_only_noisy_rows_with_a_loss_are_projected():
    model, process, given = NETWORKS["DiT"][0](), PROCESSES["masked"], batch()
    noisy = draw_noise(given, process=process, objective=elbo, place=PLACE, times=TimesPerBlock(SIZE))
    seen = []
    fused = nl.elbo.fused.nelbo_fused

    def spy(*args, **kwargs):
        seen.append(args[1].shape[:-1].numel())
        return fused(*args, **kwargs)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("noiselab.training.scoring.nelbo_fused", spy)
        noised_loss(model, given, process=process, objective=elbo, place=PLACE, blocks=SIZE)
    assert seen == [len(noisy.rows)] and len(noisy.rows) < ROWS * L / 2


def test_the_sum_over_processes_and_micro_batches_is_the_loss_of_one():
    model, process, given = NETWORKS["DiT"][0](), PROCESSES["hybrid"], batch(marked=False)
    given = {name: torch.cat((part, part[:2])) for name, part in given.items()}  # eight rows
    options = {"process": process, "objective": elbo, "blocks": SIZE}
    whole = noised_loss(model, given, place=Place(2, seed=1), **options)
    parts = []
    for micro, rank in product(range(2), range(2)):
        place = Place(2, micro, accumulation=2, rank=rank, world=2, seed=1)
        own = {name: part[list(place.numbers(2))] for name, part in given.items()}
        parts.append(noised_loss(model, own, place=place, **options) / 2)
    torch.testing.assert_close(sum(parts), whole, rtol=1e-6, atol=0)


@pytest.mark.long
def test_the_loss_of_a_noisy_batch_in_blocks_is_one_graph():
    here = Path(__file__).parent
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(map(str, (here, here.parent, here.parents[1])))}
    command = [sys.executable, str(here / "one_graph.py")]
    done = subprocess.run(command, capture_output=True, text=True, timeout=300, env=environment)
    assert done.stdout.split("\n")[:-1] == ["one graph"] * 3, done.stderr


def test_the_trainer_learns_blocks_for_any_micro_batch_and_saves_the_network(tmp_path):
    runs = {}
    for micro in (8, 2):
        trainer = make(tmp_path / str(micro), dropout=0.0, steps=3, micro_batch=micro, extra={"blocks": 2})
        trainer.train()
        runs[micro] = [float.fromhex(loss) for loss in trainer.losses_of_steps.seen.values()]
    assert runs[8] == pytest.approx(runs[2], rel=1e-5)
    plain = make(tmp_path / "plain", dropout=0.0, steps=3)
    plain.train()
    assert digest(plain) != digest(trainer)
    trainer.save_final(tmp_path / "final")
    assert type(DiT.from_pretrained(tmp_path / "final")) is DiT
    with pytest.raises(ValueError, match="blocks: 2 in the checkpoint, 3 now"):
        make(tmp_path / "2", dropout=0.0, steps=3, micro_batch=2, extra={"blocks": 3}).train()
    assert json.loads(json.dumps(trainer.settings))["blocks"] == 2


def test_evaluation_is_the_block_bound_over_the_range(tmp_path):
    """Against the bound of many draws with a pass for each block."""
    process = PROCESSES["hybrid"]
    trainer = make(tmp_path, dropout=0.0, steps=2, process=process, extra={"blocks": 2, "time_range": (0.1, 0.9)})
    rows = Rows(200, padded=False)
    found = trainer.evaluate(rows)["eval_loss"]
    x = rows.ids.repeat(20, 1)
    inner = TransformersDenoiser(trainer.network.eval())
    t = nl.stratified_times(len(x), low=0.1, high=0.9, generator=torch.Generator().manual_seed(0))
    z = process.corrupt(x, t, generator=torch.Generator().manual_seed(1))
    with torch.no_grad():
        nats = nl.nelbo(process, SeparatePasses(inner, 2, x)(z, t), x, z, t).double()
    each = nats.mean(-1)
    assert abs(found - each.mean()) < 5 * each.std() / 200**0.5
    assert found == trainer.evaluate(rows)["eval_loss"]


def test_a_curriculum_in_blocks_and_wrong_uses(tmp_path):
    model, given = network(0.0), batch(marked=False)
    stages = [Stage(PROCESSES["masked"], 2), Stage(PROCESSES["hybrid"], 9)]
    options = {"objective": elbo, "place": PLACE, "blocks": SIZE}
    torch.testing.assert_close(
        staged_loss(model, given, stages=stages, **options),
        noised_loss(model, given, process=PROCESSES["hybrid"], **options),
    )
    with pytest.raises(ValueError, match="blocks must not be given for a denoiser that is in blocks already"):
        make(tmp_path / "a", model=BlockDenoiser(TransformersDenoiser(model), 2), extra={"blocks": 2})
    of_noise = {
        "blocks": 2,
        "times": TimesPerBlock(2),
        "curriculum": stages,
        "objective": lambda process, x, z, t: torch.ones_like(x),
        "time_range": (0.1, 0.9),
    }
    for name, value in of_noise.items():
        with pytest.raises(ValueError, match=f"{name} can be given with a process only"):
            make(tmp_path / "b", process=None, extra={name: value, "loss": lambda *a, **k: None})
    with pytest.raises(ValueError, match="block_size must be"):
        make(tmp_path / "c", extra={"blocks": 0})


def test_a_network_is_checked_once_and_not_at_each_step():
    class Own(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.inner, self.calls = network(0.0), 0

        def forward(self, input_ids, timesteps, attention_mask=None, may_attend=None, positions=None):
            self.calls += 1
            found = self.inner.hidden(input_ids, timesteps, attention_mask, may_attend=may_attend, positions=positions)
            return self.inner.project(found)

    own, calls = Own(), []
    for _ in range(3):
        noised_loss(own, batch(), process=PROCESSES["hybrid"], objective=elbo, place=PLACE, blocks=SIZE)
        calls.append(own.calls)
    assert calls[0] > 2 and calls[2] - calls[1] == calls[1] - calls[0] == 1


def test_an_adapted_model_is_trained_in_blocks(tmp_path):
    """The first loss of a causal model with open attention and shifted logits is that by hand."""
    model = MaskedLanguageModel(llama(), shifted=True, predicts="leave_one_out")
    process, rows = PROCESSES["hybrid"], Rows(8)
    trainer = make(tmp_path, model=model, data=rows, process=process, steps=1, micro_batch=8, extra={"blocks": SIZE})
    state = {name: part.clone() for name, part in trainer.network.state_dict().items()}
    trainer.train()
    found = float.fromhex(trainer.losses_of_steps.seen[1])
    trainer.network.load_state_dict(state)
    (rows,) = next(trainer.feed.steps(0))
    place = trainer.place(0)._replace(step=0)
    noisy = draw_noise(rows, process=process, objective=elbo, place=place, times=TimesPerBlock(SIZE), select=0)
    separate = SeparatePasses(trainer.network.eval(), SIZE, rows["input_ids"], rows["attention_mask"].bool())
    with torch.no_grad():
        nats = nl.nelbo(process, separate(noisy.seen, noisy.times), noisy.x, noisy.z, noisy.t)
    wanted = torch.where(noisy.scale > 0, nats * noisy.scale, 0).sum()
    assert found == pytest.approx(wanted.item(), rel=1e-4)
