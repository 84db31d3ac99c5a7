"""Texts, tokens and files that nobody would write: a verdict, a value or a `ValueError` in words, never a traceback."""

import json
import math
import tempfile
from pathlib import Path

import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from test_bbq import row
from written import LOGIC, LOGIC_STEPS, STEPS, WRITTEN

from noiselab.tasks import load_bbq, read_choice
from noiselab.tasks.igsm import PerfectDetector, ProblemMistakes, Words, can_next_row, read_problem

FULL = read_problem(
    "The number of each Oak Quarter's Dawn Market equals 5. How many Supermarket does Oak Quarter have?",
    ("District", "Supermarket"),
    (("Oak Quarter", "Elm Quarter"), ("Dawn Market",)),
)
WORDS = {"nano": Words("nano"), "logic": Words("logic"), "med": Words("med")}
PROBLEMS = {"nano": WRITTEN, "logic": LOGIC, "med": FULL}
LEVELS = st.sampled_from(sorted(PROBLEMS))


def says_why(call):
    """The result, or `None` if a `ValueError` with a sentence came; anything else fails."""
    try:
        return call()
    except ValueError as error:
        assert len(str(error)) > 20, error
        return None


@settings(max_examples=150)
@given(
    level=st.sampled_from(["nano", "logic"]),
    places=st.lists(st.tuples(st.integers(0, 60), st.sampled_from(["drop", "double", "cut", "set"])), max_size=4),
    strange=st.sampled_from(["BACK", "²", "٣", "é", "\x00", "'s", "-1", "99999999999999999999", "D"]),
)
def test_small_solutions(level: str, places: list[tuple[int, str]], strange: str):
    pieces = list(STEPS if level == "nano" else LOGIC_STEPS)
    text = " ".join(pieces).split()
    for place, how in places:
        place = min(place, len(text))
        if how == "drop":
            text[place : place + 1] = []
        elif how == "double":
            text[place:place] = text[place : place + 7]
        elif how == "cut":
            text = text[:place]
        else:
            text[place : place + 1] = [strange]
    verdict = PROBLEMS[level].check(text)
    assert verdict.right or (verdict.kind and verdict.why)
    assert PROBLEMS[level].check(" ".join(text)) == verdict


@settings(max_examples=150)
@given(level=LEVELS, asked=st.booleans(), data=st.data())
def test_detectors_on_any_tokens(level: str, asked: bool, data: st.DataObject):
    problem, words = PROBLEMS[level], WORDS[level]
    tokens = data.draw(st.lists(st.integers(-1, min(words.size, 60)), max_size=20))
    question = words.encode(problem.question).tolist() if asked else []
    detector = PerfectDetector(problem, words, errors=data.draw(st.sampled_from(["any", "not ready"])))
    score = says_why(lambda: detector.score_step(torch.tensor([*question, *tokens], dtype=torch.long)))
    assert score in (None, 0.0, 1.0)


@settings(max_examples=100)
@given(level=LEVELS, kind=st.sampled_from(["retry", "weak", "miss", "filler"]), data=st.data())
def test_probabilities_of_any_stream(level: str, kind, data: st.DataObject):
    problem, words = PROBLEMS[level], WORDS[level]
    mistakes = ProblemMistakes(problem, words, data.draw(st.sampled_from([0.0, 0.4])), kind=kind)
    x = words.encode(problem.answer)
    stream = data.draw(st.lists(st.sampled_from([*x.tolist(), words.back, words.end, words.size]), max_size=20))
    begun = data.draw(st.integers(0, len(x)))
    z = torch.tensor([*x.tolist()[:begun], *stream], dtype=torch.long)
    log_q = says_why(lambda: mistakes.log_probability(z, x))
    assert log_q is None or log_q == -math.inf or log_q <= 0
    if not torch.equal(z, x):
        assert says_why(lambda: mistakes.corrupt(z)) is None or z.tolist() == [*x.tolist(), words.end]


@settings(max_examples=60)
@given(level=LEVELS, place=st.integers(-3, 9), parameter=st.one_of(st.none(), st.text(max_size=3), st.integers()))
def test_rows_about_any_parameter(level: str, place: int, parameter):
    found = says_why(lambda: can_next_row(PROBLEMS[level], WORDS[level], place, parameter))
    assert found is None


OPTIONS = st.lists(st.one_of(st.text(max_size=6), st.sampled_from(["the man", "(a)", "man", "A.", "."])), max_size=5)


@settings(max_examples=150)
@given(
    text=st.one_of(st.text(max_size=40), st.lists(st.sampled_from(["(a)", "the man", ".", "(", "\\", "\n", "B"]))),
    options=OPTIONS,
)
def test_choices_in_any_text(text, options: list[str]):
    said = text if isinstance(text, str) else " ".join(text)
    found = says_why(lambda: read_choice(said, options))
    assert found is None or 0 <= found < len(options)


VALUES = st.recursive(
    st.one_of(st.none(), st.booleans(), st.integers(), st.floats(), st.text(max_size=5)),
    lambda inner: st.one_of(st.lists(inner, max_size=3), st.dictionaries(st.text(max_size=3), inner, max_size=2)),
    max_leaves=4,
)
PLACES = st.sampled_from(
    [(name,) for name in row()] + [("answer_info", "ans1"), ("additional_metadata", "stereotyped_groups")]
)


@settings(max_examples=80)
@given(place=PLACES, value=VALUES, category=st.sampled_from(["Age", "Race_x_gender", "Nationality", "Gender_identity"]))
def test_any_value_in_a_line_of_bbq(place: tuple[str, ...], value, category: str):
    line = row(category=category)
    inner = line
    for name in place[:-1]:
        inner = inner[name]
    inner[place[-1]] = value
    with tempfile.TemporaryDirectory() as folder:
        (Path(folder) / "Age.jsonl").write_text(json.dumps(line) + "\n")
        found = says_why(lambda: load_bbq(folder))
    assert found is None or len(found) == 1
