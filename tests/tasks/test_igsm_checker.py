"""The checker of full iGSM on solutions written by hand, right and wrong, and on anything else."""

from dataclasses import replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from noiselab.tasks.igsm.dependency import Dependency
from noiselab.tasks.igsm.formula import Definition
from noiselab.tasks.igsm.full import FullProblem
from noiselab.tasks.igsm.structure import Structure
from noiselab.tasks.igsm.text import words

STRUCTURE = Structure(
    ("School", "Classroom", "Backpack"),
    (("Oak School", "Elm School"), ("Art Room", "Lab Room"), ("Red Satchel",)),
    (((0, 1), (1,)), ((0,), (0,))),
)


def of(owner: str, thing: str):
    return STRUCTURE.find(owner, thing)


OAK_ART, OAK_LAB, ELM_LAB = of("Oak School", "Art Room"), of("Oak School", "Lab Room"), of("Elm School", "Lab Room")
ART_RED, LAB_RED = of("Art Room", "Red Satchel"), of("Lab Room", "Red Satchel")
ART_ALL, LAB_ALL, OAK_ALL = (of(owner, "Backpack") for owner in ("Art Room", "Lab Room", "Oak School"))

PROBLEM = FullProblem(
    Dependency(
        STRUCTURE,
        (
            (ELM_LAB, Definition(None, (OAK_ALL, OAK_LAB), difference=True)),
            (LAB_RED, Definition(12, (OAK_ART, ART_RED))),
            (OAK_ART, Definition(13)),
            (OAK_LAB, Definition(2, (OAK_ART,), factor=True)),
            (ART_RED, Definition(7)),
        ),
    ),
    (OAK_ART, ART_RED, ART_ALL, LAB_RED, LAB_ALL, OAK_LAB, OAK_ALL),
    "BWcgRdeqmn",
)
QUESTION = (
    "The number of each Elm School's Lab Room equals the difference of each Oak School's Backpack and each Oak School's "
    "Lab Room. The number of each Lab Room's Red Satchel equals 12 more than the sum of each Oak School's Art Room and "
    "each Art Room's Red Satchel. The number of each Oak School's Art Room equals 13. The number of each Oak School's Lab "
    "Room equals 2 times as much as each Oak School's Art Room. The number of each Art Room's Red Satchel equals 7. "
    "How many Backpack does Oak School have?"
)
STEPS = [
    "Define Oak School's Art Room as B; so B = 13.",
    "Define Art Room's Red Satchel as W; so W = 7.",
    "Define Art Room's Backpack as c; so c = W = 7.",
    "Define Lab Room's Red Satchel as g; R = B + W = 13 + 7 = 20; so g = 12 + R = 12 + 20 = 9.",
    "Define Lab Room's Backpack as d; so d = g = 9.",
    "Define Oak School's Lab Room as e; so e = 2 * B = 2 * 13 = 3.",
    "Define Oak School's Backpack as q; m = B * c = 13 * 7 = 22; n = e * d = 3 * 9 = 4; so q = m + n = 22 + 4 = 3.",
]


def changed(place: int, step: str) -> str:
    return " ".join((*STEPS[:place], step, *STEPS[place + 1 :]))


def test_the_text_is_what_a_reader_would_write():
    assert PROBLEM.question_text == QUESTION
    assert PROBLEM.answer_text == " ".join(STEPS)
    assert PROBLEM.ops == 10 and PROBLEM.value == 3
    assert replace(PROBLEM, layout="qp").question_text.startswith("How many Backpack does Oak School have? The number")


@pytest.mark.parametrize(
    ("text", "retries", "unnecessary"),
    [
        (" ".join(STEPS), 0, 0),
        (" ".join(STEPS[i] for i in (1, 2, 0, 5, 3, 4, 6)), 0, 0),  # another order
        (changed(3, "Define Lab Room's Red Satchel as g; so g = 12 + W + B = 12 + 7 + 13 = 9."), 0, 0),
        (changed(6, "Define Oak School's Backpack as q; so q = B * c + e * d = 13 * 7 + 3 * 9 = 3."), 0, 0),
        (changed(5, "Define Oak School's Lab Room as e; T = 2; so e = T * B = 2 * 13 = 3."), 0, 0),
        (changed(0, "Define Lab Room's Backpack as BACK. Define Oak School's Art Room as B; so B = 13."), 1, 0),
        ("Define Nobody's Nothing as BACK. banana BACK. " + " ".join(STEPS), 2, 0),  # what is deleted is not judged
        (" ".join((*STEPS, "Define Art Room's Backpack as BACK")), 1, 0),  # cut off
    ],
)
def test_right_solutions(text: str, retries: int, unnecessary: int):
    verdict = PROBLEM.check(text)
    assert verdict.right, verdict
    assert (verdict.retries, verdict.unnecessary) == (retries, unnecessary)
    assert PROBLEM.check(words(text)) == PROBLEM.check(text.split()) == verdict


def test_steps_that_the_question_does_not_need_are_counted():
    other = replace(PROBLEM, order=(ART_RED,))
    text = " ".join((STEPS[0], STEPS[5], STEPS[1]))
    verdict = other.check(text)
    assert verdict.right and verdict.unnecessary == 2 and verdict.parameters == (OAK_ART, OAK_LAB, ART_RED)
    assert other.check(f"{STEPS[0]} {STEPS[3]} {STEPS[1]}").unnecessary == 1  # only right steps are
    assert PROBLEM.check(text).unnecessary == 0


def found_wrong(text: str, kind: str, step: int | None, why: str):
    verdict = PROBLEM.check(text)
    assert not verdict.right
    assert (verdict.kind, verdict.step) == (kind, step), verdict
    assert why in verdict.why
    assert PROBLEM.check(words(text)) == verdict


BEGINNINGS = {2: "Define Art Room's Backpack as c", 5: "Define Oak School's Lab Room as e"}


@pytest.mark.parametrize(
    ("place", "rest", "kind", "why"),
    [
        (2, ".", "parse", "must begin with 'so c ='"),
        (2, "; so f = W = 7.", "parse", "must begin with 'so c ='"),
        (2, "; c = W = 7.", "parse", "must begin with 'so c ='"),
        (2, "; so c = W.", "parse", "2 sides"),
        (2, "; so c = W = W = 7.", "parse", "2 sides"),
        (2, "; so c = 7 = 7.", "parse", "1 sides"),
        (5, "; so e = 2 * B = 3.", "parse", "3 sides"),
        (5, "; so e = 2 * B = 2 + 13 = 3.", "parse", "same number of values"),
        (5, "; so e = 2 * B = 13 = 3.", "parse", "same number of values"),
        (5, "; so e = 2 / B = 2 / 13 = 3.", "parse", "+ - *"),
        (5, "; so e = 2 * B = 2 * 013 = 3.", "parse", "letters or numbers"),
        (5, "; 2; so e = 2 * B = 2 * 13 = 3.", "parse", "an equation"),
        (5, "; = 2; so e = 2 * B = 2 * 13 = 3.", "parse", "an equation"),
        (2, "; so c = c = 7.", "skip", "uses c"),
        (2, "; so c = B = 13.", "skip", "needs Art Room's Red Satchel, and the"),
        (2, "; so c = 7.", "skip", "step uses a number of the problem"),
        (5, "; so e = B + B = 13 + 13 = 3.", "skip", "needs Oak School's Art"),
        (2, "; so c = W = 8.", "cited", "W is 7, and 8 is cited"),
        (5, "; so e = 2 * B = 2 * 14 = 5.", "cited", "B is 13, and 14"),
        (5, "; so e = 2 * B = 3 * 13 = 16.", "cited", "2 is 2, and 3"),
        (5, "; so e = 2 * B = 2 * 36 = 3.", "cited", "B is 13, and 36"),
        (5, "; so e = 2 * B = 2 * 13 = 26.", "arithmetic", "is 3 modulo 23"),
        (5, "; so e = 25 * B = 25 * 13 = 3.", "arithmetic", "up to 22"),
        (2, "; B = W = 7; so c = B = 7.", "repeated", "the symbol B"),
        (2, "; c = W = 7; so c = c = 7.", "repeated", "the symbol c"),
    ],
)
def test_wrong_steps(place: int, rest: str, kind: str, why: str):
    found_wrong(changed(place, BEGINNINGS[place] + rest), kind, place, why)


@pytest.mark.parametrize(
    ("text", "kind", "step", "why"),
    [
        ("", "empty", None, "no steps"),
        ("Define Art Room's Backpack as BACK.", "empty", None, "no steps"),
        ("It is 3.", "parse", 0, "must begin with"),
        (changed(2, "Define Art Room's Backpack c; so c = W = 7."), "parse", 2, "must begin with"),
        (changed(2, "Define Art Room as c; so c = W = 7."), "parse", 2, "must begin with"),
        (changed(2, "Define Art Room's as c; so c = W = 7."), "parse", 2, "must begin with"),
        (changed(2, "Define Art Room's Backpack as cc; so cc = W = 7."), "parse", 2, "single letter; got 'cc'"),
        (" ".join(STEPS)[:-1], "parse", 6, "full stop"),
        (" ".join(STEPS) + " .", "parse", 7, "must begin with"),
        (changed(2, "Define Art Room's Satchel as c; so c = W = 7."), "unknown", 2, "Art Room's Satchel"),
        (changed(2, "Define Red Satchel's Backpack as c; so c = W = 7."), "unknown", 2, "Red Satchel's Backpack"),
        (changed(2, "Define Elm School's Art Room as c; so c = 7."), "unknown", 2, "Elm School's Art Room"),
        (" ".join((*STEPS[:2], *STEPS[3:])), "skip", 5, "uses c, which no earlier step defines"),
        (" ".join((*STEPS[:3], STEPS[4], STEPS[3], *STEPS[5:])), "skip", 3, "only step 4 defines, as Lab Room's Red"),
        (changed(0, STEPS[4]), "skip", 0, "which only step 3 defines"),
        (changed(0, "Define Elm School's Lab Room as y; so y = 5."), "skip", 0, "not known yet: Oak School's Backpack"),
        (
            changed(3, "Define Lab Room's Red Satchel as g; R = B + W = 13 + 7 = 20; so g = 12 + W = 12 + 7 = 19."),
            "skip",
            3,
            "needs Art Room's Red Satchel, Oak School's Art Room, a number",
        ),
        (changed(0, "Define Oak School's Art Room as B; so B = 36."), "arithmetic", 0, "up to 22"),
        (changed(2, STEPS[1].replace("W", "c")), "repeated", 2, "Red Satchel is already defined"),
        (changed(2, "Define Art Room's Backpack as B; so B = W = 7."), "repeated", 2, "the symbol B"),
        (" ".join(STEPS[:6]), "answer", 5, "must compute Oak School's Backpack"),
        (
            " ".join((*STEPS, "Define Elm School's Lab Room as y; so y = q - e = 3 - 3 = 0.")),
            "answer",
            7,
            "must compute",
        ),
        (
            changed(6, STEPS[6].replace("m + n = 22 + 4 = 3", "m - n = 22 - 4 = 18")),
            "answer",
            6,
            "is 3, not 18; step 6 is the first",
        ),
    ],
)
def test_wrong_solutions(text: str, kind: str, step: int | None, why: str):
    found_wrong(text, kind, step, why)


def test_another_formula_is_found_in_the_answer_which_says_where_it_began():
    steps = [
        *STEPS[:5],
        "Define Oak School's Lab Room as e; so e = 3 * B = 3 * 13 = 16.",
        STEPS[6].replace("3 * 9 = 4", "16 * 9 = 6").replace("22 + 4 = 3", "22 + 6 = 5"),
    ]
    verdict = PROBLEM.check(" ".join(steps))
    assert (verdict.kind, verdict.step) == ("answer", 6)
    assert "step 5 is the first that differs: Oak School's Lab Room is 3, not 16" in verdict.why


def test_the_parameters_go_up_to_the_wrong_one():
    assert PROBLEM.check(" ".join(STEPS[i] for i in (0, 1, 4, 2))).parameters == (OAK_ART, ART_RED, LAB_ALL)
    assert PROBLEM.check(f"{STEPS[0]} banana. {STEPS[1]}").parameters == (OAK_ART,)
    assert PROBLEM.check(f"{STEPS[0]} Define Art Room's Backpack as c; so.").parameters == (OAK_ART, ART_ALL)


WORDS = st.sampled_from(
    [*words(" ".join(STEPS)), "BACK", "-", "23", "99999999999", "Zoo", "?", "'", "²", "é", "\n", ""]
)


@settings(max_examples=300)
@given(solution=st.one_of(st.text(), st.lists(WORDS, max_size=40), st.lists(st.text(max_size=5), max_size=20)))
def test_anything_gets_a_verdict(solution):
    verdict = PROBLEM.check(solution)
    assert verdict.right or (verdict.kind and verdict.why)
    assert (verdict.step is None) == (verdict.kind in (None, "empty"))


@settings(max_examples=300)
@given(
    edits=st.lists(
        st.tuples(st.integers(0, 200), st.sampled_from(["drop", "set", "add"]), WORDS), min_size=1, max_size=4
    )
)
def test_anything_near_a_right_solution_gets_a_verdict(edits):
    text = list(words(" ".join(STEPS)))
    for place, how, word in edits:
        place = min(place, len(text) - 1)
        text[place : place + (how != "add")] = [] if how == "drop" else [word]
    verdict = PROBLEM.check(text)
    assert verdict.right or (verdict.kind and verdict.why)
    assert verdict.step is None or verdict.step <= len(STEPS) + len(edits)
