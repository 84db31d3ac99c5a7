"""Laws of small iGSM: problems are solvable as they say, of the size asked for, in their words, and as likely as described."""

import pickle
import random
from collections import Counter
from dataclasses import replace

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from written import LOGIC, LOGIC_STEPS, ORDER, RULES, STEPS, WRITTEN

from noiselab.tasks.igsm import Rule, SmallProblem, Words, draw_small
from noiselab.tasks.igsm.full import BINS, TRAIN_BINS
from noiselab.tasks.igsm.small import _random_order
from noiselab.tasks.igsm.small_text import NAMES, SIZES, template

SEEDS = st.integers(0, 2**32)
LEVELS = st.sampled_from(["logic", "nano", "micro"])
LAYOUTS = st.sampled_from(["pq", "qp"])


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


def test_problems_that_are_none_are_refused(unchecked):
    for wrong, why in (
        ({"order": ("bee", "dog", "cat", "elk", "ant")}, "each after its dependencies"),
        ({"order": ()}, "order must contain"),
        ({"order": ("fox", *ORDER)}, "and its dependencies"),
        ({"order": ("owl",)}, "order must"),
        ({"rules": (*RULES, RULES[0])}, "rules must define distinct"),
        ({"rules": (*RULES, ("whale", Rule((), 1)))}, "rules must define distinct"),
        ({"rules": (*RULES, ("owl", Rule(("hen",))))}, "operands must be"),
        ({"rules": (*RULES, ("owl", Rule(("bee", "bee"))))}, "operands must be"),
        ({"rules": (*RULES, ("owl", Rule((), 5)))}, "numbers below 5"),
        ({"rules": (*RULES, ("owl", Rule(("bee", "cat"), 3)))}, "none in a sum"),
        ({"rules": (*RULES, ("owl", Rule()))}, "operands or a number"),
        ({"rules": (*RULES, ("owl", Rule(("yak",))), ("yak", Rule(("owl",))))}, "contain a cycle"),
        ({"modulus": 1}, "modulus must be at least 2"),
        ({"layout": "qq"}, "layout must be"),
        ({"level": "logic", "modulus": None}, "only operands without values"),
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
