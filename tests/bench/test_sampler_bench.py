"""The bench counts what samplers cost, tells good ones from bad ones, and the study of corrections has its controls."""

import math
import sys
from pathlib import Path

import pytest
import torch

import noiselab as nl
from noiselab.bench.catalogue import OnGrid, ThenCorrect, catalogue
from noiselab.bench.figures import plot, table
from noiselab.bench.runner import bench
from noiselab.bench.world import World
from noiselab.denoisers.copy_observed import CopyObserved
from noiselab.denoisers.perturbed import Perturbed
from noiselab.evaluation.intervals import interval

sys.path.append(str(Path(__file__).parents[2] / "benchmarks"))
from correction_study import measure_corrections, tabulate_corrections

WORLD = World.sharp(states=5, length=8)


def generator(seed=0):
    return torch.Generator().manual_seed(seed)


class Twice(nl.AncestralSampler):
    """Asks a second time in each step, for nothing."""

    def step(self, z, t, s, *, generator=None):
        self.denoiser(z, t)
        return super().step(z, t, s, generator=generator)


class LeavesMasks(nl.AncestralSampler):
    """The planted mistake: it does not take the last step."""

    def step(self, z, t, s, *, generator=None):
        return z if (s == 0).all() else super().step(z, t, s, generator=generator)


@pytest.mark.parametrize("name", ["masked", "gidd", "uniform"])
def test_leaving_sequences_out_changes_nothing_and_is_counted(name):
    """Sequences in which no prediction is needed are not evaluated, and the tokens are the same."""
    process = WORLD.processes()[name]
    oracle = WORLD.oracle(process)
    CallCounter = nl.denoisers.CallCounter
    active, counting = CallCounter(nl.denoisers.ActiveOnly(oracle)), CallCounter(oracle)
    a, b = (
        nl.AncestralSampler(process, denoiser).sample((8, 8), steps=24, generator=[generator(k) for k in range(8)])
        for denoiser in (active, counting)
    )
    assert torch.equal(a, b)
    counts = [(c.calls, c.sequences, c.active, c.rows) for c in (active, counting)]
    assert counts[0] == counts[1]
    counting.reset()
    for k in range(8):
        nl.AncestralSampler(process, counting).sample((1, 8), steps=24, generator=[generator(k)])
    assert active.active == counting.calls < active.sequences


def test_budgets_are_met_by_counting():
    process = WORLD.processes()["gidd"]
    some = {"once": nl.AncestralSampler, "twice": Twice}
    rows = bench(some, WORLD, process, evaluations=(4, 8, 16), sequences=60)
    assert [(row.method, row.budget, row.steps) for row in rows] == [
        *(("once", budget, budget) for budget in (4, 8, 16)),
        *(("twice", budget, budget // 2) for budget in (4, 8, 16)),
    ]
    assert all(row.evaluations == row.budget for row in rows)
    # The same samples for half the price.
    assert rows[1].gap == pytest.approx(rows[5].gap) and rows[1].evaluations == rows[5].evaluations / 2


def test_what_ignores_the_number_of_steps_gets_one_row():
    process = WORLD.processes()["masked"]
    names = ("first hitting", "entropy-bounded, 1", "least entropy first")
    some = {name: catalogue(process)[name] for name in names}
    rows = bench(some, WORLD, process, evaluations=(4, 8, 16, 32), sequences=60)
    found = {name: [row for row in rows if row.method == name] for name in names}
    assert [row.evaluations for row in found["first hitting"]] == [8]
    assert len(found["entropy-bounded, 1"]) == 1
    assert [row.steps for row in found["least entropy first"]] == [4, 8]  # one token a step is all that it can do


def test_the_bench_tells_better_from_worse():
    process = WORLD.processes()["gidd"]
    some = {"even": nl.AncestralSampler, "squared": catalogue(process)["ancestral, squared times"]}
    rows = bench(some, WORLD, process, evaluations=(4, 16, 64), sequences=400, seeds=(0, 1), name="hybrid")
    even, squared = rows[:3], rows[3:]
    assert even[0].gap > even[1].gap > even[2].gap and even[0].pairs > even[2].pairs
    assert squared[1].gap < even[1].gap - 3 * even[1].error
    assert abs(squared[2].gap) < 4 * squared[2].error and squared[2].pairs < 2 * squared[2].pairs_floor
    assert {row.sequences for row in rows} == {800} and {row.process for row in rows} == {"hybrid"}


def test_an_error_of_the_denoiser_is_a_floor_that_steps_do_not_pass():
    process = WORLD.processes()["gidd"]
    wrong = Perturbed(WORLD.oracle(process), 0.7, vocab_size=6, generator=generator())
    (exact,), (poor,) = (
        bench(
            {"": catalogue(process)["ancestral, squared times"]}, WORLD, process, d, evaluations=(64,), sequences=1000
        )
        for d in (None, wrong)
    )
    assert poor.pairs > 3 * poor.pairs_floor > 1.5 * exact.pairs
    assert exact.denoiser == "exact denoiser" and poor.denoiser == repr(wrong)


def test_masks_that_are_left_are_reported():
    rows = bench({"leaves": LeavesMasks}, WORLD, WORLD.processes()["masked"], evaluations=(8,), sequences=100)
    assert rows[0].gap == math.inf and rows[0].residue > 0.05
    assert "of the tokens are no data" in table(rows) and "| leaves | 8 | 7.0 |" in table(rows)
    assert not len(plot(rows).axes[0].lines)  # nothing that could be drawn


@pytest.mark.long_for("uniform", "masked")
@pytest.mark.parametrize("name", ["masked", "gidd", "uniform"])
def test_samplers_that_claim_to_converge_do(name):
    process = WORLD.processes()[name]
    oracle, some = WORLD.oracle(process), catalogue(process)
    assert ("first hitting" in some) == (name == "masked") and ("deterministic" in some) == (name != "gidd")
    assert ("Gillespie" in catalogue(process, slow=True)) == (name != "masked")
    checked = 0
    for method, factory in some.items():
        sampler = factory(process, oracle)
        if not sampler.converges:
            continue
        checked += 1
        few, many = (WORLD.measure(sampler.sample((500, 8), steps=steps, generator=generator())) for steps in (1, 48))
        assert many.pairs < 2 * many.pairs_floor + 0.02, method
        assert abs(many.gap) < 5 * many.error + 0.05, method
        assert few.pairs > 2 * many.pairs or method in ("first hitting", "Gibbs at the end"), method
    assert checked >= 4


def test_grids_and_what_follows_the_sampler():
    process = WORLD.processes()["gidd"]
    oracle = WORLD.oracle(process)
    plain = nl.AncestralSampler(process, oracle)
    own = OnGrid(plain, lambda p, steps: torch.linspace(1, 0, steps + 1).double() ** 3)
    assert torch.allclose(own.grid(2), torch.tensor([1, 0.125, 0]).double())
    assert own.grid(times=torch.tensor([1.0, 0.0])).tolist() == [1, 0]
    a = own.sample((5, 8), steps=4, generator=generator())
    assert torch.equal(a, plain.sample((5, 8), times=own.grid(4), generator=generator()))
    # The two phases by hand, with the same random numbers.
    correction = nl.SelfCorrection(oracle, support=process.support)
    both, one = ThenCorrect(plain, correction), generator()
    x = plain.sample((5, 8), steps=4, generator=one)
    want = correction.correct(x, steps=4, generator=one)
    assert torch.equal(both.sample((5, 8), steps=4, generator=generator()), want)
    assert "SelfCorrection" in repr(both) and not both.converges
    together = both.sample((3, 8), steps=4, generator=[generator(seed) for seed in range(3)])
    alone = [both.sample((1, 8), steps=4, generator=[generator(seed)]) for seed in range(3)]
    assert torch.equal(together, torch.cat(alone))


def test_tables_and_figures():
    processes = WORLD.processes()
    rows = [
        row
        for name in ("masked", "uniform")
        for row in bench(
            {"a": nl.AncestralSampler, "b": Twice}, WORLD, processes[name], evaluations=(2, 4), sequences=50, name=name
        )
    ]
    text = table(rows).splitlines()
    assert len([line for line in text if line.startswith("| a |")]) == 4
    assert text[0] == "**sharp chain, masked, exact denoiser**"
    for measure in ("gap", "pairs", "triples", "forbidden"):
        figure = plot(rows, measure, cost="needed")
        assert [axis.get_title() for axis in figure.axes] == ["masked", "uniform"]
        labels = [line.get_label() for line in figure.axes[0].lines if not line.get_label().startswith("_")]
        assert labels == ["a", "b"]
    for options in ({"measure": "beauty"}, {"cost": "euros"}):
        with pytest.raises(ValueError, match="measure must be one of"):
            plot(rows, **options)
    with pytest.raises(ValueError, match="0 rows"):
        plot([])
    with pytest.raises(ValueError, match="evaluations must be at least 1"):
        bench({"a": nl.AncestralSampler}, WORLD, processes["masked"], evaluations=(0, 4))


def test_intervals_are_those_of_the_tables():
    for n, quantile in ((2, 12.706), (3, 4.303), (4, 3.182), (5, 2.776), (10, 2.262), (31, 2.042)):
        x = torch.arange(n, dtype=torch.float64)
        found = interval(x.tolist())
        assert found.mean == pytest.approx((n - 1) / 2)
        assert found.half == pytest.approx(quantile * x.std().item() / n**0.5, rel=4e-3), n


def test_a_masked_model_believes_what_it_sees_and_cannot_correct():
    """The control of the study: exactly nothing changes, while hybrid noise gains by the same treatments."""

    def wrong(process):
        noisy = Perturbed(WORLD.oracle(process), 0.3, vocab_size=6, generator=generator())
        return CopyObserved(noisy, process)

    processes = {name: WORLD.processes()[name] for name in ("masked", "gidd")}
    rows = measure_corrections(WORLD, processes, wrong, steps=4, sequences=100, seeds=range(3), sweeps=1)
    by = {(row.process, row.treatment): row for row in rows}
    assert len(by) == 10 and len(tabulate_corrections(rows).splitlines()) == 12
    for treatment in ("one jump", "self-correction", "Gibbs sweeps"):
        control, row = by["masked", treatment], by["gidd", treatment]
        assert control.changed.mean == 0 and control.gain.mean == 0 and control.gain.half == 0
        assert row.gain.mean > row.gain.half > 0 and row.mended.mean > 0 and row.changed.mean > 0.01
        assert row.gap.mean + row.gain.mean == pytest.approx(by["gidd", "before"].gap.mean)
    assert by["gidd", "one jump"].evaluations.mean == 1 and by["masked", "one jump"].evaluations.mean == 0
    assert by["gidd", "Gibbs sweeps"].evaluations.mean == 8  # one for each token
    # Published self-correction overshoots: likelier than the data, and poorer.
    assert by["gidd", "self-correction"].gap.mean < -0.1 and by["gidd", "self-correction"].entropy.mean < -0.1
    with pytest.raises(ValueError, match="two seeds"):
        measure_corrections(WORLD, processes, wrong, seeds=(0,))


def test_the_believers_masks_are_predicted_as_before():
    process = WORLD.processes()["masked"]
    oracle = WORLD.oracle(process)
    believer = CopyObserved(oracle, process)
    z = torch.tensor([[0, 5, 2, 5, 5, 1, 1, 5]])
    t = torch.tensor([0.5])
    logits = believer(z, t)
    assert torch.equal(logits[z == 5], oracle(z, t)[z == 5])
    assert torch.equal(logits[z != 5].argmax(-1), z[z != 5])
    assert torch.equal(logits[z != 5].isfinite().sum(-1), torch.ones(4))
    hybrid = WORLD.processes()["gidd"]
    assert torch.equal(CopyObserved(WORLD.oracle(hybrid), hybrid)(z, t), WORLD.oracle(hybrid)(z, t))


def test_noise_that_a_sampler_leaves_is_part_of_the_gain():
    """Stopping at t = 0.01 leaves random tokens; one jump takes them out, and that gain is no self-correction."""
    process = {"gidd": WORLD.processes()["gidd"]}
    clean, left = (
        measure_corrections(WORLD, process, WORLD.oracle, steps=8, end=end, sequences=100, seeds=range(3), sweeps=1)
        for end in (0.0, 0.01)
    )
    assert left[0].gap.mean > clean[0].gap.mean + 0.1
    assert left[1].gain.mean > clean[1].gain.mean + 0.1
    assert left[1].gap.mean == pytest.approx(clean[1].gap.mean, abs=0.1)
