"""Edit processes that insert random wrong tokens, each followed by backspaces that delete them."""

import math
from abc import abstractmethod
from collections.abc import Sequence

import torch
from jaxtyping import Bool, Int
from torch import Generator, Tensor

from ..categorical import uniforms
from ..typing import Scalar, TokenSequence
from .edits import EditProcess
from .streams import last_boundary
from .wrong_tokens import Without, WrongTokens


class RandomMistakes(EditProcess):
    r"""Inserts $K_i$ mistakes before token $x_i$, $P(K_i = k) = (1 - p) p^k$: wrong tokens followed by backspaces that
    delete them.

    $$q(z \mid x) = \prod_i (1 - p) \prod_{j \le K_i} p \, \nu(e_{ij} \mid x)$$

    over the positions $i$ where a mistake is possible. A subclass defines these positions and the lengths of mistakes
    in `sizes` and `backspaces`.

    **Arguments:**

    - `vocab_size`, `backspace`: as for `EditProcess`.
    - `rate`: the rate $p$ of mistakes, in [0, 1).
    - `wrong`: the distribution $\nu$ of wrong tokens; it must not draw the backspace.

    **Raises:** `ValueError` if the rate is out of range.
    """

    def __init__(self, vocab_size: int, backspace: int, rate: float | int, wrong: WrongTokens) -> None:
        super().__init__(vocab_size, backspace)
        if not 0 <= rate < 1:
            raise ValueError(f"rate must lie in [0, 1); got {rate}")
        self.rate, self.wrong_tokens = float(rate), wrong

    @abstractmethod
    def sizes(self, x: TokenSequence) -> TokenSequence:
        """The number of wrong tokens of a mistake before each token; 0 where none is possible.

        A mistake before token i replaces the tokens i, i + 1, ... of the text; it must not extend beyond its end.
        """

    @abstractmethod
    def backspaces(self, sizes: TokenSequence) -> TokenSequence:
        """The number of backspaces that delete mistakes of these sizes."""

    def corrupt(self, x: TokenSequence, *, generator: Generator | None = None) -> Int[Tensor, " stream"]:
        """Draw a stream that collapses to `x`."""
        self.check_text(x)
        sizes = self.sizes(x)
        # From one uniform number: K >= k if u <= p^k.
        u = 1 - uniforms(len(x), generator=generator, device=x.device)
        counts = (u.log() / math.log(self.rate)).long() if self.rate > 0 else torch.zeros_like(x)
        whole = sizes + self.backspaces(sizes)
        ends = (counts * whole + 1).cumsum(0) - 1
        z = torch.full((int(ends[-1]) + 1 if len(x) else 0,), self.backspace, dtype=x.dtype, device=x.device)
        z[ends] = x
        mistake = torch.arange(len(x), device=x.device).repeat_interleave(counts)
        number = torch.arange(len(mistake), device=x.device) - (counts.cumsum(0) - counts)[mistake]
        first = (ends - counts * whole)[mistake] + number * whole[mistake]
        token = torch.arange(len(mistake), device=x.device).repeat_interleave(sizes[mistake])
        inside = torch.arange(len(token), device=x.device)
        inside = inside - (sizes[mistake].cumsum(0) - sizes[mistake])[token]
        z[first[token] + inside] = self.wrong_tokens.draw(x, mistake[token] + inside, generator=generator).to(x.dtype)
        return z

    def log_probability(self, z: Int[Tensor, " stream"], x: TokenSequence) -> Scalar:
        """Log q(z | x). Each stream has a unique parse, because a wrong token is never the correct one."""
        self.check_text(x)
        nothing = torch.full((), -math.inf, dtype=torch.float64, device=x.device)
        sizes = self.sizes(x)
        text, stream, length = x.tolist(), z.tolist(), sizes.tolist()
        undo = self.backspaces(sizes).tolist()
        at, mistakes = 0, 0
        places: list[int] = []
        tokens: list[int] = []
        for i, right in enumerate(text):
            while at < len(stream) and stream[at] != right:
                size, back = length[i], undo[i]
                wrong, after = stream[at : at + size], stream[at + size : at + size + back]
                if not size or self.backspace in wrong or after != [self.backspace] * back:
                    return nothing
                places += range(i, i + size)
                tokens += wrong
                mistakes, at = mistakes + 1, at + size + back
            at += 1
        if at != len(stream):
            return nothing
        where = torch.tensor(places, dtype=torch.long, device=x.device)
        what = torch.tensor(tokens, dtype=torch.long, device=x.device)
        log_wrong = self.wrong_tokens.log_probability(x, where, what).sum() if places else nothing.new_zeros(())
        log_rate = mistakes * math.log(self.rate) if self.rate > 0 else (-math.inf if mistakes else 0.0)
        return log_wrong + log_rate + int((sizes > 0).sum()) * math.log1p(-self.rate)

    def expected_length(self, x: TokenSequence) -> float:
        """The length of `x` plus the mean length of mistakes, p / (1 - p) of them at each possible position."""
        sizes = self.sizes(x)
        return len(x) + self.rate / (1 - self.rate) * int((sizes + self.backspaces(sizes)).sum())


class RandomTokenBackspace(RandomMistakes):
    r"""Inserts one wrong token and a backspace before any token, or `span` wrong tokens and the same number of
    backspaces.

    With spans of $k$, a stream is longer than its text by a factor of $1 + 2 k p / (1 - p)$.

    **Arguments:**

    - `vocab_size`, `backspace`, `rate`, `wrong`: as for `RandomMistakes`.
    - `span`: the number of wrong tokens of a mistake; smaller near the end of a text.

    **Raises:** `ValueError` if `span` is less than 1.

    **Example:**

    ```python
    import torch
    from noiselab.autoregressive import RandomTokenBackspace, UniformTokens

    edits = RandomTokenBackspace(vocab_size=11, backspace=10, rate=0.2, wrong=UniformTokens(10))
    x = torch.arange(10)
    z = edits.corrupt(x, generator=torch.Generator().manual_seed(0))
    assert torch.equal(edits.clean(z), x) and edits.log_probability(z, x) < 0
    ```
    """

    def __init__(
        self, vocab_size: int, backspace: int, rate: float | int, wrong: WrongTokens, *, span: int = 1
    ) -> None:
        super().__init__(vocab_size, backspace, rate, wrong)
        if span < 1:
            raise ValueError(f"span must be at least 1 token; got {span}")
        self.span = span

    def sizes(self, x: TokenSequence) -> TokenSequence:
        """`span` tokens, or fewer near the end of the text or where no wrong token is possible."""
        return _runs(self.wrong_tokens.possible(x), self.span)

    def backspaces(self, sizes: TokenSequence) -> TokenSequence:
        """One for each wrong token."""
        return sizes

    def __repr__(self) -> str:
        span = "" if self.span == 1 else f", span={self.span}"
        return f"RandomTokenBackspace({self.vocab_size}, {self.backspace}, {self.rate}, {self.wrong_tokens}{span})"


class StepBackspace(RandomMistakes):
    """Inserts the beginning of a wrong step before a step of the text, and one backspace that deletes it.

    Steps end with `boundary` tokens; a backspace deletes everything after the last of them.

    **Arguments:**

    - `vocab_size`, `backspace`, `rate`, `wrong`: as for `RandomMistakes`; boundaries are never drawn.
    - `boundary`: the tokens that end a step, for example a full stop.
    - `size`: the number of wrong tokens of a mistake; smaller near the end of a text.

    **Raises:** `ValueError` if `size` is less than 1, or there is no boundary.

    **Example:**

    ```python
    import torch
    from noiselab.autoregressive import StepBackspace, UniformTokens

    edits = StepBackspace(11, backspace=10, rate=0.5, wrong=UniformTokens(9), boundary=[9], size=3)
    z = edits.corrupt(torch.tensor([1, 2, 9, 4, 5, 9]), generator=torch.Generator().manual_seed(0))
    assert edits.clean(z).tolist() == [1, 2, 9, 4, 5, 9]
    ```
    """

    def __init__(
        self,
        vocab_size: int,
        backspace: int,
        rate: float | int,
        wrong: WrongTokens,
        *,
        boundary: Sequence[int],
        size: int,
    ) -> None:
        if size < 1 or not boundary:
            raise ValueError(f"there must be a boundary, and a mistake of at least 1 token; got {boundary} and {size}")
        super().__init__(vocab_size, backspace, rate, Without(wrong, boundary))
        self.boundary, self.size = tuple(boundary), size

    def sizes(self, x: TokenSequence) -> TokenSequence:
        """`size` tokens at the beginning of a step."""
        ends = torch.isin(x, torch.tensor(self.boundary, device=x.device))
        starts = torch.cat([ends.new_ones(min(1, len(x))), ends[:-1]])
        return torch.where(starts, _runs(self.wrong_tokens.possible(x), self.size), 0)

    def backspaces(self, sizes: TokenSequence) -> TokenSequence:
        """One."""
        return (sizes > 0).long()

    def reach(self, text: list[int]) -> int:
        """The position after the last boundary; if that is the last token, a backspace deletes the step that it ends."""
        return last_boundary(text, self.boundary)

    def __repr__(self) -> str:
        what = f"{self.rate}, {self.wrong_tokens}, boundary={self.boundary}, size={self.size}"
        return f"StepBackspace({self.vocab_size}, {self.backspace}, {what})"


def _runs(possible: Bool[Tensor, " length"], most: int) -> TokenSequence:
    """The number of consecutive possible positions from each one, up to `most`."""
    run, reached = torch.zeros_like(possible, dtype=torch.long), possible
    for _ in range(min(most, len(possible))):
        run = run + reached
        reached = torch.cat([reached[1:], reached.new_zeros(1)]) & possible
    return run
