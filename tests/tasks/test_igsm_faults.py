"""Laws of the checker of full iGSM on random problems: each single fault is found, where it is and as what it is."""

import random
from dataclasses import replace
from string import ascii_letters

import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from noiselab.tasks.igsm.dependency import Dependency
from noiselab.tasks.igsm.formula import Definition
from noiselab.tasks.igsm.full import draw_problem
from noiselab.tasks.igsm.structure import INSTANCE
from noiselab.tasks.igsm.text import mistake, solution, words

SEEDS = st.integers(0, 2**32)


class Drawn:
    """A random problem with its steps, and letters that are free."""

    def __init__(self, seed: int, ops: int = 8):
        self.random = random.Random(seed)
        self.problem = draw_problem(self.random, ops=ops)
        self.dependency, self.order = self.problem.dependency, self.problem.order
        self.steps = [list(self.problem.step(place)) for place in range(len(self.order))]
        self.free = [letter for letter in ascii_letters if letter not in self.problem.letters]

    def user(self, place: int) -> int:
        """The first step that needs the parameter of another."""
        return next(i for i, q in enumerate(self.order) if self.order[place] in self.problem.needs[q])

    def place(self, *, last: bool = True, first: bool = True) -> int:
        places = range(0 if first else 1, len(self.order) - (not last))
        assume(len(places))
        return self.random.choice(places)

    def verdict(self, steps):
        return self.problem.check([word for step in steps for word in step])


def skipped(drawn: Drawn):
    place = drawn.place(last=False)
    return [*drawn.steps[:place], *drawn.steps[place + 1 :]], drawn.user(place) - 1


def used_too_early(drawn: Drawn):
    place = drawn.place(last=False)
    user, steps = drawn.user(place), list(drawn.steps)
    steps.insert(user, steps.pop(place))
    return steps, user - 1


def other_dependencies(drawn: Drawn):
    places = [i for i, q in enumerate(drawn.order) if q.kind == INSTANCE and i > 0]
    assume(places)
    place = drawn.random.choice(places)
    quantity = drawn.order[place]
    old = dict(drawn.dependency.definitions)[quantity]
    operands = tuple(drawn.random.sample(drawn.order[:place], drawn.random.randint(1, min(place, 3))))
    new = Definition(drawn.random.choice((None, 5)), operands)
    assume((set(new.operands), new.number is None) != (set(old.operands), old.number is None))
    definitions = tuple((q, new if q == quantity else said) for q, said in drawn.dependency.definitions)
    letters = (*drawn.problem.letters, *drawn.free)
    return map(words, solution(Dependency(drawn.dependency.structure, definitions), drawn.order, letters)), place


def numbers_after(step: list[str], side: int) -> list[int]:
    """Where the numbers of one side of the equations with three or two sides are."""
    found, start = [], step.index(";") + 1
    for end in [i for i, word in enumerate(step) if word in (";", ".") and i >= start]:
        marks = [i for i in range(start, end) if step[i] == "="]
        if len(marks) > 1:
            edges = [*marks, end]
            found += [i for i in range(edges[side] + 1, edges[side + 1]) if step[i].isdigit()]
        start = end + 1
    return found


def with_another_number(drawn: Drawn, choices):
    places = [(i, j) for i, step in enumerate(drawn.steps) for j in choices(step)]
    assume(places)
    place, word = drawn.random.choice(places)
    step = list(drawn.steps[place])
    step[word] = str((int(step[word]) + drawn.random.randint(1, 22)) % 23)
    return [*drawn.steps[:place], step, *drawn.steps[place + 1 :]], place


def cited_wrongly(drawn: Drawn):
    return with_another_number(drawn, lambda step: numbers_after(step, 1))


def calculated_wrongly(drawn: Drawn):
    signs = {"+", "-", "*"}
    return with_another_number(drawn, lambda step: numbers_after(step, 2) if signs & set(step) else [])


def of_nobody(drawn: Drawn):
    place = drawn.place()
    steps = list(drawn.steps)
    steps[place] = ["Define", "Nobody", *steps[place][steps[place].index("'s") :]]
    return steps, place


def defined_again(drawn: Drawn):
    place = drawn.place(last=False)
    fresh = iter(drawn.free)
    names = {letter: next(fresh) for letter in drawn.steps[place] if letter in drawn.problem.letters}
    known = {drawn.steps[i][drawn.steps[i].index("as") + 1] for i in range(place)}
    again = [names[word] if word in names and word not in known else word for word in drawn.steps[place]]
    return [*drawn.steps[: place + 1], again, *drawn.steps[place + 1 :]], place + 1


def symbol_again(drawn: Drawn):
    place = drawn.place(first=False)
    old, new = (drawn.steps[i][drawn.steps[i].index("as") + 1] for i in (place, drawn.random.randrange(place)))
    renamed = [[new if word == old else word for word in step] for step in drawn.steps[place:]]
    return [*drawn.steps[:place], *renamed], place


def other_answer(drawn: Drawn):
    numbers = [q for q, said in drawn.dependency.definitions if said.number is not None and q in drawn.order]
    assume(numbers)
    quantity = drawn.random.choice(numbers)
    definitions = tuple(
        (q, replace(said, number=said.number % 22 + 1) if q == quantity else said)
        for q, said in drawn.dependency.definitions
    )
    other = Dependency(drawn.dependency.structure, definitions)
    assume(other.values[drawn.problem.query] != drawn.problem.value)
    return map(words, solution(other, drawn.order, drawn.problem.letters)), len(drawn.order) - 1


def answer_left_out(drawn: Drawn):
    assume(len(drawn.order) > 1)
    return drawn.steps[:-1], len(drawn.order) - 2


def extended(drawn: Drawn, place: int):
    """The order with one more parameter, before the step `place` at the earliest."""
    ready = [q for q in drawn.problem.ready(drawn.order[:place]) if q not in drawn.order]
    assume(ready)
    return (*drawn.order[:place], drawn.random.choice(ready), *drawn.order[place:])


def other_parameter_last(drawn: Drawn):
    order = extended(drawn, len(drawn.order))
    letters = (*drawn.problem.letters, *drawn.free)
    return map(words, solution(drawn.dependency, order, letters)), len(drawn.order)


def garbage(drawn: Drawn):
    place = drawn.place()
    return [*drawn.steps[:place], ["so", "it", "is", "7", "."], *drawn.steps[place:]], place


def word_too_much(drawn: Drawn):
    place = drawn.place()
    step = list(drawn.steps[place])
    step.insert(drawn.random.randrange(step.index(";") + 1, len(step)), "banana")
    return [*drawn.steps[:place], step, *drawn.steps[place + 1 :]], place


FAULTS = {
    skipped: "skip",
    used_too_early: "skip",
    other_dependencies: "skip",
    cited_wrongly: "cited",
    calculated_wrongly: "arithmetic",
    of_nobody: "unknown",
    defined_again: "repeated",
    symbol_again: "repeated",
    other_answer: "answer",
    answer_left_out: "answer",
    other_parameter_last: "answer",
    garbage: "parse",
    word_too_much: "parse",
}


@pytest.mark.parametrize("fault", FAULTS, ids=lambda fault: fault.__name__)
@settings(max_examples=30)
@given(seed=SEEDS, ops=st.integers(2, 12))
def test_each_fault_is_found_where_it_is(fault, seed: int, ops: int):
    drawn = Drawn(seed, ops)
    steps, place = fault(drawn)
    verdict = drawn.verdict(steps)
    assert not verdict.right and (verdict.kind, verdict.step) == (FAULTS[fault], place), verdict
    assert verdict.why and len(verdict.parameters) in (place, place + 1)


@settings(max_examples=40)
@given(seed=SEEDS, ops=st.integers(1, 12))
def test_steps_that_are_deleted_and_steps_in_vain_are_counted(seed: int, ops: int):
    drawn = Drawn(seed, ops)
    order = extended(drawn, drawn.random.randrange(len(drawn.order)))
    steps = list(map(words, solution(drawn.dependency, order, (*drawn.problem.letters, *drawn.free))))
    deleted = drawn.random.randrange(5)
    for _ in range(deleted):
        quantity = drawn.random.choice(drawn.dependency.structure.quantities)
        steps.insert(drawn.random.randint(0, len(steps)), words(mistake(drawn.dependency.structure, quantity)))
    verdict = drawn.verdict(steps)
    assert verdict.right and (verdict.retries, verdict.unnecessary) == (deleted, 1)
    assert verdict.parameters == order


@settings(max_examples=60)
@given(seed=SEEDS, ops=st.integers(1, 12))
def test_no_word_can_be_another(seed: int, ops: int):
    drawn = Drawn(seed, ops)
    right = [word for step in drawn.steps for word in step]
    vocabulary = sorted({*right, *map(str, range(23)), *ascii_letters, *drawn.problem.question, "BACK"})
    for _ in range(20):
        place = drawn.random.randrange(len(right))
        word = drawn.random.choice([word for word in vocabulary if word != right[place]])
        verdict = drawn.problem.check([*right[:place], word, *right[place + 1 :]])
        assert not verdict.right, (place, right[place], word)
