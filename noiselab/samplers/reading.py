"""Predictions read row by row: draws, confidences and entropies, without log-probabilities of all tokens.

What costs most on a CPU is memory that is new or not in the cache. Rows are therefore read in chunks whose work buffers stay
in the cache and are used again, with only the passes that the wanted numbers need.
"""

from collections.abc import Collection, Iterator
from typing import NamedTuple

import torch
from torch import Tensor

from ..categorical import BLOCK, choose
from ..denoisers.checked import LogitCheck
from ..numerics import LOGITS_AT_ONCE
from ..typing import PerRow, RowLogits, RowTokens

CACHED_ENTRIES = 1 << 19
"""Entries of a work buffer on a CPU: with fewer, the overhead of operations exceeds the benefit of the cache."""


class Chunk(NamedTuple):
    r"""Some rows of logits l, with their masses $m_v = \exp((l_v - \max_w l_w) / T)$; valid until the next chunk is read.

    **Arguments:**

    - `some`: which rows.
    - `logits`: of at least float32; they are -inf off the support or end before it.
    - `top`, `best`: the largest logit and the first token that has it, [rows, 1].
    - `below`: $(l_v - \max_w l_w) / T$; overwritten by the masses unless it was asked for.
    - `mass`: the masses, which may be overwritten.
    - `others`: the sum of the masses of all tokens but `best`, [rows, 1]. What is nearly certain keeps its digits by it.
    """

    some: slice
    logits: Tensor
    top: Tensor
    best: Tensor
    below: Tensor
    mass: Tensor
    others: Tensor

    def log_probs_at(self, token: Tensor) -> Tensor:
        """The log-probability of a token of each row, [rows, 1], at T = 1."""
        return (self.logits.gather(-1, token) - self.top) - self.others.log1p()

    def entropy(self) -> Tensor:
        """The entropy of each row in nats, from `below`, which is overwritten; at T = 1."""
        # Both terms are positive, so that no digits are lost; -inf times a mass of 0 would be NaN.
        below = self.below.clamp_(min=torch.finfo(self.below.dtype).min)
        return self.others[:, 0].log1p() - below.mul_(self.mass).sum(-1) / (1 + self.others[:, 0])

    def margin(self) -> Tensor:
        """The logarithm of the difference between the two largest probabilities of each row, float64, from the masses, which
        are overwritten; at T = 1.
        """
        second = self.mass.scatter_(-1, self.best, 0).amax(-1)
        return torch.log1p(-second.double()) - self.others[:, 0].log1p()


def chunks(
    logits: RowLogits, check: LogitCheck, *, temperature: float = 1, keep_below: bool = False
) -> Iterator[Chunk]:
    """The rows of logits, in chunks that fit into the cache.

    **Arguments:**

    - `check`: knows the support.
    - `temperature`: T.
    - `keep_below`: whether `Chunk.below` is needed beside the masses.
    """
    logits = logits.detach()  # into buffers no gradient can flow
    n, states = logits.shape
    entries = CACHED_ENTRIES if logits.device.type == "cpu" else LOGITS_AT_ONCE
    size = max(1, min(n, entries // states))
    buffers: tuple[Tensor, ...] = ()
    for first in range(0, max(n, 1), size):  # without rows, an empty chunk
        some = slice(first, min(first + size, n))
        law = check.narrow(logits[some])
        if not buffers:
            buffers = tuple(law.new_empty(law.shape) for _ in range(1 + keep_below))
        top, best = find_largest(law)
        below = torch.sub(law, top, out=buffers[0][: len(law)])
        if temperature != 1:
            below.div_(temperature)
        mass = torch.exp(below, out=buffers[-1][: len(law)])
        others = mass.scatter_(-1, best, 0).sum(-1, keepdim=True)
        yield Chunk(some, law, top, best, below, mass.scatter_(-1, best, 1), others)


def read_rows(
    logits: RowLogits, check: LogitCheck, u: PerRow | None, wanted: Collection[str] = ()
) -> tuple[RowTokens, dict[str, PerRow]]:
    """A token of each row, drawn or the most probable one, and numbers by name.

    These are "log_confidence", the log-probability of the token, "log_largest", that of the most probable token, and those
    that are wanted.

    **Arguments:**

    - `check`: knows the support.
    - `u`: a uniform number for each row, by which tokens are drawn; by `None` the most probable ones are taken.
    - `wanted`: "entropy", in nats, and "margin", the logarithm of the difference between the two largest probabilities; they
      take more passes. Other names are for the caller.
    """
    tokens, found = [], []
    for chunk in chunks(logits, check, keep_below="entropy" in wanted):
        token = chunk.best if u is None else choose(chunk.mass, u[chunk.some])[:, None]
        numbers = {
            "log_confidence": chunk.log_probs_at(token)[:, 0],
            "log_largest": -chunk.others[:, 0].log1p(),
        }
        if "entropy" in wanted:
            numbers["entropy"] = chunk.entropy()
        if "margin" in wanted:
            numbers["margin"] = chunk.margin()
        tokens.append(token[:, 0])
        found.append(numbers)
    return torch.cat(tokens), {name: torch.cat([part[name] for part in found]) for name in found[0]}


def find_largest(logits: RowLogits) -> tuple[Tensor, Tensor]:
    """The largest logit of each row, and the first token that has it, [rows, 1]."""
    states = logits.shape[-1]
    if states <= 4 * BLOCK or logits.device.type != "cpu":
        return logits.max(-1, keepdim=True)
    # The largest of each block first: on a CPU, a maximum alone is several times as fast as one with its place.
    whole = states // BLOCK * BLOCK
    tops = logits[:, :whole].unflatten(-1, (-1, BLOCK)).amax(-1)
    if whole < states:
        tops = torch.cat([tops, logits[:, whole:].amax(-1, keepdim=True)], -1)
    top, block = tops.max(-1, keepdim=True)
    # Places past the end repeat the last token, which comes before them.
    place = (block * BLOCK + torch.arange(BLOCK, device=logits.device)).clamp(max=states - 1)
    return top, place.gather(-1, logits.gather(-1, place).argmax(-1, keepdim=True))
