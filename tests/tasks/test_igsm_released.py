"""Full iGSM against the released generator: the same law of every count that does not depend on names."""

import random
from collections import Counter
from functools import cache

import pytest
from counts import count, same_law
from released import RELEASED

from noiselab.tasks.igsm import draw_problem
from noiselab.tasks.igsm.formula import Definition
from noiselab.tasks.igsm.full import solution_hash
from noiselab.tasks.igsm.reading import read_problem

COUNTS = [(level, what) for level, found in RELEASED.items() for what in found]


@cache
def drawn(level: str, number: int) -> dict[str, Counter[int]]:
    """The counts of our problems; they are drawn once."""
    generator = random.Random(0)
    return count([draw_problem(generator, level=level) for _ in range(number)])


def released(level: str, what: str) -> dict[int, int]:
    return dict(enumerate(RELEASED[level][what]))


@pytest.mark.parametrize(("level", "what"), COUNTS)
def test_some_problems_are_like_those_released(unchecked, level: str, what: str):
    assert same_law(released(level, what), drawn(level, 150)[what]) > 0.01


@pytest.mark.long
@pytest.mark.parametrize(("level", "what"), COUNTS)
def test_three_thousand_problems_are_like_those_released(unchecked, level: str, what: str):
    assert same_law(released(level, what), drawn(level, 3000)[what]) > 0.01


def test_the_test_sees_a_difference():
    """The shares of the generator before this one: it never asked for nothing, and for totals too often."""
    for before, what in ((0.465, "question asks for a total"), (0.070, "answer is zero"), (0.0, "totals of nothing")):
        ones = round(3000 * before)
        assert same_law(released("med", what), {0: 3000 - ones, 1: ones}) < 1e-5
    assert same_law({0: 500, 1: 500}, {0: 510, 1: 490}) == pytest.approx(0.6547, abs=1e-4)  # 0.2 with one degree
    assert same_law({0: 7}, {0: 9}) == 1


# The hash in the released code of the example in its README.
def test_the_bin_of_a_template_is_that_of_the_released_code():
    text = (
        "The number of each Penguin Beach's Giraffe equals 6. The number of each Octopus Den's Leopard equals each Octopus "
        "Den's Giraffe. The number of each Rockpool Exhibit's Leopard equals 20 more than the sum of each Octopus Den's "
        "Giraffe and each Octopus Den's Leopard. The number of each Rockpool Exhibit's Giraffe equals 8 times as much as "
        "the sum of each Octopus Den's Giraffe and each Octopus Den's Leopard. The number of each Octopus Den's Giraffe "
        "equals 21. How many Animal does Penguin Beach have?"
    )
    items = (("Penguin Beach", "Octopus Den", "Rockpool Exhibit"), ("Giraffe", "Leopard"))
    problem = read_problem(text, ("Enclosure", "Animal"), items)
    right = "Define Penguin Beach's Giraffe as e; so e = 6. Define Penguin Beach's Animal as J; so J = e = 6."
    wrong = (
        "Define Penguin Beach's Giraffe as t; so t = 6. Define Octopus Den's Leopard as r; so r = t = 6. "
        "Define Penguin Beach's Animal as J; so J = t = 6."
    )
    assert problem.check(right).right and problem.value == 6
    verdict = problem.check(wrong)
    assert (verdict.kind, verdict.step) == ("skip", 1) and "needs Octopus Den's Giraffe" in verdict.why
    assert dict(problem.dependency.definitions)[problem.order[0]] == Definition(6)
    assert solution_hash(problem) == 0
