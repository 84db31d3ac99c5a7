"""The small levels of iGSM: what is drawn is what was asked for, and the checker names each fault."""

import random
from itertools import pairwise

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from noiselab.tasks.igsm import Words, draw_small

LEVELS = ("logic", "nano", "micro")
HAND = draw_small(random.Random(3), level="nano", ops=4)
RIGHT = "D ram as 3 . D elk as 2 * ram = 2 * 3 = 1 . D lynx as ram = 3 . D toad as elk + lynx = 1 + 3 = 4 ."


@given(st.integers(0, 10**6), st.sampled_from(LEVELS), st.sampled_from(["pq", "qp"]))
def test_what_is_drawn(seed, level, layout):
    problem = draw_small(random.Random(seed), level=level, layout=layout)
    again = draw_small(random.Random(seed), level=level, layout=layout)
    assert problem == again  # all randomness is the generator's
    assert problem.check(problem.answer).right
    # Every step needs only what is known, and every one but the last is needed later.
    known = []
    for place, parameter in enumerate(problem.order):
        assert parameter in problem.ready(known)
        known.append(parameter)
        later = problem.order[place + 1 :]
        assert not later or any(parameter in problem.needs[p] for p in later)
    # What is not in the solution is needed by nothing in it.
    assert not {n for p in problem.order for n in problem.needs[p]} - set(problem.order)
    words = Words(level)
    assert words.decode(words.encode((*problem.question, *problem.answer))) == (*problem.question, *problem.answer)


def test_the_number_of_steps_is_that_asked_for():
    for ops in (1, 3, 6):
        assert len(draw_small(random.Random(0), level="nano", ops=ops).order) == ops
    counts = [len(draw_small(random.Random(seed), level="nano").order) for seed in range(300)]
    assert {2, 3, 4, 5, 6} == set(counts)
    sizes = [len(draw_small(random.Random(seed), level="micro").needs) for seed in range(100)]
    assert max(sizes) <= 6


def test_train_and_test_share_no_template():
    seen = {}
    for split in ("train", "test"):
        for seed in range(150):
            problem = draw_small(random.Random(seed), level="logic", ops=(3, 6), split=split)
            number = {p: i for i, p in enumerate(problem.order)}
            template = tuple(tuple(sorted(number[n] for n in problem.needs[p])) for p in problem.order)
            seen.setdefault(split, set()).add(template)
    assert len(seen["train"]) > 20 and not seen["train"] & seen["test"]


FAULTS = {
    "": "empty",
    "D ram as 3 .": "answer",
    "D elk as 2 * ram = 2 * 3 = 1 .": "skip",
    "D ram as 3 . D elk as ram = 3 .": "skip",
    "D ram as 3 . D elk as 2 * ram = 2 * 4 = 3 .": "cited",
    "D ram as 3 . D elk as 2 * ram = 2 * 3 = 2 .": "arithmetic",
    "D ram as 3 . D ram as 3 .": "repeated",
    "D zebra as 3 .": "parse",  # no word of the level
    "D yak as 3 .": "unknown",
    "ram ram ram": "parse",
    "D ram as 3 . D elk": "parse",
}


@pytest.mark.parametrize("solution", FAULTS)
def test_each_fault_is_named(solution):
    verdict = HAND.check(solution.split())
    assert not verdict.right and verdict.kind == FAULTS[solution], verdict


def test_right_solutions_written_by_hand():
    assert " ".join(HAND.answer) == RIGHT and HAND.check(RIGHT.split()).right
    retried = RIGHT.replace("D elk as", "D cat as BACK D elk as", 1)
    verdict = HAND.check(retried.split())
    assert verdict.right and verdict.retries == 1 and verdict.unnecessary == 0
    extra = RIGHT.replace("D toad as", "D ant as 3 . D toad as", 1)
    verdict = HAND.check(extra.split())
    assert verdict.right and verdict.unnecessary == 1


@given(st.lists(st.sampled_from([*Words("nano").entries, "nonsense"]), max_size=30))
def test_garbage_is_never_right_and_never_an_error(words):
    assert not HAND.check(words).right or " ".join(words) == RIGHT


@given(st.integers(0, 10**6), st.integers(0, 10**6))
def test_one_word_exchanged_is_wrong(seed, where):
    problem = draw_small(random.Random(seed), level="nano", ops=4)
    words, chooser = list(problem.answer), random.Random(where)
    place = chooser.randrange(len(words))
    other = chooser.choice([e for e in Words("nano").entries[4:] if e != words[place]])
    assert not problem.check([*words[:place], other, *words[place + 1 :]]).right


def test_what_does_not_fit_is_refused():
    with pytest.raises(ValueError):
        draw_small(random.Random(0), level="nano", ops=0)
    with pytest.raises(ValueError):
        Words("nano").encode(["nonsense"])
    with pytest.raises(ValueError):
        Words("nano").decode(torch.tensor([10**6]))
    entries = Words("micro").entries
    assert len(set(entries)) == len(entries) and all(a != b for a, b in pairwise(entries))
