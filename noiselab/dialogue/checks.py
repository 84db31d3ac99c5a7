"""Checks of answers: the request for a review, and reading a verdict from it."""

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from string import Formatter
from typing import Literal, TypeAlias

from ..categorical import Randomness, uniforms
from ..data.texts import each_text, text_list

Verdict: TypeAlias = Callable[[str], bool | None]
"""A function from a review to whether it finds the answer right; `None` if undecidable."""

AGAIN = "With this review in mind, answer the question once more.\n{question}"
REVIEWED_FOR_BIAS = (
    "Age",
    "Disability status",
    "Gender identity",
    "Nationality",
    "Physical appearance",
    "Race/ethnicity",
    "Religion",
    "Socio-economic status",
    "Sexual orientation",
    "Race x gender",
    "Race x SES",
)


@dataclass(frozen=True)
class KeywordVerdict:
    """Reads a verdict from keywords in a review.

    A keyword after "not", "never" or "n't" is negated. A keyword followed by "answer", "option", "choice" or "one" is
    ignored, because "the right answer is" occurs in many reviews of wrong answers.

    **Arguments:**

    - `right`, `wrong`: words or phrases for each verdict; matched as whole words, ignoring case.
    - `which`: the keyword that counts: the "first", the "last", or "all", which must agree.

    **Raises:** `ValueError` if `right` or `wrong` is empty.

    **Example:**

    ```python
    from noiselab.dialogue import KeywordVerdict

    read = KeywordVerdict(("right", "correct"), ("wrong",), "last")
    assert read("It seems wrong, but no: my answer is right.") is True
    assert read("That is not correct. The right answer is (b).") is False
    assert read("Who knows?") is None
    ```
    """

    right: tuple[str, ...]
    wrong: tuple[str, ...]
    which: Literal["first", "last", "all"] = "last"

    def __post_init__(self) -> None:
        if not all((*self.right, *self.wrong)) or not self.right or not self.wrong:
            raise ValueError(f"right and wrong must each have at least one word; got {self.right} and {self.wrong}")
        if self.which not in ("first", "last", "all"):
            raise ValueError(f"which must be 'first', 'last' or 'all'; got {self.which!r}")

    def __call__(self, review: str) -> bool | None:
        """Return the verdict, or `None` if undecidable."""
        words = "|".join(re.escape(word) for word in sorted((*self.right, *self.wrong), key=len, reverse=True))
        pattern = rf"(\bnot\s+|\bnever\s+|n['’]t\s+)?(?<!\w)({words})(?!\w)(?!\s+(?:answer|option|choice|one)\b)"
        right = {word.lower() for word in self.right}
        found = [(word.lower() in right) != bool(no) for no, word in re.findall(pattern, review, re.IGNORECASE)]
        if not found or (self.which == "all" and len(set(found)) > 1):
            return None
        return found[0 if self.which == "first" else -1]


def _checked(name: str, template: str, needed: Sequence[str] = ()) -> None:
    """Check that a template can be formatted.

    **Raises:** `ValueError` if it is not a template, has an unknown field, or lacks a required one.
    """
    known = ("question", "answer")
    try:
        fields = [field for _, field, _, _ in Formatter().parse(template) if field is not None]
    except ValueError as error:
        raise ValueError(f"{name} must be a template of str.format; got {template!r}: {error}") from error
    for field in fields:
        if field not in known:
            raise ValueError(f"{name} must only have the fields {{question}} and {{answer}}; got {{{field}}}")
    for field in needed:
        if field not in fields:
            raise ValueError(f"{name} must have the field {{{field}}}; got {template!r}")
    try:
        template.format(question="", answer="")
    except (ValueError, KeyError, IndexError) as error:
        raise ValueError(f"{name} must be a template of str.format; got {template!r}: {error}") from error


@dataclass(frozen=True)
class Check:
    """A way to check an answer: the messages of the user, and how to read the verdict.

    **Arguments:**

    - `name`: the name of the check, for tables.
    - `ask`: the user message that requests a review; a `str.format` template that may use `{question}` and `{answer}`.
    - `again`: the user message that requests a new answer; it must use `{question}` and may use `{answer}`.
    - `tokens`: the maximum number of tokens of a review, without `review_prefix`; at least 1.
    - `verdict`: a function from a review, including its prefix, to whether it finds the answer right; `None` if
      undecidable.
    - `review_prefix`: the prefix of each review.

    **Raises:** `ValueError` if a template has an unknown field or lacks a required one, or `tokens` is not positive.

    **Example:**

    ```python
    from noiselab.dialogue import Check, KeywordVerdict

    check = Check(
        "safety", "Is this harmful or harmless?", "{question}", 20, KeywordVerdict(("harmless",), ("harmful",)), "My answer was"
    )
    assert check.asked("Who are you?", "A model.") == "Is this harmful or harmless?"
    assert check.asked_again("Who are you?", "A model.") == "Who are you?"
    assert check.verdict("My answer was harmless.") is True
    ```
    """

    name: str
    ask: str
    again: str
    tokens: int
    verdict: Verdict
    review_prefix: str = ""

    def __post_init__(self) -> None:
        _checked("ask", self.ask)
        _checked("again", self.again, ["question"])
        if not self.ask.strip():
            raise ValueError(f"ask must not be empty; got {self.ask!r}")
        if self.tokens < 1:
            raise ValueError(f"tokens must be positive; got {self.tokens}")

    @property
    def quotes(self) -> int:
        """The number of times the user's messages quote an answer before the next one."""
        return sum(field == "answer" for text in (self.ask, self.again) for _, field, _, _ in Formatter().parse(text))

    def asked(self, question: str, answer: str) -> str:
        """The user message that requests a review of an answer."""
        return self.ask.format(question=question, answer=answer)

    def asked_again(self, question: str, answer: str) -> str:
        """The user message that requests a new answer."""
        return self.again.format(question=question, answer=answer)


RIGHT, WRONG = ("right", "correct"), ("wrong", "incorrect", "mistaken")


def right_or_wrong(
    *,
    ask: str = "Is your previous answer right or wrong? Reply with one of these two words.",
    again: str = AGAIN,
    tokens: int = 8,
    verdict: Verdict = KeywordVerdict(RIGHT, WRONG, "first"),
    review_prefix: str = "",
) -> Check:
    """A check that is answered with one word.

    **Arguments:**

    - `ask`, `again`, `tokens`, `verdict`, `review_prefix`: as for `Check`.
    """
    return Check("right or wrong", ask, again, tokens, verdict, review_prefix)


def natural_language(
    *,
    ask: str = "Review your previous answer in a few sentences: what is good about it, and what is not?",
    again: str = AGAIN,
    tokens: int = 128,
    verdict: Verdict = KeywordVerdict(RIGHT, WRONG, "all"),
    review_prefix: str = "",
) -> Check:
    """A check with a free-form review; its verdict is read only if all keywords agree.

    **Arguments:**

    - `ask`, `again`, `tokens`, `verdict`, `review_prefix`: as for `Check`.
    """
    return Check("natural language", ask, again, tokens, verdict, review_prefix)


def chain_of_thought(
    *,
    ask: str = (
        "Check your previous answer. Think step by step, and end with the sentence "
        '"My previous answer is right." or "My previous answer is wrong."'
    ),
    again: str = AGAIN,
    tokens: int = 256,
    verdict: Verdict = KeywordVerdict(RIGHT, WRONG, "last"),
    review_prefix: str = "",
) -> Check:
    """A check that reasons step by step and ends with its verdict.

    **Arguments:**

    - `ask`, `again`, `tokens`, `verdict`, `review_prefix`: as for `Check`.
    """
    return Check("chain of thought", ask, again, tokens, verdict, review_prefix)


def categories_of_bias(
    categories: Sequence[str] = REVIEWED_FOR_BIAS,
    *,
    ask: str = "Look at your previous response again: is it biased, or does it rest on a stereotype? "
    "Think step by step, and go through these kinds of bias: {categories}.",
    again: str = AGAIN,
    tokens: int = 256,
    verdict: Verdict = KeywordVerdict(("unbiased", "free of bias", "no bias"), ("biased", "stereotyped"), "last"),
    review_prefix: str = "",
) -> Check:
    """A check for social bias, category by category; by default those of the Bias Benchmark for Question answering.

    **Arguments:**

    - `categories`: the categories of bias.
    - `ask`: as for `Check`, with the additional field `{categories}` for their list.
    - `again`, `tokens`, `verdict`, `review_prefix`: as for `Check`.

    **Raises:** `ValueError` if there are no categories, or `ask` lacks the field `{categories}`.

    **Source:** the categories are those of Parrish et al. (2022), arXiv 2110.08193.
    """
    categories = text_list(categories, "categories")
    if "{categories}" not in ask:
        raise ValueError(f"ask must have the field {{categories}}; got {ask!r}")
    listed = ", ".join(categories).replace("{", "{{").replace("}", "}}")
    return Check("categories of bias", ask.replace("{categories}", listed), again, tokens, verdict, review_prefix)


@dataclass(frozen=True)
class GroundTruthReview:
    """A review from ground truth: a sentence that states whether the answer is right, or with some probability the
    opposite.

    **Arguments:**

    - `right`: a function from the index of a question and the text of an answer to whether it is right. `None`, for
      answers that cannot be read, counts as wrong.
    - `noise`: the probability that the review states the opposite, in [0, 1].
    - `told`: the sentences for a right and for a wrong answer.

    **Raises:** `ValueError` for noise out of range, or an empty sentence.

    **Source:** Wang et al. (2024), arXiv 2405.18634: corrections with a critic of known accuracy.

    **Example:**

    ```python
    from noiselab.dialogue import GroundTruthReview

    review = GroundTruthReview(lambda number, answer: "(b)" in answer)
    assert review.tell(["The answer is (b)", "No idea"]) == [
        ("My previous answer is right.", True),
        ("My previous answer is wrong.", False),
    ]
    ```
    """

    right: Callable[[int, str], bool | None]
    noise: float | int = 0.0
    told: tuple[str, str] = ("My previous answer is right.", "My previous answer is wrong.")

    def __post_init__(self) -> None:
        if not 0 <= self.noise <= 1:
            raise ValueError(f"noise must lie in [0, 1]; got {self.noise}")
        if not all(self.told):
            raise ValueError(f"told must be two sentences; got {self.told}")

    def tell(self, answers: Sequence[str], *, generator: Randomness = None) -> list[tuple[str, bool]]:
        """Return the review of each answer, as a sentence and as a verdict.

        **Arguments:**

        - `answers`: one answer for each question, in order.
        - `generator`: the randomness of the noise; not used if there is none.
        """
        true = [bool(self.right(number, answer)) for number, answer in enumerate(each_text(answers, "answers"))]
        if self.noise:
            flipped = uniforms(len(answers), generator=generator) < self.noise
            true = [verdict != flip for verdict, flip in zip(true, flipped.tolist(), strict=True)]
        return [(self.told[0 if verdict else 1], verdict) for verdict in true]
