from itertools import permutations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from noiselab.tasks.choices import letters, read_choice

# One option inside another, dots, apostrophes and hyphens inside.
OPTIONS = (
    "man",
    "The Italian man",
    "Italian man",
    "Dr. Smith",
    "The 58-year-old",
    "Can't be determined.",
    "the man's friend",
)
NAMES = [(option.rstrip("."), number) for number, option in enumerate(OPTIONS)]
MARKS = [(mark, number) for number, mark in enumerate(letters(len(OPTIONS)))]
NOTHING = [
    (words, None)
    for words in (
        "a",
        "b",
        "the",
        "old",
        "woman",
        "58",
        "person(s)",
        "(h)",
        "man-made",
        "snow-man",
        "the man's",
        "Italian",
    )
]
FRAGMENTS = st.lists(st.sampled_from([*NAMES, *MARKS, *NOTHING]), max_size=4)


def only(numbers):
    chosen = {number for number in numbers if number is not None}
    return chosen.pop() if len(chosen) == 1 else None


@given(
    FRAGMENTS,
    FRAGMENTS,
    st.sampled_from(["", "The answer is ", "\n\n  The answer is:\n", '"']),
    st.sampled_from([", ", " / ", "; "]),
    st.sampled_from([". ", "! ", "?\n", '." ', "\n", ".\n\n"]),
    st.sampled_from([str, str.upper, str.lower, lambda text: text.replace("'", "’")]),
)
def test_the_only_option_that_the_first_sentence_names_is_chosen(first, rest, start, between, end, spelled):
    sentence = start + between.join(["so", *(words for words, _ in first)])
    text = sentence + end + "Then " + between.join(words for words, _ in rest)
    assert read_choice(spelled(text), OPTIONS) == only(number for _, number in first)


@given(st.text(alphabet="abc ().!\nthe", max_size=30), st.permutations([0, 1, 2]))
def test_the_order_of_options_does_not_matter_to_words(text, order):
    options = ("the", "bee", "a cat")
    text = text.replace("(", "").replace(")", "")
    chosen = read_choice(text, [options[number] for number in order])
    assert (None if chosen is None else order[chosen]) == read_choice(text, options)


def test_letters_follow_the_order_and_words_do_not():
    for order in permutations(range(3)):
        options = [("The Italian man", "The man", "Unknown")[number] for number in order]
        for place, mark in enumerate(letters(3)):
            assert read_choice(mark, options) == place
            for other, option in enumerate(options):
                for said in (f"{mark} {option}", f"The answer is {mark}: {option}.", f"{option} {mark}"):
                    assert read_choice(said, options) == (place if place == other else None)


@pytest.mark.parametrize(
    "text, chosen",
    [
        ("", None),
        ("a", None),
        ("A red card came.", None),
        ("The answer is b", None),
        ("(B)", 1),
        ("(b). (a)", 1),
        ("red car park", None),  # overlap, and neither is inside the other
        ("The red  car", 0),
        ("the redcar park", None),
        ("(a) red car (b) car park (c) (b)", None),
        ("bus (b)", 2),  # a mark inside an option is a part of it
        ("(b) bus (b)", None),
    ],
)
def test_cases(text, chosen):
    assert read_choice(text, ("red car.", "car park", "bus (b)")) == chosen


def test_an_option_of_one_letter_is_not_named_by_a_mark():
    assert read_choice("(a)", ("b", "a")) == 0 and read_choice("a", ("b", "a")) == 1
    assert read_choice("b (b)", ("b", "a")) is None


def test_equal_options_differ_by_letters_alone():
    assert read_choice("the cat", ("The cat", "the cat.")) is None
    assert read_choice("(b)", ("The cat", "the cat.")) == 1


def test_letters_are_those_of_the_alphabet():
    assert "".join(letters(26)) == "".join(f"({chr(97 + number)})" for number in range(26))
    for count in (0, 27):
        with pytest.raises(ValueError, match=f"1 to 26 options; got {count}"):
            letters(count)


def test_options_must_be_some_texts():
    for options, why in (((), "1 to 26"), (("x",) * 27, "1 to 26"), (("x", " ."), "not be empty"), ("xyz", "a list")):
        with pytest.raises(ValueError, match=why):
            read_choice("x", options)
