"""Mistakes in solutions: their laws, their pools, their number."""

import random

import pytest
import torch

from noiselab.tasks.igsm import ProblemMistakes, Words, draw_small
from noiselab.testing import check_edits

# ram = 3 ; pig = toad ; elk = 2 * ram ; cat = elk + lynx ; ant = 3 ; seal = toad + pig ; lynx = ram ; toad = elk + lynx
PROBLEM, WORDS = draw_small(random.Random(3), level="nano", ops=4), Words("nano")
X = WORDS.encode(PROBLEM.answer)
KINDS = ["retry", "weak", "miss", "filler"]


def generator(seed=0):
    return torch.Generator().manual_seed(seed)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("rate", [0, 0.3])
def test_laws(kind, rate):
    with_end = torch.cat([X, torch.tensor([WORDS.end])])
    check_edits(ProblemMistakes(PROBLEM, WORDS, rate, kind=kind), [with_end])


def test_pools_by_hand():
    """Solved in the order ram, elk, lynx, toad."""
    pools = {kind: ProblemMistakes(PROBLEM, WORDS, 0.5, kind=kind).pool for kind in KINDS}
    assert set(pools["retry"](0)) == {"pig", "elk", "cat", "seal", "lynx", "toad"}
    assert set(pools["retry"](2)) == {"pig", "cat", "seal", "toad"}
    assert set(pools["weak"](0)) == {"elk", "lynx", "toad"} and pools["weak"](3) == ()
    assert set(pools["miss"](1)) == {"pig", "cat", "ant", "seal", "lynx", "toad"}
    assert pools["filler"](0) == () and set(pools["filler"](2)) == {"ram", "elk"}
    contained = ProblemMistakes(PROBLEM, WORDS, 0.5, kind="weak", self_contain=True)
    assert set(contained.pool(3)) == {"toad"}


@pytest.mark.parametrize("kind", KINDS)
def test_the_number_of_mistakes_is_that_of_the_formula(kind):
    rate, n = 0.5, 400
    process = ProblemMistakes(PROBLEM, WORDS, rate, kind=kind)
    counts = [int((process.corrupt(X, generator=generator(seed)) == WORDS.back).sum()) for seed in range(n)]
    mean = sum(rate**k for place in range(4) for k in range(1, len(process.pool(place)) + 1))
    counts = torch.tensor(counts, dtype=torch.float64)
    assert abs(counts.mean() - mean) < 4 * counts.std() / n**0.5


@pytest.mark.parametrize("kind", ["retry", "weak", "miss"])
def test_solutions_with_mistakes_are_right(kind):
    for seed in range(20):
        problem = draw_small(random.Random(seed), level="nano")
        process = ProblemMistakes(problem, WORDS, 0.5, kind=kind)
        z = process.corrupt(WORDS.encode(problem.answer), generator=generator(seed))
        verdict = problem.check(WORDS.decode(z))
        assert verdict.right and verdict.retries == int((z == WORDS.back).sum())


def test_what_does_not_fit_is_refused():
    for wrong in ({"rate": 1.0}, {"rate": -0.1}, {"rate": 0.1, "kind": "retry", "self_contain": True}):
        with pytest.raises(ValueError, match=r"rate|self_contain"):
            ProblemMistakes(PROBLEM, WORDS, **wrong)
    with pytest.raises(ValueError, match="solution of the problem"):
        ProblemMistakes(PROBLEM, WORDS, 0.1).corrupt(X[:-1])
