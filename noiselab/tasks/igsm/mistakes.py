"""Mistakes in iGSM solutions: steps that begin to compute the wrong parameter and are then deleted by a backspace."""

import math
from collections.abc import Hashable
from typing import Literal, get_args

import torch
from jaxtyping import Int
from torch import Generator, Tensor

from ...autoregressive import EditProcess
from ...autoregressive.streams import one_token
from ...categorical import uniforms
from ...typing import Scalar, TokenSequence
from .problem import Problem
from .text import BACK
from .words import Words

MistakeKind = Literal["retry", "weak", "miss", "filler"]
"""Which wrong steps are inserted into a solution; see `ProblemMistakes`."""


class ProblemMistakes(EditProcess):
    r"""An edit process that inserts mistakes before each step of a solution: beginnings of wrong steps, each followed
    by a backspace.

    While a random number is below the rate and the pool is not empty, a parameter is drawn from the pool without
    replacement and its step is begun; a backspace then deletes everything after the last full stop. With a pool of $n$
    parameters there are $k$ mistakes with probability $p^k (1 - p)^{[k < n]}$; their mean number is $\sum_{k=1}^n p^k$,
    and each sequence of $k$ mistakes has conditional probability $(n - k)! / n!$. Pools are those of the correct
    solution and do not depend on earlier mistakes. There is no mistake before the end token.

    In full iGSM, a mistake is written without the full stop that follows "BACK" in its text, so that it is deleted
    completely. The checker of full iGSM must therefore be called on `clean(z)`; the one of small iGSM accepts both.

    **Arguments:**

    - `problem`: the problem; its solution is the only text of the process.
    - `words`: the tokens of its level.
    - `rate`: $p$, in [0, 1).
    - `kind`: the pool of parameters for mistakes. "retry": parameters that are not known and cannot be computed yet.
      "weak": parameters of later steps. "miss": any unknown parameter except that of the step. "filler": parameters
      that are already known, as an uninformative control.
    - `self_contain`: with "weak", whether the pool also contains the parameter of the step itself, as in the released
      code; the paper excludes it.

    **Raises:** `ValueError` for an invalid rate or kind, for `self_contain` with another kind, or if `words` lacks
    words of the problem.

    **Source:** Ye et al. (2024), arXiv 2408.16293, sections 4 and 6; "filler" is new in this library.

    **Example:**

    ```python
    import random
    import torch
    from noiselab.tasks.igsm import ProblemMistakes, Words, draw_small

    problem, words = draw_small(random.Random(0), level="nano", ops=4), Words("nano")
    mistakes = ProblemMistakes(problem, words, rate=0.5)
    x = words.encode(problem.answer)
    z = mistakes.corrupt(x, generator=torch.Generator().manual_seed(0))
    assert torch.equal(mistakes.clean(z), x)
    assert problem.check(words.decode(z)).retries == int((z == words.back).sum())
    ```
    """

    def __init__(
        self,
        problem: Problem,
        words: Words,
        rate: float | int,
        *,
        kind: MistakeKind = "retry",
        self_contain: bool = False,
    ) -> None:
        super().__init__(words.size, words.back)
        if not 0 <= rate < 1:
            raise ValueError(f"rate must lie in [0, 1); got {rate}")
        if kind not in get_args(MistakeKind):
            raise ValueError(f"kind must be 'retry', 'weak', 'miss' or 'filler'; got {kind!r}")
        if self_contain and kind != "weak":
            raise ValueError(f"self_contain must be False unless kind is 'weak'; got {kind!r}")
        self.problem, self.words, self.rate = problem, words, float(rate)
        self.kind, self.self_contain = kind, self_contain
        self._steps = [words.ids(problem.step(place)) for place in range(len(problem.order))]
        self._answer = [token for step in self._steps for token in step]
        pools = [self.pool(place) for place in range(len(problem.order))]
        written = {parameter: self._mistake(parameter) for parameter in {p for pool in pools for p in pool}}
        self._pools = [[written[parameter] for parameter in pool] for pool in pools]

    def pool(self, place: int) -> tuple[Hashable, ...]:
        """The parameters for which mistakes may be inserted before the step of `order[place]`."""
        order = self.problem.order
        known = order[:place]
        if self.kind == "retry":
            return self.problem.not_ready(known)
        if self.kind == "weak":
            return order[place + (not self.self_contain) :]
        if self.kind == "miss":
            found = set(order[: place + 1])
            return tuple(parameter for parameter in self.problem.needs if parameter not in found)
        return known

    def _mistake(self, parameter: Hashable) -> list[int]:
        said = self.problem.mistake(parameter)
        return self.words.ids(said[: said.index(BACK) + 1])

    def corrupt(self, x: TokenSequence, *, generator: Generator | None = None) -> Int[Tensor, " stream"]:
        """Draw a stream that collapses to the solution.

        **Arguments:**

        - `x`: the tokens of the problem's solution, with or without the end token.
        - `generator`: the source of randomness.

        **Raises:** `ValueError` if `x` is another text.
        """
        counts = self._counts(x, generator)
        picks = iter(uniforms(sum(counts), generator=generator).tolist())
        stream: list[int] = []
        for step, pool, count in zip(self._steps, self._pools, counts, strict=True):
            left = list(pool)
            for _ in range(count):
                stream += left.pop(int(next(picks) * len(left)))
            stream += step
        stream += x.tolist()[len(self._answer) :]
        return torch.tensor(stream, dtype=x.dtype, device=x.device)

    def _counts(self, x: Tensor, generator: Generator | None) -> list[int]:
        """The number of mistakes before each step, from one uniform number each: K >= k if u <= p^k."""
        self._check_text(x)
        if self.rate == 0:
            return [0] * len(self._steps)
        u = 1 - uniforms(len(self._steps), generator=generator)
        counts = (u.log() / math.log(self.rate)).long().tolist()
        return [min(count, len(pool)) for count, pool in zip(counts, self._pools, strict=True)]

    def log_probability(self, z: Int[Tensor, " stream"], x: TokenSequence) -> Scalar:
        """Log q(z | x) in nats, float64; minus infinity if `x` is another text. Each stream has a unique parse."""
        text, stream = x.tolist(), z.tolist()
        log_q = self._log_probability(stream, text) if self._is_text(text) else -math.inf
        return torch.tensor(log_q, dtype=torch.float64, device=x.device)

    def _log_probability(self, stream: list[int], text: list[int]) -> float:
        at, log_q = 0, 0.0
        for step, pool in zip(self._steps, self._pools, strict=True):
            left = list(pool)
            # A mistake ends with the first backspace, and a step has none.
            while stream[at : at + len(step)] != step:
                if self.backspace not in stream[at:] or self.rate == 0:
                    return -math.inf
                end = stream.index(self.backspace, at) + 1
                if (begun := stream[at:end]) not in left:
                    return -math.inf
                log_q += math.log(self.rate) - math.log(len(left))
                left.remove(begun)
                at = end
            if left:
                log_q += math.log1p(-self.rate)
            at += len(step)
        return log_q if stream[at:] == text[len(self._answer) :] else -math.inf

    def expected_length(self, x: TokenSequence) -> float:
        """The expected length of a stream; all mistakes of a pool have the same expected number.

        **Raises:** `ValueError` if `x` is another text.
        """
        self._check_text(x)
        lengths = (
            sum(self.rate**k for k in range(1, len(pool) + 1)) * sum(map(len, pool)) / len(pool)
            for pool in self._pools
            if pool
        )
        return len(x) + sum(lengths)

    def reach(self, text: list[int]) -> int:
        """The position after the last full stop; if that is the last token, a backspace deletes the step that it ends."""
        left = one_token(text)
        while left and text[left - 1] != self.words.full_stop:
            left -= 1
        return left

    def _is_text(self, text: list[int]) -> bool:
        return text in (self._answer, [*self._answer, self.words.end])

    def _check_text(self, x: Tensor) -> None:
        self.check_text(x)
        if not self._is_text(x.tolist()):
            raise ValueError(
                f"x must be the solution of the problem, {self._answer}, with or without the end; got {x.tolist()}"
            )

    def __repr__(self) -> str:
        contain = ", self_contain=True" if self.self_contain else ""
        return f"ProblemMistakes(of {len(self._steps)} steps, {self.words}, {self.rate}, kind={self.kind!r}{contain})"
