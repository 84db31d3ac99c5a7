"""Totals of things of which an item has none, in every part of full iGSM, on a problem written by hand.

The released generator (facebookresearch/iGSM at a1ed1d0) has one in a fifth of its problems and writes "so t = 0."
"""

import random
from dataclasses import replace

import pytest
import torch

from noiselab.tasks.igsm import PerfectDetector, ProblemMistakes, Words, can_next_row, draw_problem, read_problem, reask
from noiselab.tasks.igsm.full import FullProblem
from noiselab.tasks.igsm.structure import ABSTRACT
from noiselab.tasks.igsm.text import sketch
from noiselab.testing import check_edits

CATEGORIES = ("District", "Supermarket", "Product")
ITEMS = (("Oak Quarter", "Elm Quarter"), ("Red Grocer", "Blue Grocer"), ("Rice Pie", "Lemon Pie"))
QUESTION = (
    "The number of each Oak Quarter's Red Grocer equals 5. "
    "The number of each Oak Quarter's Blue Grocer equals each Elm Quarter's Supermarket. "
    "The number of each Red Grocer's Rice Pie equals 7 more than each Blue Grocer's Product. "
    "The number of each Red Grocer's Lemon Pie equals 2. "
    "How many Product does Oak Quarter have?"
)
# No Elm Quarter has a supermarket, and no Blue Grocer a product.
STEPS = [
    "Define Blue Grocer's Product as b; so b = 0.",
    "Define Red Grocer's Rice Pie as r; so r = 7 + b = 7 + 0 = 7.",
    "Define Red Grocer's Lemon Pie as l; so l = 2.",
    "Define Red Grocer's Product as p; so p = r + l = 7 + 2 = 9.",
    "Define Oak Quarter's Red Grocer as o; so o = 5.",
    "Define Elm Quarter's Supermarket as e; so e = 0.",
    "Define Oak Quarter's Blue Grocer as u; so u = e = 0.",
    "Define Oak Quarter's Product as q; m = o * p = 5 * 9 = 22; n = u * b = 0 * 0 = 0; so q = m + n = 22 + 0 = 22.",
]


@pytest.fixture
def problem() -> FullProblem:
    read = read_problem(QUESTION, CATEGORIES, ITEMS)
    find = read.dependency.structure.find
    order = [find(*step[len("Define ") : step.index(" as ")].split("'s ")) for step in STEPS]
    return replace(read, order=tuple(order), letters="brlpoeuqmn")


def parameter(problem: FullProblem, owner: str, thing: str):
    return problem.dependency.structure.find(owner, thing)


def test_text_and_size(problem: FullProblem):
    assert problem.question_text == QUESTION and problem.answer_text == " ".join(STEPS)
    assert problem.value == 22 and problem.ops == 10
    nothing = parameter(problem, "Elm Quarter", "Product")  # over several layers, and nowhere in the text
    assert problem.dependency.values[nothing] == 0 and problem.needs[nothing] == ()
    asked = replace(problem, order=(nothing,))
    assert asked.question_text.endswith("How many Product does Elm Quarter have?")
    assert asked.answer_text == "Define Elm Quarter's Product as b; so b = 0." and asked.check(asked.answer).right
    assert sketch(asked.dependency, asked.order) == " Define Inter as a. so a = 0."


@pytest.mark.parametrize(
    ("place", "step", "kind", "why"),
    [
        (0, "Define Blue Grocer's Product as b; so b = b = 0.", "skip", "uses b, which no earlier step defines"),
        (5, "Define Elm Quarter's Supermarket as e; so e = o = 5.", "skip", "counts nothing and needs the number 0"),
        (5, "Define Elm Quarter's Supermarket as e; so e = 0 * o = 0 * 5 = 0.", "skip", "needs the number 0"),
        (5, "Define Elm Quarter's Supermarket as e; so e.", "parse", "must begin with 'so e ='"),
        (7, "Define Oak Quarter's Product as q; so q = o * p = 5 * 9 = 22.", "skip", "Blue Grocer's Product"),
    ],
)
def test_wrong_steps(problem: FullProblem, place: int, step: str, kind: str, why: str):
    verdict = problem.check(" ".join((*STEPS[:place], step, *STEPS[place + 1 :])))
    assert (verdict.kind, verdict.step) == (kind, place) and why in verdict.why, verdict


def test_another_number_than_zero_is_found_in_the_answer(problem: FullProblem):
    asked = replace(problem, order=problem.order[:1])
    verdict = asked.check("Define Blue Grocer's Product as b; so b = 1.")
    assert (verdict.kind, verdict.step) == ("answer", 0) and "the answer is 0, not 1" in verdict.why


def test_it_can_be_computed_at_once(problem: FullProblem):
    nothings = {
        parameter(problem, "Elm Quarter", "Supermarket"),
        parameter(problem, "Elm Quarter", "Product"),
        parameter(problem, "Blue Grocer", "Product"),
    }
    assert nothings <= set(problem.ready(())) and nothings.isdisjoint(problem.not_ready(()))
    words = Words("med")
    row = can_next_row(problem, words, 0, problem.order[0])
    assert words.decode(row)[-6:] == ("Define", "Blue", "Grocer", "'s", "Product", "as")


def test_detectors_and_mistakes(problem: FullProblem):
    words = Words("med")
    for errors in ("any", "not ready"):
        detector = PerfectDetector(problem, words, errors=errors)
        for place in range(len(problem.order) + 1):
            said = [word for earlier in range(place) for word in problem.step(earlier)]
            assert detector.score_step(words.encode([*problem.question, *said])) == 0
    copied = "Define Blue Grocer 's Product as b ; so b = b = 0 .".split()
    assert detector.score_step(words.encode([*problem.question, *copied])) == 0  # wrong, but it was ready
    assert PerfectDetector(problem, words).score_step(words.encode([*problem.question, *copied])) == 1
    x = words.encode(problem.answer)
    elm = problem.order[5]
    assert elm not in ProblemMistakes(problem, words, 0.4, kind="retry").pool(0)  # it could be computed
    assert elm in ProblemMistakes(problem, words, 0.4, kind="miss").pool(0)
    for kind in ("retry", "weak", "miss", "filler"):
        mistakes = ProblemMistakes(problem, words, 0.4, kind=kind)
        check_edits(mistakes, [x])
        z = mistakes.corrupt(x, generator=torch.Generator().manual_seed(0))
        assert problem.check(words.decode(mistakes.clean(z))).right


def test_it_is_drawn_and_asked_for():
    generator = random.Random(0)
    drawn = [draw_problem(generator) for _ in range(60)]
    used = [p for p in drawn if any(q.kind == ABSTRACT and not p.needs[q] for q in p.order)]
    assert used and all(p.check(p.answer).right for p in used)
    asked = [reask(p, generator) for p in drawn for _ in range(3)]
    nothing = [p for p in asked if p.query.kind == ABSTRACT and not p.needs[p.query]]
    assert nothing and all(p.value == 0 and p.ops == 1 and p.check(p.answer).right for p in nothing)
