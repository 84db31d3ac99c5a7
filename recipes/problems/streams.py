"""Problems and their solutions as endless streams of training data."""

import itertools
import random
from collections.abc import Callable, Iterator
from typing import TypeVar

import torch
from jaxtyping import Bool, Int
from torch import Generator, Tensor
from torch.utils.data import IterableDataset

from noiselab.autoregressive import EditProcess
from noiselab.tasks.igsm import Problem, Words, can_next_examples
from noiselab.training.noise import derive_seed
from noiselab.typing import TokenSequence

POOL = 16
"""Number of batches drawn together and sorted, so that the rows of a batch have similar lengths."""

TRIES = 1_000
"""Number of consecutive draws without a fitting problem before an error is raised."""


class ProblemStream(IterableDataset):
    r"""Rows of a problem and its solution, with or without mistakes: start, question, stream $z \sim q(\cdot \mid x)$, end.

    The tokens of the solution are scored, because the problem determines them; those of the question are random and are not.

    **Arguments:**

    - `draw`: draws a problem with a `random.Random`.
    - `words`: the tokens of its level.
    - `length`: length of a row, padded at the end; longer rows are redrawn.
    - `batch`: rows in a batch. Rows of one batch have similar lengths; batches are in random order.
    - `mistakes`: the edit process of a problem; `None` for right solutions.
    - `score_mistakes`: whether to score the tokens of mistakes too, or only their deletion.
    - `score_questions`: whether to score the tokens of questions too.
    - `seed`: seed of all randomness.

    **Raises:** `ValueError` if the length or the batch is not positive; while drawing, if almost no problem fits the length.

    **Example:**

    ```python
    from functools import partial
    from noiselab.tasks.igsm import ProblemMistakes, Words, draw_small
    from problems.streams import ProblemStream

    words = Words("nano")
    mistakes = lambda problem: ProblemMistakes(problem, words, rate=0.5)
    rows = ProblemStream(partial(draw_small, level="nano", split="train"), words, 200, batch=4, mistakes=mistakes)
    row = next(iter(rows))
    print(" ".join(words.decode(row["input_ids"][row["attention_mask"].bool()])))
    ```
    """

    endless = True
    key = "drawn"  # from the settings of the run, which are compared

    def __init__(
        self,
        draw: Callable[[random.Random], Problem],
        words: Words,
        length: int,
        *,
        batch: int,
        mistakes: Callable[[Problem], EditProcess] | None = None,
        score_mistakes: bool = True,
        score_questions: bool = False,
        seed: int = 0,
    ) -> None:
        if length < 1 or batch < 1:
            raise ValueError(f"length and batch must be positive; got {length} and {batch}")
        self.draw, self.words, self.length, self.batch, self.mistakes = draw, words, length, batch, mistakes
        self.score_mistakes, self.score_questions, self.seed = score_mistakes, score_questions, seed

    def __iter__(self) -> Iterator[dict[str, Tensor]]:
        """Yield rows endlessly: `input_ids`, `attention_mask` and `scored`."""
        problems = random.Random(derive_seed("problems", self.seed))
        noise = Generator().manual_seed(derive_seed("mistakes", self.seed))
        drawn = iter(lambda: self._row(problems, noise), None)
        for tokens, scored in batch_by_length(drawn, self.batch, problems, length=lambda row: len(row[0])):
            yield {
                "input_ids": pad_row(tokens, self.length, self.words.padding),
                "attention_mask": pad_row(torch.ones_like(tokens), self.length),
                "scored": pad_row(scored.long(), self.length),
            }

    def mean_length(self, rows: int = 2000) -> float:
        """The mean number of tokens of a row without padding, estimated on other rows than those of training."""
        problems = random.Random(derive_seed("lengths", self.seed))
        noise = Generator().manual_seed(derive_seed("lengths", self.seed))
        return sum(len(self._row(problems, noise)[0]) for _ in range(rows)) / rows

    def _row(self, problems: random.Random, noise: Generator) -> tuple[Int[Tensor, " row"], Bool[Tensor, " row"]]:
        """Draw the tokens of a row and the mask of scored tokens."""
        words = self.words
        for _ in range(TRIES):
            problem = self.draw(problems)
            z = words.encode(problem.answer)
            edits = None if self.mistakes is None else self.mistakes(problem)
            if edits is not None:
                z = edits.corrupt(z, generator=noise)
            question = words.encode(problem.question)
            tokens = torch.cat([torch.tensor([words.start]), question, z, torch.tensor([words.end])])
            if len(tokens) <= self.length:
                scored = torch.ones_like(tokens, dtype=torch.bool)
                scored[: 1 + len(question)] = self.score_questions
                if edits is not None and not self.score_mistakes:
                    scored[1 + len(question) : -1] &= ~edits.wrong(z)
                return tokens, scored
        raise ValueError(f"rows must fit the length, {self.length}; got none that does in {TRIES} draws")


class ProblemBlocks(IterableDataset):
    """Rows for a diffusion model: start, question, a block of fixed length with the solution, end and padding; then padding.

    The block is scored, so the model also learns where a solution ends. All other tokens are given.

    **Arguments:**

    - `draw`, `words`, `seed`: as for `ProblemStream`.
    - `length`: length of a row; `block`: length of its block. Problems that do not fit are redrawn.

    **Raises:** `ValueError` unless 0 < `block` < `length`; while drawing, if almost no problem fits.

    **Example:**

    ```python
    from functools import partial
    from noiselab.tasks.igsm import Words, draw_small
    from problems.streams import ProblemBlocks

    words = Words("logic")
    row = next(iter(ProblemBlocks(partial(draw_small, level="logic"), words, length=128, block=48)))
    print(" ".join(words.decode(row["input_ids"][row["scored"].bool()])))
    ```
    """

    endless = True
    key = "drawn"  # from the settings of the run, which are compared

    def __init__(
        self, draw: Callable[[random.Random], Problem], words: Words, length: int, *, block: int, seed: int = 0
    ) -> None:
        if not 0 < block < length:
            raise ValueError(f"block must lie between 0 and length; got {block} and {length}")
        self.draw, self.words, self.length, self.block, self.seed = draw, words, length, block, seed

    def __iter__(self) -> Iterator[dict[str, Tensor]]:
        """Yield rows endlessly: `input_ids` and `scored`."""
        problems = random.Random(derive_seed("problems", self.seed))
        words, misses = self.words, 0
        while misses < TRIES:
            problem = self.draw(problems)
            question = torch.cat([torch.tensor([words.start]), words.encode(problem.question)])
            solution = torch.cat([words.encode(problem.answer), torch.tensor([words.end])])
            misses += 1
            if len(solution) <= self.block and len(question) + self.block <= self.length:
                misses = 0
                scored = torch.zeros(self.length, dtype=torch.long)
                scored[len(question) : len(question) + self.block] = 1
                yield {
                    "input_ids": pad_row(torch.cat([question, solution]), self.length, words.padding),
                    "scored": scored,
                }
        raise ValueError(
            f"problems must fit the length, {self.length}, and block, {self.block}; got none that does in {TRIES} draws"
        )


class CanNextStream(IterableDataset):
    """Endless training rows of a probe: a solution up to some step, "D A as", and whether A can be computed next.

    **Arguments:**

    - `draw`: draws a problem with a `random.Random`.
    - `words`: the tokens of its level.
    - `length`: length of a row, padded at the end; longer rows are redrawn.
    - `batch`: rows in a batch. Rows of one batch have similar lengths; batches are in random order.
    - `each`: number of rows per problem.
    - `balanced`: as for `can_next_examples`.
    - `seed`: seed of all randomness.

    **Raises:** `ValueError` if a number is not positive; while drawing, if almost no row fits the length.

    **Example:**

    ```python
    from functools import partial
    from noiselab.tasks.igsm import Words, draw_small
    from problems.streams import CanNextStream

    words = Words("nano")
    rows = CanNextStream(partial(draw_small, level="nano", split="train"), words, 200, batch=4)
    row = next(iter(rows))
    print(" ".join(words.decode(row["input_ids"][row["attention_mask"].bool()])), int(row["label"]))
    ```
    """

    endless = True
    key = "drawn"  # from the settings of the run, which are compared

    def __init__(
        self,
        draw: Callable[[random.Random], Problem],
        words: Words,
        length: int,
        *,
        batch: int,
        each: int = 4,
        balanced: bool = False,
        seed: int = 0,
    ) -> None:
        if min(length, batch, each) < 1:
            raise ValueError(f"length, batch and each must be positive; got {length}, {batch} and {each}")
        self.draw, self.words, self.length, self.batch = draw, words, length, batch
        self.each, self.balanced, self.seed = each, balanced, seed

    def __iter__(self) -> Iterator[dict[str, Tensor]]:
        """Yield rows endlessly: `input_ids`, `attention_mask` and `label`."""
        generator = random.Random(derive_seed("probe", self.seed))
        for tokens, label in batch_by_length(
            self._rows(generator), self.batch, generator, length=lambda row: len(row[0])
        ):
            yield {
                "input_ids": pad_row(tokens, self.length, self.words.padding),
                "attention_mask": pad_row(torch.ones_like(tokens), self.length),
                "label": label.long(),
            }

    def _rows(self, generator: random.Random) -> Iterator[tuple[Tensor, Tensor]]:
        misses = 0
        while misses < TRIES:
            found = can_next_examples(self.draw(generator), self.words, generator, self.each, balanced=self.balanced)
            for tokens, label in zip(found.rows, found.labels, strict=True):
                misses = 0 if len(tokens) <= self.length else misses + 1
                if not misses:
                    yield tokens, label
        raise ValueError(f"rows must fit the length, {self.length}; got none that does in {TRIES} draws")


Row = TypeVar("Row")


def batch_by_length(
    rows: Iterator[Row], batch: int, generator: random.Random, *, length: Callable[[Row], int]
) -> Iterator[Row]:
    """Reorder rows so that those of a batch have similar lengths and batches are in random order.

    **Arguments:**

    - `rows`: an endless iterator; the rows of `POOL` batches are drawn before the first one is yielded.
    - `batch`: number of rows in a batch.
    - `generator`: randomness of the order.
    - `length`: returns the length of a row.
    """
    while True:
        pool = sorted(itertools.islice(rows, POOL * batch), key=length)
        batches = [pool[first : first + batch] for first in range(0, len(pool), batch)]
        generator.shuffle(batches)
        yield from (row for rows_of in batches for row in rows_of)


def pad_row(row: Int[Tensor, " row"], length: int, value: int = 0) -> TokenSequence:
    """Pad a row to the length with a value."""
    return torch.nn.functional.pad(row, (0, length - len(row)), value=value)
