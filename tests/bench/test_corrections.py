"""The bench of corrections: distances from a known law by hand, and a row that is what its parts say."""

import math
from dataclasses import fields

import pytest
import torch

import noiselab as nl
from noiselab.bench import (
    CorrectionMeasures,
    World,
    force_errors,
    measure_correction,
    measure_law,
    summarize_corrections,
    tabulate_corrections,
)
from noiselab.correctors import BalancedCorrector, CorrectorReviser, DenoiserDetector
from noiselab.evaluation import measure_detection
from noiselab.revisions import Revised, count_outcome

CHAIN = torch.tensor([[0.9, 0.1], [0.4, 0.6]], dtype=torch.float64)
WORLD = World(CHAIN, 3)  # the first token is uniform


def test_the_distance_from_the_law_by_hand():
    """Four sequences: pairs 00, 00 | 00, 01 | 01, 11 | 10, 00, so that 00 has 4/8, 01 2/8, 11 and 10 1/8 each."""
    x = torch.tensor([[0, 0, 0], [0, 0, 1], [0, 1, 1], [1, 0, 0]])
    found = measure_law(WORLD, x)
    chances = [0.5 * 0.9 * 0.9, 0.5 * 0.9 * 0.1, 0.5 * 0.1 * 0.6, 0.5 * 0.4 * 0.9]
    own = lambda *law: -sum(p * math.log(p) for p in law)  # noqa: E731
    # Entropy of the data: a fair coin, then a step from (1/2, 1/2) and one from (0.65, 0.35).
    entropy = math.log(2) + (0.5 + 0.65) * own(0.9, 0.1) + (0.5 + 0.35) * own(0.4, 0.6)
    assert found.gap == pytest.approx(-sum(map(math.log, chances)) / 12 - entropy / 3)
    want = [4 / 8 * math.log((4 / 6) / 0.9), 2 / 8 * math.log((2 / 6) / 0.1)]
    want += [1 / 8 * math.log(0.5 / 0.4), 1 / 8 * math.log(0.5 / 0.6)]
    assert found.divergence == pytest.approx(sum(want))
    # The law of pairs, averaged over the two places: first (1/2, 1/2), then (0.65, 0.35).
    law = [0.575 * 0.9, 0.575 * 0.1, 0.425 * 0.4, 0.425 * 0.6]
    assert found.pairs == pytest.approx(
        sum(abs(a - b) for a, b in zip((0.5, 0.25, 0.125, 0.125), law, strict=True)) / 2
    )


def test_divergence_and_pairs_detect_samples_that_are_too_probable():
    """Only the most probable sequence: below the data's nats, and far from its law."""
    found = measure_law(WORLD, torch.zeros(50, 3, dtype=torch.long))
    assert found.gap < -0.2 and found.divergence == pytest.approx(-math.log(0.9)) and found.pairs > 0.4


class Replace(nl.Reviser):
    """Replaces ones by zeros, at two evaluations each sequence."""

    def revise(self, z, *, rows=None, generator=None):
        return Revised(torch.where(z == 1, 0, z), evaluations=2 * len(z))


def test_a_row_is_what_its_parts_say():
    random = torch.Generator().manual_seed(0)
    process = WORLD.processes()["uniform"]
    detector = DenoiserDetector(WORLD.oracle(process))
    forced = force_errors(WORLD.sample(200, generator=random), torch.arange(2), 0.2, generator=random)
    samples = torch.randint(2, (300, 3), generator=random)
    found = measure_correction(WORLD, Replace(), forced, samples, detector=detector)
    outcome = count_outcome(forced.tokens, torch.zeros_like(forced.tokens), forced.truth)
    assert (found.mended, found.harmed) == (outcome.mended, outcome.harmed)
    assert (found.area, found.recall) == measure_detection(detector(forced.tokens), forced.wrong)
    assert (found.before_gap, found.before_divergence, found.before_pairs) == measure_law(WORLD, samples)
    assert (found.gap, found.divergence, found.pairs) == measure_law(WORLD, torch.zeros_like(samples))
    assert found.changed == (samples == 1).double().mean().item() and found.evaluations == 2
    assert math.isnan(measure_correction(WORLD, Replace(), forced, samples).area)
    rows = [summarize_corrections("uniform", "exact", name, [found, found]) for name in ("a", "b")]
    rows.append(summarize_corrections("masked", "exact", "a", [found, found]))
    lines = tabulate_corrections(rows).splitlines()
    assert [line.split(" | ")[0] for line in lines if line.startswith(("| a", "| b"))] == ["| a", "| b", "| a"]
    assert [line for line in lines if line.startswith("**")] == [
        f"**{noise} noise, exact** (samples before: gap {found.before_gap:+.3f}, divergence "
        f"{found.before_divergence:+.3f}, pairs {found.before_pairs:+.3f})"
        for noise in ("uniform", "masked")
    ]
    assert f"| {found.gap:+.3f} ± 0.000 |" in lines[-1] and f"| {outcome.mended:.1%} ± 0.0% |" in lines[-1]
    without = summarize_corrections("u", "e", "a", [measure_correction(WORLD, Replace(), forced, samples)] * 2)
    assert "| a | – | " in tabulate_corrections([without])


def test_means_are_over_sets():
    names = [field.name for field in fields(CorrectionMeasures)]
    sets = [CorrectionMeasures(*[k + value for k in range(len(names))]) for value in (0.0, 2.0)]
    row = summarize_corrections("gidd", "exact", "a", sets)
    assert {name: value.mean for name, value in row.measures.items()} == {n: k + 1.0 for k, n in enumerate(names)}
    # Student's t with one degree of freedom: 12.706 standard errors, of which there is one here.
    assert row.measures["pairs"].half == pytest.approx(12.706, abs=1e-3)
    with pytest.raises(ValueError, match="at least two values"):
        summarize_corrections("gidd", "exact", "a", sets[:1])


def test_balanced_jumps_bring_samples_of_few_steps_to_the_data_and_gidds_rule_beyond():
    """The claim of the study, at one seed: at most the distance of the samples, where GIDD's rule at least doubles it."""
    world, random = World.sharp(), torch.Generator().manual_seed(0)
    process = world.processes()["gidd"]
    oracle = world.oracle(process)
    x = nl.AncestralSampler(process, oracle).sample((1500, world.length), steps=8, generator=random)
    before = measure_law(world, x)
    balanced = CorrectorReviser(BalancedCorrector(process, oracle))(x, generator=random)
    published = CorrectorReviser(nl.SelfCorrection(oracle, process=process), steps=8)(x, generator=random)
    after, other = measure_law(world, balanced.tokens), measure_law(world, published.tokens)
    assert before.gap > 0.2 and abs(after.gap) < 0.05 and other.gap < -0.2
    assert after.pairs < before.pairs < 0.5 * other.pairs
    assert after.divergence < 0.1 * before.divergence
    assert balanced.evaluations < 2.5 * len(x)


def test_what_does_not_fit_is_refused(unchecked):
    with pytest.raises(ValueError, match=r"x must be tokens below 2, \[sample, 3\]; got \[4, 2\], largest 0"):
        measure_law(WORLD, torch.zeros(4, 2, dtype=torch.long))
    with pytest.raises(ValueError, match=r"got \[4, 3\], largest 2"):
        measure_law(WORLD, torch.full((4, 3), 2))
    forced = force_errors(torch.zeros(9, 3, dtype=torch.long), torch.arange(2), 0.5)
    with pytest.raises(ValueError, match="reviser must be a Reviser"):
        measure_correction(WORLD, None, forced, forced.truth)
    with pytest.raises(ValueError, match="detector must be a Detector"):
        measure_correction(WORLD, Replace(), forced, forced.truth, detector=Replace())
