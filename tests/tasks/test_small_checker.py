"""The checker of small iGSM: faults are found where they are and as what they are; right solutions are right."""

import random

import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from written import LOGIC, LOGIC_STEPS, ORDER, STEPS, WRITTEN

from noiselab.tasks.igsm import Verdict, Words, draw_small
from noiselab.tasks.igsm.small_text import NAMES

SEEDS = st.integers(0, 2**32)

WRONG = {
    "": (None, "empty"),
    "hello": (0, "parse"),
    ".": (0, "parse"),
    "D bee as 4": (0, "parse"),
    "D bee as 7 .": (0, "parse"),
    "D bee = 4 .": (0, "parse"),
    "D bee as .": (0, "parse"),
    "D bee as 4 . .": (1, "parse"),
    "D 4 as 4 .": (0, "parse"),
    f"{STEPS[0]} D cat as 3 * bee = 3 * 4 .": (1, "parse"),
    "D owl as 4 .": (0, "unknown"),
    f"{STEPS[0]} D cat as 3 * owl = 3 * 4 = 2 .": (1, "unknown"),
    "D bee as 3 .": (0, "cited"),
    f"{STEPS[0]} D cat as 2 * bee = 2 * 4 = 3 .": (1, "cited"),
    f"{STEPS[0]} D cat as 3 * bee = 2 * 4 = 2 .": (1, "cited"),
    f"{STEPS[0]} D cat as 3 * bee = 3 * 3 = 2 .": (1, "cited"),
    f"{' '.join(STEPS[:3])} D elk as dog = 2 .": (3, "cited"),
    f"{STEPS[0]} D cat as 3 * bee = 3 * 4 = 3 .": (1, "arithmetic"),
    f"{STEPS[0]} {STEPS[0]}": (1, "repeated"),
    f"{STEPS[0]} D cat as bee = 4 .": (1, "skip"),
    f"{STEPS[0]} D cat as 4 .": (1, "skip"),
    f"{STEPS[0]} {STEPS[2]}": (1, "skip"),
    f"{STEPS[1]}": (0, "skip"),
    f"{' '.join(STEPS[:2])} D dog as cat + bee = 2 + 4 = 1 .": (2, "skip"),
    f"{' '.join(STEPS[:2])} D dog as bee + bee = 4 + 4 = 3 .": (2, "skip"),
    f"{' '.join(STEPS[:4])}": (3, "answer"),
    f"{' '.join(STEPS)} D fox as 2 .": (5, "answer"),
    # The step before was deleted.
    f"{' '.join(STEPS[:2])} BACK {STEPS[2]}": (1, "skip"),
}


@pytest.mark.parametrize("solution", WRONG)
def test_wrong_solutions_are_found_out(solution: str):
    verdict = WRITTEN.check(solution)
    assert not verdict.right and (verdict.step, verdict.kind) == WRONG[solution] and verdict.why
    assert WRITTEN.check(tuple(solution.split())) == verdict


def test_right_solutions_may_have_retries_and_more_than_is_needed():
    retried = f"D gnu as BACK D elk as dog = BACK {STEPS[0]} D dog as BACK {' '.join(STEPS[1:])}"
    verdict = WRITTEN.check(retried)
    assert verdict.right and verdict.retries == 3 and verdict.parameters == ORDER
    more = WRITTEN.check(f"D fox as 2 . {' '.join(STEPS[:3])} D gnu as fox + dog = 2 + 1 = 3 . {' '.join(STEPS[3:])}")
    assert more.right and more.unnecessary == 2 and more.parameters == ("fox", *ORDER[:3], "gnu", *ORDER[3:])
    assert WRITTEN.check(f"BACK {' '.join(STEPS)}").right, "a BACK on nothing does nothing"
    twice = WRITTEN.check(f"{STEPS[0]} BACK {' '.join(STEPS)}")
    assert twice.right and twice.retries == 1


def test_the_wrong_parameter_is_the_last_of_the_verdict():
    assert WRITTEN.check(f"{STEPS[0]} D dog as bee + cat = 4 + 2 = 1 .").parameters == ("bee", "dog")
    assert WRITTEN.check("D fox as 2 . D gnu BACK D bee as 3 .") == Verdict(
        False,
        1,
        "cited",
        "the problem states 4 for bee; the step cites 3",
        retries=1,
        unnecessary=1,
        parameters=("fox", "bee"),
    )


def test_logic_has_steps_without_values():
    assert LOGIC.check(" ".join(LOGIC_STEPS)).right
    found = {
        "D bee as 4 .": "parse",
        "D bee as cat .": "skip",
        "D cat as known .": "skip",
        "D cat as bee .": "skip",
        "D bee as known . D cat as owl .": "unknown",
        "D bee as known . D bee as known .": "repeated",
        "D bee as known .": "answer",
        "D bee as known . D dog as bee , cat .": "skip",
        "D bee as known . D cat as bee . D dog as cat , bee .": "skip",
    }
    assert {text: LOGIC.check(text).kind for text in found} == found


def other(generator: random.Random, numbers: int, number: str) -> str:
    return str((int(number) + generator.randrange(1, numbers)) % numbers)


class Drawn:
    """A random problem with its steps, to put a fault in."""

    def __init__(self, seed: int):
        self.random = random.Random(seed)
        self.problem = draw_small(self.random, ops=6)
        self.rules = dict(self.problem.rules)
        self.steps = [list(self.problem.step(place)) for place in range(6)]

    def place(self, fits) -> int:
        places = [place for place, name in enumerate(self.problem.order) if fits(place, self.rules[name])]
        assume(places)
        return self.random.choice(places)

    def user(self, place: int) -> int:
        return next(i for i, name in enumerate(self.problem.order) if self.problem.order[place] in self.rules[name][0])


def skipped(drawn: Drawn):
    place = drawn.place(lambda place, _: place < 5)
    user = drawn.user(place)
    del drawn.steps[place]
    return user - 1, "skip"


def used_too_early(drawn: Drawn):
    place = drawn.place(lambda place, _: place < 5)
    user = drawn.user(place)
    drawn.steps.insert(user, drawn.steps.pop(place))
    return user - 1, "skip"


def another_operand(drawn: Drawn):
    place = drawn.place(lambda place, rule: place > 1 and len(rule.operands) == 1 and rule.number is None)
    step = drawn.steps[place]
    step[3] = drawn.random.choice([name for name in drawn.problem.order[:place] if name != step[3]])
    step[5] = str(drawn.problem.values[step[3]])
    return place, "skip"


def operands_exchanged(drawn: Drawn):
    place = drawn.place(lambda _, rule: len(rule.operands) == 2)
    step = drawn.steps[place]
    step[3], step[5], step[7], step[9] = step[5], step[3], step[9], step[7]
    return place, "skip"


def wrong_result(drawn: Drawn):
    place = drawn.place(lambda _, rule: len(rule.operands) + (rule.number is not None) == 2)
    drawn.steps[place][-2] = other(drawn.random, 5, drawn.steps[place][-2])
    return place, "arithmetic"


def wrong_citation(drawn: Drawn):
    place = drawn.place(lambda _, rule: len(rule.operands) > 0)
    step = drawn.steps[place]
    at = 5 if len(step) == 7 else drawn.random.choice([7, 9])
    step[at] = other(drawn.random, 5, step[at])
    return place, "cited"


def wrong_number(drawn: Drawn):
    place = drawn.place(lambda _, rule: rule.number is not None)
    drawn.steps[place][3] = other(drawn.random, 5, drawn.steps[place][3])
    return place, "cited"


def found_twice(drawn: Drawn):
    place = drawn.place(lambda *_: True)
    later = drawn.random.randint(place + 1, 6)
    drawn.steps.insert(later, drawn.steps[place])
    return later, "repeated"


def strange_parameter(drawn: Drawn):
    place = drawn.place(lambda *_: True)
    drawn.steps[place][1] = drawn.random.choice([name for name in NAMES if name not in drawn.rules])
    return place, "unknown"


def strange_operand(drawn: Drawn):
    place = drawn.place(lambda _, rule: len(rule.operands) == 2)
    drawn.steps[place][5] = drawn.random.choice([name for name in NAMES if name not in drawn.rules])
    return place, "unknown"


def no_answer(drawn: Drawn):
    drawn.steps.pop()
    return 4, "answer"


def no_end(drawn: Drawn):
    drawn.steps[-1].pop()
    return 5, "parse"


def word_left_out(drawn: Drawn):
    place = drawn.place(lambda *_: True)
    del drawn.steps[place][drawn.random.choice([0, 2])]
    return place, "parse"


FAULTS = (
    skipped,
    used_too_early,
    another_operand,
    operands_exchanged,
    wrong_result,
    wrong_citation,
    wrong_number,
    found_twice,
    strange_parameter,
    strange_operand,
    no_answer,
    no_end,
    word_left_out,
)


@pytest.mark.parametrize("fault", FAULTS, ids=lambda fault: fault.__name__)
@settings(max_examples=15)
@given(seed=SEEDS)
def test_each_fault_is_found_where_it_is_and_as_what_it_is(fault, seed: int):
    drawn = Drawn(seed)
    place, kind = fault(drawn)
    verdict = drawn.problem.check([word for step in drawn.steps for word in step])
    assert not verdict.right and (verdict.step, verdict.kind) == (place, kind) and verdict.why


@settings(max_examples=60)
@given(seed=SEEDS, level=st.sampled_from(["logic", "nano", "micro"]))
def test_no_other_word_will_do(seed: int, level):
    generator = random.Random(seed)
    problem = draw_small(generator, level=level)
    answer, words = list(problem.answer), [word for word in Words(level).entries if word != "BACK"]
    at = generator.randrange(len(answer))
    word = generator.choice([word for word in words if word != answer[at]])
    assert not problem.check([*answer[:at], word, *answer[at + 1 :]]).right
    assert not problem.check([*answer[:at], *answer[at + 1 :]]).right
    assert not problem.check([*answer[:at], generator.choice(words), *answer[at:]]).right


@settings(max_examples=100)
@given(words=st.lists(st.one_of(st.sampled_from(Words("nano").entries), st.text(max_size=3)), max_size=25))
def test_garbage_is_wrong_and_raises_nothing(words: list[str]):
    for problem in (WRITTEN, LOGIC):
        verdict = problem.check(words)
        assert not verdict.right and verdict.kind and verdict.retries == words.count("BACK")
        problem.check(" ".join(words))
