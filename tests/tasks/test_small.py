"""Laws of small iGSM: problems are solvable as they say, of the size asked for, and faults are found as what they are."""

import pickle
import random
from collections import Counter
from dataclasses import replace

import pytest
import torch
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from noiselab.tasks.igsm import Rule, SmallProblem, Verdict, Words, draw_small
from noiselab.tasks.igsm.full import BINS, TRAIN_BINS
from noiselab.tasks.igsm.small import _random_order
from noiselab.tasks.igsm.small_text import NAMES, SIZES, template

SEEDS = st.integers(0, 2**32)
LEVELS = st.sampled_from(["logic", "nano", "micro"])
LAYOUTS = st.sampled_from(["pq", "qp"])

# cat is 3 * 4 = 2 modulo 5, dog 4 + 2 = 1, elk 1, ant 1 + 4 = 0; fox and gnu are not needed.
RULES = (
    ("gnu", Rule(("fox", "dog"))),
    ("ant", Rule(("elk", "bee"))),
    ("bee", Rule((), 4)),
    ("dog", Rule(("bee", "cat"))),
    ("fox", Rule((), 2)),
    ("elk", Rule(("dog",))),
    ("cat", Rule(("bee",), 3)),
)
ORDER = ("bee", "cat", "dog", "elk", "ant")
WRITTEN = SmallProblem("nano", RULES, ORDER)
STEPS = (
    "D bee as 4 .",
    "D cat as 3 * bee = 3 * 4 = 2 .",
    "D dog as bee + cat = 4 + 2 = 1 .",
    "D elk as dog = 1 .",
    "D ant as elk + bee = 1 + 4 = 0 .",
)
LOGIC = SmallProblem("logic", tuple((name, Rule(rule.operands)) for name, rule in RULES), ORDER)
LOGIC_STEPS = ("D bee as known .", "D cat as bee .", "D dog as bee , cat .", "D elk as dog .", "D ant as elk , bee .")


def template_of(problem: SmallProblem) -> str:
    rules = dict(problem.rules)
    return template((name, rules[name]) for name in problem.order)


def test_a_written_problem_has_its_words():
    sentences = "gnu = fox + dog ; ant = elk + bee ; bee = 4 ; dog = bee + cat ; fox = 2 ; elk = dog ; cat = 3 * bee ;"
    assert " ".join(WRITTEN.question) == f"{sentences} ? ant :"
    assert " ".join(replace(WRITTEN, layout="qp").question) == f"? ant : {sentences}"
    assert " ".join(WRITTEN.answer) == " ".join(STEPS)
    assert WRITTEN.values == {"bee": 4, "cat": 2, "dog": 1, "elk": 1, "ant": 0, "fox": 2, "gnu": 3}
    assert " ".join(WRITTEN.mistake("gnu")) == "D gnu as BACK"
    assert WRITTEN.query == "ant" and WRITTEN.ops == 5 and WRITTEN.modulus == 5
    logic = "gnu = fox , dog ; ant = elk , bee ; bee = known ; dog = bee , cat ; fox = known ; elk = dog ; cat = bee ;"
    assert " ".join(LOGIC.question) == f"{logic} ? ant :"
    assert " ".join(LOGIC.answer) == " ".join(LOGIC_STEPS) and LOGIC.values == {} and LOGIC.modulus is None


@settings(max_examples=60)
@given(seed=SEEDS, level=LEVELS, layout=LAYOUTS, ops=st.one_of(st.none(), st.integers(1, 9)))
def test_every_drawn_problem_is_sound(seed: int, level, layout, ops):
    problem = draw_small(random.Random(seed), level=level, layout=layout, ops=ops)
    size = SIZES[level]
    assert problem.ops == ops if ops else size.ops[0] <= problem.ops <= size.ops[1]
    assert problem.ops <= len(problem.needs) <= max(size.parameters, problem.ops + size.parameters - size.ops[1])
    verdict = problem.check(problem.answer)
    assert verdict.right and verdict.kind is None and verdict.step is None and verdict.why == ""
    assert verdict.parameters == problem.order and verdict.retries == verdict.unnecessary == 0
    assert problem.check(" ".join(problem.answer)).right
    for place, name in enumerate(problem.order):
        known = problem.order[:place]
        assert name in problem.ready(known)
        assert name == problem.query or any(name in problem.needs[user] for user in problem.order[place + 1 :])
    for name, needed in problem.needs.items():
        assert len(set(needed)) == len(needed) <= 2 and problem.needs.keys() >= set(needed)
        assert name not in problem.order or set(needed) <= set(problem.order)
    question, asked = list(problem.question), ["?", problem.query, ":"]
    assert question[:3] == asked if layout == "qp" else question[-3:] == asked
    assert question.count(";") == len(problem.needs)


@settings(max_examples=40)
@given(seed=SEEDS, level=LEVELS, layout=LAYOUTS)
def test_the_words_of_a_level_are_closed(seed: int, level, layout):
    problem, words = draw_small(random.Random(seed), level=level, layout=layout), Words(level)
    said = (*problem.question, *problem.mistake(problem.query), *problem.answer)
    ids = words.encode(said)
    assert words.decode(ids) == words.decode(ids.tolist()) == said
    assert ids.dtype == torch.long and int(ids.min()) > max(words.padding, words.start, words.end)
    assert words.entries[words.full_stop] == "." and words.entries[words.back] == "BACK"
    assert len(set(words.entries)) == len(words) == words.size


def test_each_word_of_a_level_is_used():
    generator, seen = random.Random(0), {"logic": set(), "nano": set(), "micro": set()}
    for level, found in seen.items():
        for _ in range(150):
            problem = draw_small(generator, level=level)
            found.update(problem.question, problem.answer)
        assert found == set(Words(level).entries[4:])
    assert {str(number) for number in range(7)} <= set(Words("nano", modulus=7).entries)


def test_words_name_what_is_wrong(unchecked):
    with pytest.raises(ValueError, match="'whale'"):
        Words("nano").encode(["ant", "whale"])
    with pytest.raises(ValueError, match="got 42"):
        Words("nano").decode([0, 42])
    with pytest.raises(ValueError, match="level must be"):
        Words("mini")
    for level in ("logic", "med"):
        with pytest.raises(ValueError, match="modulus must be None"):
            Words(level, modulus=5)
    assert repr(Words("nano", modulus=7)) == "Words('nano', modulus=7)" and Words("hard").size == Words("med").size


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
    # The step before was taken back.
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
        "the problem says 4 for bee, and 3 is cited",
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
@given(seed=SEEDS, level=LEVELS)
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


def test_problems_that_are_none_are_refused(unchecked):
    for wrong, why in (
        ({"order": ("bee", "dog", "cat", "elk", "ant")}, "each after all that it needs"),
        ({"order": ()}, "order must have"),
        ({"order": ("fox", *ORDER)}, "all that it needs"),
        ({"order": ("owl",)}, "order must be"),
        ({"rules": (*RULES, RULES[0])}, "rules must be of different"),
        ({"rules": (*RULES, ("whale", Rule((), 1)))}, "rules must be of different"),
        ({"rules": (*RULES, ("owl", Rule(("hen",))))}, "operands must be"),
        ({"rules": (*RULES, ("owl", Rule(("bee", "bee"))))}, "operands must be"),
        ({"rules": (*RULES, ("owl", Rule((), 5)))}, "numbers below 5"),
        ({"rules": (*RULES, ("owl", Rule(("bee", "cat"), 3)))}, "none in a sum"),
        ({"rules": (*RULES, ("owl", Rule()))}, "operands or a number"),
        ({"rules": (*RULES, ("owl", Rule(("yak",))), ("yak", Rule(("owl",))))}, "need itself"),
        ({"modulus": 1}, "modulus must be at least 2"),
        ({"layout": "qq"}, "layout must be"),
        ({"level": "logic", "modulus": None}, "no number without values"),
        ({"level": "logic"}, "modulus must be None"),
        ({"level": "mini"}, "level must be"),
    ):
        values = {"level": "nano", "rules": RULES, "order": ORDER, "modulus": 5, "layout": "pq"} | wrong
        with pytest.raises(ValueError, match=why):
            SmallProblem(**values)
    for parameter in ("owl", 3):
        with pytest.raises(ValueError, match="parameter must be one of"):
            WRITTEN.mistake(parameter)


def test_arguments_of_the_draw_are_checked(unchecked):
    for wrong, why in (
        ({"ops": 0}, "ops must be from 1 to 24"),
        ({"ops": (4, 2)}, "the lowest first"),
        ({"ops": 13, "level": "micro"}, "1 to 12"),
        ({"ops": 4, "parameters": 3}, "parameters must be from 4"),
        ({"parameters": 25}, "to 24"),
        ({"layout": "x"}, "layout"),
        ({"split": "x"}, "split"),
        ({"level": "med"}, "level"),
        ({"ops": 1, "split": "test"}, "none in 2000 draws of split='test'"),
        ({"level": "logic", "modulus": 7}, "modulus"),
    ):
        with pytest.raises(ValueError, match=why):
            draw_small(random.Random(0), **wrong)


def test_draws_hang_on_the_generator_alone():
    first, again = ([draw_small(g, split="test") for _ in range(5)] for g in (random.Random(3), random.Random(3)))
    assert first == again and len(set(map(str, first))) == 5
    assert pickle.loads(pickle.dumps(first)) == first
    assert draw_small(random.Random(4)) != draw_small(random.Random(3))


def test_numbers_of_a_draw_are_those_that_were_asked_for():
    generator = random.Random(0)
    assert {draw_small(generator, ops=(3, 5)).ops for _ in range(60)} == {3, 4, 5}
    assert {len(draw_small(generator, parameters=12).needs) for _ in range(20)} == {12}
    assert {len(draw_small(generator, ops=10).needs) for _ in range(80)} == {10, 11, 12, 13}
    assert draw_small(generator, ops=24).ops == 24
    assert {draw_small(generator, modulus=2, ops=4).modulus for _ in range(5)} == {2}


@pytest.mark.parametrize("level, ops", [("nano", (2, 6)), ("micro", (2, 4)), ("logic", (3, 6))])
def test_splits_have_no_template_in_common(level, ops):
    generator, found = random.Random(0), {}
    for split in ("train", "test"):
        drawn = [draw_small(generator, level=level, ops=ops, split=split) for _ in range(250)]
        assert {problem.split for problem in drawn} == {split}
        assert {problem.ops for problem in drawn} == set(range(ops[0], ops[1] + 1)), "short ones are in both"
        found[split] = set(map(template_of, drawn))
    assert not found["train"] & found["test"]


def test_splits_hang_on_templates_and_have_their_shares():
    renamed = tuple(
        (name.replace("bee", "owl"), Rule(tuple(o.replace("bee", "owl") for o in r[0]), r[1])) for name, r in RULES
    )
    other_numbers = tuple((n, Rule(r.operands[::-1], None if r.number is None else 1)) for n, r in renamed[::-1])
    same = SmallProblem("nano", other_numbers, ("owl", *ORDER[1:]), layout="qp")
    assert template_of(same) == template_of(WRITTEN) == "[]n;[0]n;[0, 1];[2];[0, 3]" and same.split == WRITTEN.split
    generator = random.Random(0)
    share = sum(draw_small(generator, ops=7).split == "train" for _ in range(1000)) / 1000
    assert abs(share - TRAIN_BINS / BINS) < 0.07  # templates of 7 steps are many, but not equally likely


def test_random_problems_are_as_they_are_described():
    generator = random.Random(0)
    problems = [draw_small(generator) for _ in range(1500)]
    ops = Counter(problem.ops for problem in problems)
    assert all(abs(ops[n] - 300) < 5 * 300**0.5 for n in range(2, 7))
    totals = Counter(len(problem.needs) for problem in problems if problem.ops == 6)
    assert totals.keys() == {6, 7, 8, 9} and min(totals.values()) > 40
    names = Counter(name for problem in problems for name in problem.needs)
    mean = sum(names.values()) / len(NAMES)
    assert all(abs(names[name] - mean) < 5 * mean**0.5 for name in NAMES)
    places = Counter(list(p.needs).index(p.query) for p in problems if len(p.needs) == 9)
    assert places.keys() == set(range(9)), "sentences are shuffled"
    forms = Counter(
        (len(rule.operands), rule.number is None) for p in problems for name, rule in p.rules if name in p.order[1:]
    )
    assert abs(forms[1, True] - forms[1, False]) < 5 * (2 * forms[1, True]) ** 0.5
    assert forms.keys() == {(0, False), (1, False), (1, True), (2, True)}
    assert 0.05 < forms[0, False] / forms.total() < 0.1 and 0.3 < forms[2, True] / forms.total() < 0.4
    apart = sum(set(p.needs[n]) <= set(p.needs) - set(p.order) for p in problems for n in p.needs if n not in p.order)
    assert 0.5 < apart / sum(len(p.needs) - p.ops for p in problems) < 0.8


def test_the_next_step_is_any_that_is_possible():
    rules = {"ant": Rule((), 1), "bee": Rule(("ant",)), "cat": Rule((), 2), "dog": Rule(("bee", "cat"))}
    generator = random.Random(0)
    orders = Counter(_random_order(rules, generator)[:3] for _ in range(800))
    shares = {("cat", "ant", "bee"): 1 / 2, ("ant", "bee", "cat"): 1 / 4, ("ant", "cat", "bee"): 1 / 4}
    assert orders.keys() == shares.keys()
    for order, share in shares.items():
        assert abs(orders[order] - 800 * share) < 4 * (800 * share * (1 - share)) ** 0.5


def test_operands_are_in_any_order():
    generator = random.Random(0)
    rising = [
        problem.order.index(rule.operands[0]) < problem.order.index(rule.operands[1])
        for problem in (draw_small(generator) for _ in range(600))
        for name, rule in problem.rules
        if name in problem.order and len(rule.operands) == 2
    ]
    assert abs(sum(rising) / len(rising) - 0.5) < 2.5 / len(rising) ** 0.5
