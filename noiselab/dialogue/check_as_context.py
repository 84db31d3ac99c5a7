"""Check-as-Context: a model answers, checks its answer, and answers again with all of it in the context."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Int
from torch import Tensor

from ..categorical import Randomness
from ..data.texts import each_text, text_list
from ..revisions import Revision, list_revisions
from .chat import Chat, Message
from .checks import Check, GroundTruthReview
from .conversations import Conversations


@dataclass(frozen=True)
class Corrected:
    """A question with all answers and reviews.

    **Arguments:**

    - `question`: the question.
    - `answers`: the first answer and that of each round, including the prescribed prefix.
    - `reviews`, `verdicts`: the review and verdict of each answer but the last; a verdict is read by the check (`None`
      if undecidable) or given by `GroundTruthReview`.
    - `messages`: the conversation.
    - `entries_read`: the total number of tokens processed by the network; with a cache, each token of the conversation
      once.
    - `evaluations`: the number of network evaluations.
    """

    question: str
    answers: tuple[str, ...]
    reviews: tuple[str, ...]
    verdicts: tuple[bool | None, ...]
    messages: tuple[Message, ...]
    entries_read: int
    evaluations: int


class CheckAsContext:
    r"""Self-correction of a chat model: answer, check the answer, and answer again with the check in the context.

    $$y_0 \sim p(\cdot \mid Q), \quad r_t \sim p(\cdot \mid c_{t-1}, y_{t-1}, \text{check}), \quad
    c_t = (c_{t-1}, y_{t-1}, \text{check}, r_t, Q'), \quad y_t \sim p(\cdot \mid c_t), \quad c_0 = Q$$

    If a given review is correct with probability $c$, and the model keeps answers reviewed as right and otherwise moves
    to one of the $k - 1$ other options, one round changes the accuracy $a$ to $c a + c (1 - a) / (k - 1)$.

    **Arguments:**

    - `chat`: the model.
    - `check`: the request for a review, and the request to answer again.
    - `rounds`: the number of checks; 0 is the plain model.
    - `answer_prefix`: the prefix of each answer.
    - `answer_tokens`: the maximum number of tokens of an answer, without `answer_prefix`; at least 1.
    - `review`: if given, provides reviews in place of the model.
    - `temperature`: the temperature for answers and reviews; 0 selects the most likely tokens.
    - `cache`: whether to cache keys and values, so that each token is processed only once.
    - `limit`: the maximum number of tokens of a conversation; by default the number of the network's positions.

    **Raises:** `ValueError` for settings out of range.

    **Source:** Wang et al. (2024), arXiv 2405.18634.

    **Example:**

    ```python
    from transformers import LlamaConfig, LlamaForCausalLM
    from noiselab.data import character_tokenizer
    from noiselab.dialogue import Chat, CheckAsContext, right_or_wrong

    check = right_or_wrong(tokens=3, review_prefix="It is")
    tokenizer = character_tokenizer(["user: assistant: 1 or 2?\n", check.ask, check.again])
    sizes = {"hidden_size": 16, "intermediate_size": 32, "num_hidden_layers": 1, "num_attention_heads": 2}
    network = LlamaForCausalLM(LlamaConfig(vocab_size=len(tokenizer), **sizes)).eval()
    template = (
        "{% for m in messages %}{{ m.role + ': ' + m.content }}{{ eos_token if m.role == 'assistant' else '\n' }}{% endfor %}"
        "{% if add_generation_prompt %}{{ 'assistant: ' }}{% endif %}"
    )
    sampler = CheckAsContext(Chat(network, tokenizer, template=template), check, rounds=2, answer_tokens=2)
    (corrected,) = sampler.answer(["1 or 2?"])
    assert len(corrected.answers) == 3 and len(corrected.reviews) == 2
    assert [message["role"] for message in corrected.messages] == ["user", "assistant"] * 5
    ```
    """

    def __init__(
        self,
        chat: Chat,
        check: Check,
        *,
        rounds: int,
        answer_prefix: str = "",
        answer_tokens: int = 10,
        review: GroundTruthReview | None = None,
        temperature: float | int = 0.0,
        cache: bool = True,
        limit: int | None = None,
    ) -> None:
        if rounds < 0 or answer_tokens < 1:
            raise ValueError(
                f"rounds must be non-negative and answer_tokens positive; got {rounds} and {answer_tokens}"
            )
        if not temperature >= 0 or (limit is not None and limit < 1):
            raise ValueError(f"temperature must be non-negative and limit positive; got {temperature} and {limit}")
        self.chat, self.check, self.rounds, self.review = chat, check, rounds, review
        self.answer_prefix, self.answer_tokens = answer_prefix, answer_tokens
        self.temperature, self.cache = float(temperature), cache
        self.limit = chat.limit if limit is None else limit

    def longest(self, question: str) -> int:
        """The maximum number of tokens of the conversation about a question, with answers and reviews of maximum
        length.

        Answers and reviews are counted in generated tokens. If encoding their text gives more tokens, the conversation
        can be longer; exceeding `limit` then raises an error.

        **Arguments:**

        - `question`: the question.
        """
        word = "x"  # some templates omit empty messages
        answer, told = self.answer_prefix or word, self.check.review_prefix or word
        filled = (self.rounds if answer is word else 0) + (self.rounds if told is word else 0)
        written = (self.rounds + 1) * self.answer_tokens
        if self.review is None:
            written += self.rounds * self.check.tokens
        else:
            filled -= self.rounds if told is word else 0
            told = max(self.review.told, key=lambda sentence: len(self.chat.encode(sentence)))
        quoted = self.rounds * self.check.quotes
        messages = [{"role": "user", "content": question}]
        for _ in range(self.rounds):
            messages += [
                {"role": "assistant", "content": answer},
                {"role": "user", "content": self.check.asked(question, self.answer_prefix)},
                {"role": "assistant", "content": told},
                {"role": "user", "content": self.check.asked_again(question, self.answer_prefix)},
            ]
        fixed = len(self.chat.tokens(messages, start=self.answer_prefix)) - filled * len(self.chat.encode(word))
        return fixed + written + quoted * self.answer_tokens

    def answer(
        self, questions: Sequence[str], *, first: Sequence[str] | None = None, generator: Randomness = None
    ) -> list[Corrected]:
        """Answer questions in parallel, each in its own conversation.

        **Arguments:**

        - `questions`: the first user message of each conversation.
        - `first`: the first answers, one to each question, given instead of written by the model; then only the rounds
          are run.
        - `generator`: the source of randomness; with one for each question, answers do not depend on the other
          questions.

        **Returns:** the result for each question, in order.

        **Raises:** `ValueError` if there are no questions or one is empty; before the first evaluation, if a
        conversation may become longer than `limit`; if the number of generators differs from that of the questions.
        """
        self._check(questions, generator, first)
        talks = Conversations(self.chat, len(questions), cache=self.cache, limit=self.limit)
        for number, question in enumerate(questions):
            talks.add_message(number, "user", question)
        answers = [self._answer(talks, generator) if first is None else add_answers(talks, first)]
        reviews, verdicts = [], []
        for _ in range(self.rounds):
            asked = list(zip(questions, answers[-1], strict=True))
            for number, (question, answer) in enumerate(asked):
                talks.add_message(number, "user", self.check.asked(question, answer))
            found = self._reviewed(talks, answers[-1], generator)
            for number, (question, answer) in enumerate(asked):
                talks.add_message(number, "user", self.check.asked_again(question, answer))
            reviews.append([review for review, _ in found])
            verdicts.append([verdict for _, verdict in found])
            answers.append(self._answer(talks, generator))
        return [
            Corrected(
                question,
                tuple(each[number] for each in answers),
                tuple(each[number] for each in reviews),
                tuple(each[number] for each in verdicts),
                tuple(talks.messages[number]),
                talks.entries_read[number],
                talks.evaluations[number],
            )
            for number, question in enumerate(questions)
        ]

    def _answer(self, talks: Conversations, generator: Randomness) -> list[str]:
        """Generate one answer in each conversation."""
        return talks.write(
            start=self.answer_prefix,
            tokens=self.answer_tokens,
            temperature=self.temperature,
            generator=generator,
        )

    def _reviewed(
        self, talks: Conversations, answers: list[str], generator: Randomness
    ) -> list[tuple[str, bool | None]]:
        """One review in each conversation, generated by the model or given, and its verdict."""
        if self.review is not None:
            told: list[tuple[str, bool | None]] = [*self.review.tell(answers, generator=generator)]
            for number, (sentence, _) in enumerate(told):
                talks.add_message(number, "assistant", sentence)
            return told
        written = talks.write(
            start=self.check.review_prefix,
            tokens=self.check.tokens,
            temperature=self.temperature,
            generator=generator,
        )
        return [(review, self.check.verdict(review)) for review in written]

    def review_answers(
        self, questions: Sequence[str], answers: Sequence[str], *, generator: Randomness = None
    ) -> list[tuple[str, bool | None]]:
        """Check given answers once, and answer nothing.

        **Arguments:**

        - `questions`, `answers`: one answer to each question.
        - `generator`: all randomness, as for `answer`.

        **Returns:** for each answer the review and its verdict, None where it cannot be read.

        **Raises:** `ValueError` as for `answer`.
        """
        self._check(questions, generator, answers)
        talks = Conversations(self.chat, len(questions), cache=self.cache, limit=self.limit)
        for number, (question, answer) in enumerate(zip(questions, answers, strict=True)):
            talks.add_message(number, "user", question)
            talks.add_message(number, "assistant", answer)
            talks.add_message(number, "user", self.check.asked(question, answer))
        return self._reviewed(talks, list(answers), generator)

    def _check(self, questions: Sequence[str], generator: Randomness, answers: Sequence[str] | None = None) -> None:
        """Check that questions can be answered."""
        text_list(questions, "questions")
        if answers is not None and (len(text_list(answers, "answers")) != len(questions) or not all(answers)):
            raise ValueError(
                f"there must be one answer to each of {len(questions)} questions, none empty; got {answers!r}"
            )
        if isinstance(generator, Sequence) and len(generator) != len(questions):
            raise ValueError(
                f"there must be one generator for each of {len(questions)} questions; got {len(generator)}"
            )
        for number, question in enumerate(questions):
            if not question.strip():
                raise ValueError(f"questions must not be empty; got {question!r} as question {number}")
            if self.limit is not None and (longest := self.longest(question)) > self.limit:
                said = question if len(question) <= 60 else f"{question[:57]}..."
                raise ValueError(
                    f"a conversation must have at most {self.limit} tokens; with {self.rounds} rounds question {number}, "
                    f"{said!r}, may reach {longest}"
                )


def add_answers(talks: Conversations, answers: Sequence[str]) -> list[str]:
    """Add an assistant message to each conversation, and return them."""
    for number, answer in enumerate(each_text(answers, "answers")):
        talks.add_message(number, "assistant", answer)
    return list(answers)


def choices_of(corrected: Sequence[Corrected], read: Callable[[int, str], int | None]) -> Int[Tensor, "question round"]:
    """Return the option selected by each answer, -1 if undecidable.

    **Arguments:**

    - `corrected`: the results of one call, which have the same number of answers.
    - `read`: a function from the index of a question and the text of an answer to the option, from 0; `None` if
      undecidable.

    **Raises:** `ValueError` if there are no results, their numbers of answers differ, or an option is negative.

    **Example:**

    ```python
    from noiselab.dialogue import Corrected, choices_of

    corrected = Corrected("(a) or (b)?", ("(b)", "Who knows", "(a)"), ("wrong", "wrong"), (False, False), (), 0, 0)
    read = lambda number, answer: {"(a)": 0, "(b)": 1}.get(answer)
    assert choices_of([corrected], read).tolist() == [[1, -1, 0]]
    ```
    """
    counts = {len(each.answers) for each in corrected}
    if len(counts) != 1:
        raise ValueError(f"there must be questions, all with the same number of answers; got {sorted(counts)} answers")
    found = [[read(number, answer) for answer in each.answers] for number, each in enumerate(corrected)]
    if any(choice is not None and choice < 0 for row in found for choice in row):
        raise ValueError(f"options must be counted from 0, with None for undecidable answers; got {found}")
    return torch.tensor([[-1 if choice is None else choice for choice in row] for row in found])


def revisions_of(
    corrected: Sequence[Corrected], read: Callable[[int, str], int | None], kind: str = "check-as-context"
) -> list[Revision]:
    """Return each change of option as the revision of a sequence of one token: the option, -1 if undecidable.

    **Arguments:**

    - `corrected`, `read`: as for `choices_of`.
    - `kind`: the label of these changes.

    **Returns:** revisions, sorted by the round in which they happened: `sequence` is the question, `step` the round.

    **Raises:** `ValueError` as for `choices_of`.

    **Example:**

    ```python
    from noiselab.dialogue import Corrected, revisions_of

    corrected = Corrected("(a) or (b)?", ("(b)", "(b)", "(a)"), ("right", "wrong"), (True, False), (), 0, 0)
    read = lambda number, answer: {"(a)": 0, "(b)": 1}.get(answer)
    assert revisions_of([corrected], read) == [(0, 0, 2, 1, 0, "check-as-context")]
    ```
    """
    first, *others = choices_of(corrected, read).split(1, -1)
    return list_revisions(first, others, kind)
