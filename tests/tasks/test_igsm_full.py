"""Laws of full iGSM: problems are solvable as they say, of the size that is asked for, and like those that were measured."""

import math
import pickle
import random
import statistics
from dataclasses import replace
from itertools import pairwise
from typing import NamedTuple

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from noiselab.tasks.igsm import full
from noiselab.tasks.igsm.dependency import Dependency
from noiselab.tasks.igsm.formula import Definition
from noiselab.tasks.igsm.full import TRAIN_BINS, FullProblem, draw_problem, reask, solution_hash, split_of
from noiselab.tasks.igsm.names import draw_names
from noiselab.tasks.igsm.structure import ABSTRACT, Quantity, Structure
from noiselab.tasks.igsm.text import sketch, spell, words

SEEDS = st.integers(0, 2**32)
ZOOS = Structure(("Zoo", "Animal"), (("City Zoo",), ("Owl", "Fox")), (((0, 1),),))
OWLS, FOXES, ANIMALS = ZOOS.quantities


class Case(NamedTuple):
    """What a problem is drawn from; it is drawn in the test, as the shape checks use `random`."""

    seed: int
    ops: int | None
    layout: str
    level: str

    def problem(self) -> FullProblem:
        return draw_problem(random.Random(self.seed), ops=self.ops, layout=self.layout, level=self.level)


CASES = st.builds(
    Case,
    SEEDS,
    st.one_of(st.none(), st.integers(1, 12)),
    st.sampled_from(["pq", "qp"]),
    st.sampled_from(["med", "hard"]),
)


@pytest.fixture(scope="module")
def measured() -> dict[int | None, list[FullProblem]]:
    """The problems that the published figures can be compared with: of any, of 15 and of 23 operations."""
    generator = random.Random(1)
    return {ops: [draw_problem(generator, ops=ops) for _ in range(n)] for ops, n in ((None, 100), (15, 30), (23, 20))}


@settings(max_examples=40)
@given(case=CASES)
def test_the_solution_is_right_in_words_and_in_text(case: Case):
    problem = case.problem()
    verdict = problem.check(problem.answer)
    assert verdict.right and verdict.kind is None and verdict.step is None and verdict.why == ""
    assert verdict.parameters == problem.order and verdict.retries == verdict.unnecessary == 0
    assert problem.check(problem.answer_text).right
    assert problem.answer[-2:] == (str(problem.value), ".")
    assert problem.answer == tuple(word for place in range(len(problem.order)) for word in problem.step(place))


@settings(max_examples=40)
@given(case=CASES)
def test_each_parameter_comes_after_its_needs_and_is_needed_itself(case: Case):
    problem = case.problem()
    for place, quantity in enumerate(problem.order):
        known = problem.order[:place]
        assert quantity in problem.ready(known) and quantity not in problem.not_ready(known)
        later = (other for user in problem.order[place + 1 :] for other in problem.needs[user])
        assert quantity == problem.query or quantity in later
    assert set(problem.order) == problem.dependency.necessary(problem.query)


@settings(max_examples=40)
@given(seed=SEEDS, ops=st.integers(1, 20))
def test_operations_are_those_that_were_asked_for_and_those_of_the_text(seed: int, ops: int):
    problem = draw_problem(random.Random(seed), ops=ops)
    assert problem.ops == ops
    assert sum(problem.step(place).count(";") for place in range(len(problem.order))) == ops  # a line each
    assert {word for word in problem.answer if len(word) == 1 and word.isalpha()} == set(problem.letters)


@settings(max_examples=40)
@given(case=CASES)
def test_every_edge_has_its_sentence_and_the_question_its_place(case: Case):
    problem = case.problem()
    structure = problem.dependency.structure
    *sentences, last = problem.question_text.split(". ") if problem.layout == "pq" else ["", ""]
    if problem.layout == "qp":
        last, _, rest = problem.question_text.partition("? ")
        last, sentences = last + "?", rest.removesuffix(".").split(". ")
    owner, thing = structure.name(problem.query)
    assert last == f"How many {thing} does {owner} have?"
    starts = sorted("The number of each {}'s {} equals".format(*structure.name(edge)) for edge in structure.instances)
    assert sorted(text[: text.index(" equals") + 7] for text in sentences) == starts
    assert spell(problem.question) == problem.question_text and words(problem.question_text) == problem.question
    assert spell(problem.answer) == problem.answer_text


@settings(max_examples=30)
@given(case=CASES, seed=SEEDS)
def test_another_question_is_about_the_same_sentences(case: Case, seed: int):
    problem = case.problem()
    before = pickle.dumps(problem)
    other = reask(problem, random.Random(seed))
    assert other.dependency is problem.dependency and other.layout == problem.layout
    assert set(other.order) == other.dependency.necessary(other.query)
    assert other.check(other.answer).right
    assert pickle.loads(before) == problem


def test_any_parameter_may_be_asked_for_again():
    problem, generator = draw_problem(random.Random(0), ops=3), random.Random(0)
    quantities = problem.dependency.structure.quantities
    assert {reask(problem, generator).query for _ in range(20 * len(quantities))} == set(quantities)


def test_splits_share_no_template():
    generator = random.Random(0)
    drawn = {split: [draw_problem(generator, split=split) for _ in range(40)] for split in ("train", "test")}
    for split, found in drawn.items():
        assert {split_of(problem) for problem in found} == {split}
        assert all((solution_hash(problem) < TRAIN_BINS) == (split == "train") for problem in found)
    train, test = ({sketch(p.dependency, p.order) for p in found} for found in drawn.values())
    assert len(train) > 20 and len(test) > 20 and not train & test


@settings(max_examples=30)
@given(case=CASES, seed=SEEDS)
def test_a_template_does_not_know_names_numbers_or_letters(case: Case, seed: int):
    problem = case.problem()
    generator, structure = random.Random(seed), problem.dependency.structure
    categories, items = draw_names(tuple(map(len, structure.items)), generator)
    definitions = [
        (quantity, said if said.number is None else replace(said, number=generator.randint(1, 22)))
        for quantity, said in problem.dependency.definitions
    ]
    generator.shuffle(definitions)
    other = Dependency(Structure(categories, items, structure.children), tuple(definitions))
    letters = "".join(generator.sample(problem.letters, len(problem.letters)))
    assert solution_hash(FullProblem(other, problem.order, letters)) == solution_hash(problem)


def test_a_template_is_the_text_without_them():
    dependency = Dependency(ZOOS, ((FOXES, Definition(2, (OWLS,), factor=True)), (OWLS, Definition(5))))
    assert sketch(dependency, (OWLS, FOXES, ANIMALS)) == (
        " Define Inst as a. so a = 0. Define Inst as b. so b = 0 * a = 0 * 0 = 0. "
        "Define Inter as c. so c = a + b = 0 + 0 = 0."
    )


def test_the_generator_alone_decides():
    drawn = []
    for seed in (0, 1):
        random.seed(seed)
        drawn.append(draw_problem(random.Random(5), ops=9))
    first, second = drawn
    assert first == second and hash(first) == hash(second) and first.question == second.question
    assert draw_problem(random.Random(6), ops=9) != first


def test_mistakes_are_the_words_that_delete():
    problem = FullProblem(Dependency(ZOOS, ((OWLS, Definition(5)), (FOXES, Definition(None, (OWLS,))))), (OWLS,), "a")
    assert problem.mistake(ANIMALS) == tuple("Define City Zoo 's Animal as BACK .".split())
    with pytest.raises(ValueError, match="one of the problem's"):
        problem.mistake(Quantity(ABSTRACT, 1, 0, 2))


def poss(structure: Structure) -> int:
    """Parameters with those of edges that could be there, as they were counted for the published figure."""
    widths = list(map(len, structure.items))
    totals = sum(width * (len(widths) - 1 - layer) for layer, width in enumerate(widths))
    return sum(a * b for a, b in pairwise(widths)) + totals


# The published means are of 150 problems of any number of operations, 30 of 15 and 15 of 23. The spreads are of 2,000
# problems of this generator, 600 of 15 and 500 of 23. A difference may be three standard errors of both means.
@pytest.mark.parametrize(
    ("ops", "what", "mean", "spread", "count"),
    [
        (None, "op", 5.4, 3.6, 150),
        (None, "steps", 4.5, 2.8, 150),
        (None, "sentences", 8.8, 4.1, 150),
        (None, "possible parameters", 22.9, 14.2, 150),
        (15, "steps", 11.2, 1.8, 30),
        (23, "steps", 15.1, 2.6, 15),
        (23, "possible parameters", 33.7, 17.5, 15),
    ],
)
def test_problems_are_as_large_as_those_of_the_paper(measured, ops, what, mean, spread, count):
    size = {
        "op": lambda p: p.ops,
        "steps": lambda p: len(p.order),
        "sentences": lambda p: len(p.dependency.definitions),
        "possible parameters": lambda p: poss(p.dependency.structure),
    }[what]
    sizes = [size(problem) for problem in measured[ops]]
    error = spread * math.sqrt(1 / count + 1 / len(sizes))
    assert abs(statistics.fmean(sizes) - mean) < 3 * error, (statistics.fmean(sizes), mean, error)


def test_operations_have_the_law_of_the_smaller_of_two_numbers(measured):
    law = {n: (2 * (15 - n) + 1) / 15**2 for n in range(1, 16)}
    mean = sum(n * p for n, p in law.items())
    assert math.isclose(mean, 5.51, abs_tol=0.005)
    spread = math.sqrt(sum((n - mean) ** 2 * p for n, p in law.items()))
    drawn = [problem.ops for problem in measured[None]]
    assert abs(statistics.fmean(drawn) - mean) < 4 * spread / math.sqrt(len(drawn))


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"ops": 0}, "ops must be from 1 to 52"),
        ({"ops": 53}, "the number of letters"),
        ({"level": "easy"}, "level must be"),
        ({"layout": "q"}, "layout must be"),
        ({"split": "dev"}, "split must be"),
    ],
)
def test_what_cannot_be_drawn_is_said(arguments, message):
    draw = getattr(draw_problem, "__wrapped__", draw_problem)  # without type checks, as outside of the tests
    with pytest.raises(ValueError, match=message):
        draw(random.Random(0), **arguments)


def test_a_number_of_operations_that_is_not_found_is_said(monkeypatch):
    monkeypatch.setattr(full, "draw_dependency", lambda *_: None)
    with pytest.raises(ValueError, match="some problem must have this number of operations; got ops=52"):
        draw_problem(random.Random(0), ops=52)


@pytest.mark.parametrize(
    ("order", "letters", "message"),
    [
        ((), "a", "parameter of the question"),
        ((FOXES,), "a", "too early"),
        ((OWLS, OWLS), "ab", "distinct parameters"),
        ((OWLS, FOXES), "a", "letters must be 2"),
        ((OWLS,), "aa", "letters must be 1"),
        ((OWLS,), "1", "letters must be 1"),
    ],
)
def test_solutions_that_cannot_be_are_refused(order, letters, message):
    dependency = Dependency(ZOOS, ((OWLS, Definition(5)), (FOXES, Definition(None, (OWLS,)))))
    with pytest.raises(ValueError, match=message):
        FullProblem(dependency, order, letters)


@pytest.mark.parametrize("name", ["Owl as Fox", "BACK Owl", "Owl  Fox", " Owl", "Owl. Fox", "Owl; Fox", "Owl?", ""])
def test_names_that_cannot_be_read_are_refused(name: str):
    structure = replace(ZOOS, items=((name,), ("Owl", "Fox")))
    dependency = Dependency(structure, ((OWLS, Definition(5)), (FOXES, Definition(6))))
    with pytest.raises(ValueError, match="names must be"):
        FullProblem(dependency, (OWLS,), "a")
