"""Answers as sequences of one token, the chosen option: a detector and a reviser by checks in the context."""

from collections.abc import Callable, Sequence
from typing import TypeAlias

import torch
from torch import Generator, Tensor

from ..categorical import Randomness
from ..data.texts import text_list
from ..revisions import Detector, Revised, Reviser
from ..typing import PerToken, Selection, Tokens
from .check_as_context import CheckAsContext, choices_of

WriteAnswer: TypeAlias = Callable[[int, int], str]
"""From the number of a question and an option, counted from 0, to the text of the answer that chooses it."""
ReadAnswer: TypeAlias = Callable[[int, str], int | None]
"""From the number of a question and the text of an answer to the option, counted from 0; None if it cannot be read."""


class CheckDetector(Detector):
    """Scores answers by a check: 1 if the review finds the answer wrong, 0 if right, 0.5 if no verdict can be read.

    A sequence is one answer, as one token: the option.

    **Arguments:**

    - `sampler`: the chat model with its check; its rounds are not used.
    - `questions`: one for each sequence.
    - `write`: the text of an answer.
    - `seed`: of the reviews, where they are random; the same in each call.

    **Raises:** `ValueError`, when called, unless there is one token for each question.
    """

    unit = "answer"

    def __init__(self, sampler: CheckAsContext, questions: Sequence[str], write: WriteAnswer, *, seed: int = 0) -> None:
        self.sampler, self.questions, self.write, self.seed = sampler, text_list(questions, "questions"), write, seed

    def score(self, z: Tokens) -> PerToken:
        """The scores, float64."""
        options = require_answers(z, self.questions)
        answers = [self.write(number, option) for number, option in enumerate(options)]
        found = self.sampler.review_answers(self.questions, answers, generator=Generator().manual_seed(self.seed))
        scores = [0.5 if verdict is None else float(not verdict) for _, verdict in found]
        return torch.tensor(scores, dtype=torch.float64, device=z.device)[:, None]

    def __repr__(self) -> str:
        return f"CheckDetector({self.sampler.check.name!r}, {len(self.questions)} questions)"


class CheckReviser(Reviser):
    r"""Check-as-Context from given answers: each is checked, and the question is answered again with the check in the context.

    A sequence is one answer, as one token: the option. Evaluations are the entries that the network read, so that those per
    token are those per answer. The new answer is -1 where its option cannot be read.

    **Arguments:**

    - `sampler`: the chat model with its check, and the number of rounds.
    - `questions`: one for each sequence.
    - `write`: the text of a given answer.
    - `read`: the option of a written answer.

    **Raises:** `ValueError`, when called, unless there is one token for each question.

    **Example:**

    ```python
    import torch
    from transformers import LlamaConfig, LlamaForCausalLM
    from noiselab.data import character_tokenizer
    from noiselab.dialogue import Chat, CheckAsContext, CheckReviser, right_or_wrong

    check = right_or_wrong(tokens=3, review_prefix="It is")
    tokenizer = character_tokenizer(["user: assistant: 1 or 2?\n", check.ask, check.again])
    sizes = {"hidden_size": 16, "intermediate_size": 32, "num_hidden_layers": 1, "num_attention_heads": 2}
    network = LlamaForCausalLM(LlamaConfig(vocab_size=len(tokenizer), **sizes)).eval()
    template = (
        "{% for m in messages %}{{ m.role + ': ' + m.content }}{{ eos_token if m.role == 'assistant' else '\n' }}{% endfor %}"
        "{% if add_generation_prompt %}{{ 'assistant: ' }}{% endif %}"
    )
    sampler = CheckAsContext(Chat(network, tokenizer, template=template), check, rounds=1, answer_tokens=2)
    read = lambda number, answer: {"1": 0, "2": 1}.get(answer.strip())
    reviser = CheckReviser(sampler, ["1 or 2?"], write=lambda number, option: "12"[option], read=read)
    assert reviser(torch.tensor([[0]])).tokens.shape == (1, 1)
    ```
    """

    kind = "check-as-context"

    def __init__(self, sampler: CheckAsContext, questions: Sequence[str], write: WriteAnswer, read: ReadAnswer) -> None:
        self.sampler, self.questions, self.write, self.read = sampler, text_list(questions, "questions"), write, read

    def revise(self, z: Tokens, *, rows: Selection | None = None, generator: Randomness = None) -> Revised:
        """The options of the last answers."""
        options = require_answers(z, self.questions)
        numbers = list(range(len(z))) if rows is None else rows[:, 0].nonzero()[:, 0].tolist()
        if not numbers:
            return Revised(z, 0)
        if isinstance(generator, Sequence):
            generator = [generator[number] for number in numbers]
        corrected = self.sampler.answer(
            [self.questions[number] for number in numbers],
            first=[self.write(number, options[number]) for number in numbers],
            generator=generator,
        )
        chosen: Tensor = choices_of(corrected, lambda index, answer: self.read(numbers[index], answer))[:, -1:]
        tokens = z.clone()
        tokens[numbers] = chosen.to(z)
        return Revised(tokens, sum(each.entries_read for each in corrected))

    def __repr__(self) -> str:
        return (
            f"CheckReviser({self.sampler.check.name!r}, {len(self.questions)} questions, rounds={self.sampler.rounds})"
        )


def require_answers(z: Tokens, questions: Sequence[str]) -> list[int]:
    """The options, one for each question.

    **Raises:** `ValueError` unless there is one token for each question.
    """
    if z.shape != (len(questions), 1):
        raise ValueError(f"there must be one token for each of {len(questions)} questions; got {list(z.shape)}")
    return z[:, 0].tolist()
