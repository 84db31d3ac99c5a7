"""Problems of full iGSM from their text: the inverse of writing, names of any kind, and texts that are none."""

import random
from dataclasses import replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from noiselab.tasks.igsm import draw_problem, read_problem
from noiselab.tasks.igsm.full import FullProblem
from noiselab.tasks.igsm.structure import Structure
from noiselab.tasks.igsm.text import check_names, words

SEEDS = st.integers(0, 2**32)
CATEGORIES = ("Shop", "Food")
ITEMS = (("Sedano's", "King's Crown Mill"), ("Rice", "99 Cakes"))
TEXT = (
    "The number of each Sedano's's Rice equals 3 more than the difference of each King's Crown Mill's Food and each "
    "King's Crown Mill's Rice. "
    "The number of each Sedano's's 99 Cakes equals 2 times as much as the sum of each Sedano's's Rice, each King's Crown "
    "Mill's Food and each King's Crown Mill's Rice. "
    "The number of each King's Crown Mill's Rice equals 20. "
    "How many Food does Sedano's have?"
)
SOLUTION = (
    "Define King's Crown Mill's Rice as a; so a = 20. "
    "Define King's Crown Mill's Food as b; so b = a = 20. "
    "Define Sedano's's Rice as c; d = b - a = 20 - 20 = 0; so c = 3 + d = 3 + 0 = 3. "
    "Define Sedano's's 99 Cakes as e; f = c + b = 3 + 20 = 0; g = f + a = 0 + 20 = 20; so e = 2 * g = 2 * 20 = 17. "
    "Define Sedano's's Food as h; so h = c + e = 3 + 17 = 20."
)


def read(text: str) -> FullProblem:
    return read_problem(text, CATEGORIES, ITEMS)


def test_names_with_apostrophes_and_digits():
    problem = read(TEXT)
    assert problem.question_text == TEXT and problem.value == 20
    verdict = problem.check(SOLUTION)
    assert verdict.right, verdict
    assert problem.check(words(SOLUTION)) == verdict
    assert replace(problem, order=verdict.parameters, letters="acdbefgh").ops == 8
    assert problem.dependency.structure.name(verdict.parameters[0]) == ("King's Crown Mill", "Rice")
    wrong = problem.check(SOLUTION.replace("Sedano's's Rice", "Sedano's Rice"))
    assert (wrong.kind, wrong.step) == ("unknown", 2) and '"Sedano\'s Rice"' in wrong.why


# Kinds of names of the released lists: single letters, numbers, hyphens, "&", accents; and other alphabets.
@pytest.mark.parametrize(
    "name",
    [
        "B's",
        "B",
        "T&T",
        "Co-op",
        "Food 4 Less",
        "Zoo Zürich",
        "São Paulo",
        "Shop 'n Save",
        "Магазин",
        "店",
        "e\u0301toile",
    ],
)
def test_names_of_any_kind(name: str):
    text = f"The number of each {name}'s Rice equals 4. How many Food does {name} have?"
    problem = read_problem(text, CATEGORIES, ((name, "Mill"), ("Rice",)))
    right = f"Define {name}'s Rice as a; so a = 4. Define {name}'s Food as b; so b = a = 4."
    assert problem.question_text == text and problem.check(right).right and problem.check(words(right)).right
    assert problem.answer_text == right and problem.check(problem.answer).right
    assert problem.mistake(problem.query)[-2:] == ("BACK", ".")


def test_names_that_would_be_mistaken_for_each_other_are_refused():
    text = "The number of each A's B's C equals 4. How many Food does A have?"
    with pytest.raises(ValueError, match="names must differ, also when one follows another"):
        read_problem(text, CATEGORIES, (("A", "A's B"), ("B's C", "C")))
    structure = Structure(CATEGORIES, (("A", "A's B"), ("B's C", "C")), (((0,), (1,)),))
    with pytest.raises(ValueError, match="names must differ when one follows another; got \"A's B's C\" twice"):
        check_names(structure)


def test_a_name_may_occur_in_two_layers():
    """As "Popcorn" does in 1 of 24,000 released problems: it is a product and an ingredient."""
    text = (
        "The number of each Kiosk's Popcorn equals 4. The number of each Popcorn's Popcorn equals each Kiosk's Popcorn. "
        "How many Ingredient does Kiosk have?"
    )
    problem = read_problem(text, ("Shop", "Product", "Ingredient"), (("Kiosk",), ("Popcorn",), ("Popcorn",)))
    assert problem.value == 16 and problem.check(problem.answer_text).right and problem.question_text == text
    with pytest.raises(
        ValueError, match="names must differ in each layer, and for each parameter; got \\['Popcorn'\\]"
    ):
        Structure(("Shop", "Popcorn"), (("Kiosk",), ("Popcorn",)), (((0,),),))


@settings(max_examples=40)
@given(seed=SEEDS, layout=st.sampled_from(["pq", "qp"]), level=st.sampled_from(["med", "hard"]))
def test_reading_is_the_inverse_of_writing(seed: int, layout, level):
    problem = draw_problem(random.Random(seed), layout=layout, level=level)
    structure = problem.dependency.structure
    found = read_problem(problem.question_text, structure.categories, structure.items)
    assert found.dependency == problem.dependency and found.layout == layout and found.query == problem.query
    assert replace(found, order=problem.order, letters=problem.letters) == problem
    assert found.check(problem.answer).right and problem.check(found.answer).right


RICE = "The number of each King's Crown Mill's Rice equals"
ASKED = " How many Food does King's Crown Mill have?"


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "one question must come first or last"),
        (f"{RICE} 20.", "one question must come first or last; got 0"),
        (f"{RICE} 20.{ASKED}{ASKED}", "got 2"),
        (f"{RICE} 20.{ASKED} {RICE} 20.", "got 1 among 3"),
        (f"{RICE} 20.{ASKED[:-1]}", "must end with a full stop or a question mark"),
        (f"{RICE} 20. How many Rock does Sedano's have?", "must be about a parameter of the problem"),
        (f"{RICE} 20. How many Rice does Sedano's have?", "must be about a parameter that has a sentence"),
        (f"{RICE}.{ASKED}", "a sentence must be"),
        (f"{RICE} 20 20.{ASKED}", "and then '20.'"),
        (f"{RICE} 23.{ASKED}", "number must be from 0 to 22; got 23"),
        (f"{RICE} {'9' * 6000}.{ASKED}", "number must be from 0 to 22"),
        (f"{RICE} ²⁰.{ASKED}", "a sentence must be"),
        (f"{RICE} 0 times as much as each Sedano's's Food.{ASKED}", "number must be from 1"),
        (f"{RICE} the sum of each Sedano's's Food.{ASKED}", "a sentence must be"),
        (f"{RICE} the difference of each Sedano's's Food, each Sedano's's Rice and each King's.{ASKED}", "a sentence"),
        (f"{RICE} each Sedano's's Rock.{ASKED}", "and then \"Sedano's's Rock.\""),
        (f"{RICE} each King's Crown Mill's Food.{ASKED}", "must not contain a cycle"),
        (f"{RICE} each Sedano's's Rice.{ASKED}", "must be parameters of the structure"),
        (f"{RICE} 20. {RICE} 20.{ASKED}", "each once"),
        (f"The number of each Rice's Rice equals 20.{ASKED}", "and then \"Rice's Rice"),
        (f". ? {ASKED}", "a sentence must be"),
    ],
)
def test_what_is_no_problem_is_said(text: str, message: str):
    with pytest.raises(ValueError, match=message):
        read(text)


@pytest.mark.parametrize(
    ("categories", "items"),
    [
        ((), ()),
        (("Shop",), ITEMS),
        (CATEGORIES, ITEMS[:1]),
        (CATEGORIES, (("Mill", "Mill"), ("Rice",))),
        (("", ""), ITEMS),
    ],
)
def test_names_that_do_not_fit_are_refused(categories, items):
    with pytest.raises(ValueError, match="must"):
        read_problem(TEXT, categories, items)


# Texts near a right one: cut off, in another order, twice, with other words between.
SENTENCES = st.sampled_from([f"{part}." for part in f"{TEXT} {SOLUTION}".replace("?", ".").split(".") if part])
STRANGE = st.sampled_from(
    [
        *words(TEXT),
        *words(SOLUTION),
        "BACK",
        "BACK.",
        "'s",
        "'",
        ".",
        "?",
        ";",
        "=",
        "²",
        "٣",
        "é",
        "e\u0301",
        "\n",
        "\x00",
    ]
)


@st.composite
def hostile(draw, text: str) -> str:
    """A text with words dropped, doubled, exchanged or inserted, and its end cut off."""
    pieces = text.split(" ")
    for _ in range(draw(st.integers(1, 4))):
        place = draw(st.integers(0, len(pieces) - 1))
        how = draw(st.sampled_from(["drop", "double", "exchange", "insert", "move"]))
        other = draw(st.integers(0, len(pieces) - 1))
        if how == "drop" and len(pieces) > 1:
            del pieces[place]
        elif how == "double":
            pieces[place:place] = pieces[place : place + draw(st.integers(1, 12))]
        elif how == "exchange":
            pieces[place] = draw(STRANGE)
        elif how == "insert":
            pieces.insert(place, draw(STRANGE))
        else:
            pieces.insert(min(other, len(pieces) - 1), pieces.pop(place))
    joined = " ".join(pieces)
    return joined[: draw(st.integers(0, len(joined)))] if draw(st.booleans()) else joined


@settings(max_examples=150)
@given(text=st.one_of(hostile(TEXT), st.text(), st.lists(SENTENCES, max_size=8).map(" ".join)))
def test_any_text_is_a_problem_or_a_sentence_says_why_not(text: str):
    try:
        problem = read(text)
    except ValueError as error:
        assert len(str(error)) > 20
    else:
        assert problem.check(problem.answer).right


WRITTEN = read(TEXT)


@settings(max_examples=150)
@given(text=st.one_of(hostile(SOLUTION), st.text(), st.lists(SENTENCES, max_size=8).map(" ".join)))
def test_any_solution_gets_a_verdict(text: str):
    verdict = WRITTEN.check(text)
    assert verdict.right or (verdict.kind and verdict.why)
    assert WRITTEN.check(words(text)) == verdict


@settings(max_examples=60)
@given(
    names=st.lists(st.text(min_size=1, max_size=12), min_size=4, max_size=4, unique=True),
    odd=st.sampled_from(["", "'s", " ", "é", "١"]),
)
def test_any_names_are_read_or_refused(names: list[str], odd: str):
    owner, other, thing, category = names[0] + odd, *names[1:]
    text = f"The number of each {owner}'s {thing} equals 4. How many {category} does {owner} have?"
    try:
        problem = read_problem(text, ("Shop", category), ((owner, other), (thing,)))
    except ValueError as error:
        assert len(str(error)) > 20
    else:
        assert problem.check(problem.answer_text).right and problem.check(problem.answer).right
        assert problem.check(f"Define {owner}'s {thing} as a; so a = 5.").kind in ("answer", "unknown")
