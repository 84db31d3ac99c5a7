"""Corrections as a judge sees them: the rows are what one would measure by hand, and poorer text is not a gain."""

import math

import pytest
import torch

import noiselab as nl
from noiselab.denoisers.copy_observed import CopyObserved
from noiselab.evaluation import correction_grid, correction_grid_table, generative_perplexity
from noiselab.evaluation.correction_grid import AGAIN, BEFORE, COOLER, CORRECTED, JUMP, Treated, _Fresh

LENGTH, START = 12, torch.tensor([0.4, 0.3, 0.2, 0.1])
TRANSITION = torch.tensor([[0.7, 0.19, 0.1, 0.01], [0.1, 0.6, 0.2, 0.1], [0.1, 0.1, 0.7, 0.1], [0.4, 0.1, 0.1, 0.4]])
SETTINGS = {
    "samples": 40,
    "sampling_steps": 4,
    "temperatures": (0.1, 1.0),
    "steps": (2, 6),
    "seeds": range(3),
    "cooler": (0.8, 0.5, 0.3, 0.1),
}


class Chain(torch.nn.Module):
    """A judge that knows the data."""

    def forward(self, input_ids, attention_mask):
        return (TRANSITION + 1e-9).log()[input_ids]


def processes():
    return nl.gidd(vocab_size=5, mask_id=4, p_uniform=0.3), nl.masked(vocab_size=5, mask_id=4)


@pytest.fixture(scope="module")
def rows():
    process = processes()[0]
    return correction_grid(process, nl.MarkovOracle(START, TRANSITION, process), Chain(), LENGTH, **SETTINGS)


def test_rows_are_what_one_would_measure_by_hand(rows):
    process = processes()[0]
    oracle = nl.denoisers.Support(nl.MarkovOracle(START, TRANSITION, process), process.support)
    gains = []
    for seed in range(3):
        random = torch.Generator().manual_seed(seed)
        sampler = nl.AncestralSampler(process, oracle)
        x = sampler.sample((40, LENGTH), steps=4, generator=random)
        sampler.clean(x, torch.full((40,), 0.01, dtype=torch.float64), generator=random)
        y = nl.SelfCorrection(oracle, temperature=0.1).correct(x, steps=6, generator=random)
        gains.append(generative_perplexity(Chain(), x).nats - generative_perplexity(Chain(), y).nats)
    found = {(row.treatment, row.temperature, row.steps): row for row in rows}
    assert found[CORRECTED, 0.1, 6].gain.mean == pytest.approx(sum(gains) / 3)
    assert set(found) == {
        (BEFORE, 0.0, 0),
        (JUMP, 0.0, 1),
        *((CORRECTED, t, n) for t in (0.1, 1.0) for n in (2, 6)),
        *((AGAIN, 0.1, n) for n in (2, 6)),
        *((COOLER, t, 0) for t in (0.8, 0.5, 0.3, 0.1)),
    }
    assert found[CORRECTED, 0.1, 2].changed.mean < found[CORRECTED, 0.1, 6].changed.mean <= 6 / LENGTH


def test_fresh_samples_gain_nothing_beyond_their_entropy(rows):
    fresh = [row.beyond.mean for row in rows if row.treatment in (BEFORE, COOLER)]
    assert sum(fresh) == pytest.approx(0, abs=1e-9) and max(map(abs, fresh)) < 0.1  # they lie about their line
    before = next(row for row in rows if row.treatment == BEFORE)
    assert before.gain.mean == before.changed.mean == 0
    # Where contradictions are mended, something is left beyond poorer text.
    mended = next(row for row in rows if (row.treatment, row.temperature, row.steps) == (CORRECTED, 0.1, 2))
    assert 0.02 < mended.beyond.mean < mended.gain.mean


def test_a_network_that_believes_what_it_sees_gains_nothing():
    process = processes()[1]
    believer = CopyObserved(nl.MarkovOracle(START, TRANSITION, process), process)
    with pytest.warns(UserWarning, match="never"):
        nl.SelfCorrection(believer, process=process)
    for row in correction_grid(process, believer, Chain(), LENGTH, **SETTINGS):
        if row.treatment != COOLER:
            assert row.gain.mean == row.changed.mean == 0


def test_beyond_is_the_distance_from_the_line_of_fresh_samples():
    fresh = [Treated(BEFORE, 0.0, 0, 3.0, 2.0, 1.0, 0.0), Treated(COOLER, 0.9, 0, 2.0, 1.0, 1.0, 1.0)]
    one = Treated(CORRECTED, 0.1, 4, 1.5, 1.25, 1.0, 0.1)
    assert _Fresh([*fresh, one]).beyond([one]) == [pytest.approx(2.25 - 1.5)]
    poorer = Treated(CORRECTED, 0.1, 4, 0.1, 0.5, 1.0, 0.1)
    assert math.isnan(_Fresh([*fresh, poorer]).beyond([poorer])[0])
    assert math.isnan(_Fresh([fresh[0], one]).beyond([one])[0])  # one point is no line


def test_the_table_has_a_line_a_row_and_leaves_out_what_is_not_known(rows):
    lines = correction_grid_table(rows).split("\n")
    assert len(lines) == len(rows) + 2 and all(line.count("|") == 10 for line in lines)
    assert "nan" not in "".join(lines)


@pytest.mark.parametrize(
    ("settings", "words"),
    [({"seeds": [1]}, "two seeds"), ({"steps": ()}, "temperatures and steps"), ({"temperatures": ()}, "temperatures")],
)
def test_too_little_is_refused(settings, words):
    process = processes()[0]
    oracle = nl.MarkovOracle(START, TRANSITION, process)
    with pytest.raises(ValueError, match=words):
        correction_grid(process, oracle, Chain(), LENGTH, **{**SETTINGS, **settings})
