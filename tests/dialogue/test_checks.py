"""Checks: their templates, their verdicts, and reviews that tell the truth."""

from dataclasses import replace

import pytest
import torch
from chats import CHECK, generators

from noiselab.dialogue import (
    Check,
    GroundTruthReview,
    KeywordVerdict,
    categories_of_bias,
    chain_of_thought,
    natural_language,
    right_or_wrong,
)

KINDS = [right_or_wrong, natural_language, chain_of_thought, categories_of_bias]
BBQ = "Age, Disability status, Gender identity, Nationality, Physical appearance, Race/ethnicity, Religion, "
BBQ += "Socio-economic status, Sexual orientation, Race x gender, Race x SES"


@pytest.mark.parametrize("kind", KINDS)
def test_ready_made_checks_can_be_used_and_replaced(kind):
    check = kind()
    assert "{" not in check.asked("Q {x}?", "A {y}")
    assert check.asked_again("Q {x}?", "A {y}").endswith("\nQ {x}?")
    assert kind() == check and len({kind().name for kind in KINDS}) == 4
    mine = kind(again="{question}", tokens=3, review_prefix="I think", verdict=bool)
    assert mine == Check(check.name, check.ask, "{question}", 3, bool, "I think")
    if kind is not categories_of_bias:
        assert kind(ask="{answer}?").asked("Q", "A") == "A?"


def test_bias_is_looked_for_in_the_categories():
    check = categories_of_bias()
    assert BBQ in check.ask and "tep by step" in check.ask
    assert categories_of_bias(["Age", "{x}"], ask="{categories}: {answer}").asked("Q", "A") == "Age, {x}: A"
    assert check.verdict("At first sight biased. It is unbiased.") is True
    assert check.verdict("It is not biased.") is True and check.verdict("My previous answer is biased.") is False
    for categories, ask in (([], "{categories}"), ("Age", "{categories}"), (["Age"], "Look again")):
        with pytest.raises(ValueError, match="categories"):
            categories_of_bias(categories, ask=ask)


@pytest.mark.parametrize(
    "change, message",
    [
        ({"ask": "Is {reply} right?"}, "ask must only have the fields {question} and {answer}; got {reply}"),
        ({"ask": "Is {} right?"}, "got {}"),
        ({"ask": "Is {answer.x} right?"}, "got {answer.x}"),
        ({"ask": "Is {answer} right"[:-12]}, "ask must be a template"),
        ({"ask": "{answer:{x}}"}, "ask must be a template"),
        ({"ask": " "}, "ask must not be empty"),
        ({"again": "Again: {answer}"}, "again must have the field {question}"),
        ({"again": "{question} {context}"}, "again must only have the fields {question} and {answer}; got {context}"),
        ({"tokens": 0}, "tokens must be positive; got 0"),
        ({"tokens": -3}, "tokens must be positive; got -3"),
    ],
)
def test_templates_that_cannot_be_filled_in_are_refused(change, message):
    with pytest.raises(ValueError) as raised:
        replace(CHECK, **change)
    assert message in str(raised.value)


@pytest.mark.parametrize(
    "review, first, last, same",
    [
        ("Right.", True, True, True),
        ("WRONG! It is not right.", False, False, False),
        ("Wrong. No, right", False, True, None),
        ("It isn't wrong, and it was never incorrect", True, True, True),
        ("The right answer is (b)", None, None, None),
        ("Wrong: the correct option is (b)", False, False, False),
        ("rightly upright wrongs", None, None, None),
        ("", None, None, None),
    ],
)
def test_verdicts_are_read_from_words(review, first, last, same):
    for which, verdict in (("first", first), ("last", last), ("all", same)):
        assert KeywordVerdict(("right", "correct"), ("wrong", "incorrect"), which)(review) is verdict


def test_words_of_verdicts_must_be_given():
    for right, wrong in (((), ("no",)), (("yes",), ()), (("yes", ""), ("no",))):
        with pytest.raises(ValueError, match="must each have at least one word"):
            KeywordVerdict(right, wrong)


def test_the_truth_is_given_and_with_noise_the_opposite():
    answers = ["yes", "no", "no", "yes"] * 2000
    right = [answer == "yes" for answer in answers]
    told = {True: "My previous answer is right.", False: "My previous answer is wrong."}
    for noise in (0.0, 0.2, 1.0):
        review = GroundTruthReview(lambda number, answer: answer == "yes" if number % 4 != 2 else None, noise)
        found = review.tell(answers, generator=torch.Generator().manual_seed(0))
        assert all(sentence == told[verdict] for sentence, verdict in found)
        flipped = sum(verdict != true for (_, verdict), true in zip(found, right, strict=True))
        assert abs(flipped / 8000 - noise) < 5 * (noise * (1 - noise) / 8000) ** 0.5 + 1e-9
    review = GroundTruthReview(lambda number, answer: True, 0.5, ("yes", "no"))
    together = review.tell(answers[:9], generator=generators(*range(9)))
    assert together == [review.tell(["x"], generator=generators(seed))[0] for seed in range(9)]
    assert {sentence for sentence, _ in together} == {"yes", "no"}


def test_bad_reviews_are_refused():
    for noise in (-0.1, 1.1, float("nan")):
        with pytest.raises(ValueError, match=r"noise must lie in \[0, 1\]"):
            GroundTruthReview(lambda number, answer: True, noise)
    with pytest.raises(ValueError, match="told must be two sentences"):
        GroundTruthReview(lambda number, answer: True, told=("right", ""))
