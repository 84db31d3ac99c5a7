"""Mixings that do not move with time: one token, a set of tokens, a row of frequencies."""

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from .base import HostCopy, Mixing


class Absorbing(Mixing):
    """All mass on one token, usually a mask token that no data contain.

    **Arguments:**

    - `token`: in [0, `vocab_size`).
    - `vocab_size`: number of tokens, the absorbing one included.

    **Raises:** `ValueError` for a token outside the vocabulary.
    """

    def __init__(self, token: int, vocab_size: int):
        super().__init__()
        if not 0 <= token < vocab_size:
            raise ValueError(f"the absorbing token must lie in [0, {vocab_size}); got {token}")
        self.token, self.vocab_size = token, vocab_size

    def probs(self, t: Float[Tensor, "*batch"]) -> Float[Tensor, "*batch state"]:
        """One-hot at every time."""
        return (torch.arange(self.vocab_size, device=t.device) == self.token).to(t).expand(*t.shape, -1)

    def at(self, z: Int[Tensor, "batch length"], t: Float[Tensor, "batch time"]) -> Float[Tensor, "batch ..."]:
        """1 on the token, 0 elsewhere."""
        return (z == self.token).to(t)

    def choose(self, u: Float[Tensor, "batch length"], t: Float[Tensor, "batch time"]) -> Int[Tensor, "batch length"]:
        """Always the token."""
        return torch.full_like(u, self.token, dtype=torch.long)

    def profile(self, support: Bool[Tensor, " state"]) -> float | Float[Tensor, " state"] | None:
        """0, unless data may contain the token."""
        return None if support[self.token] else 0.0

    def __repr__(self) -> str:
        return f"Absorbing({self.token})"


class Uniform(Mixing):
    """The same probability on every token of a set.

    **Arguments:**

    - `tokens`: a number of tokens, for all of them, or a Bool of shape [state] that selects some.

    **Raises:** `ValueError` if no token is selected, or `tokens` are no Bool (a list of ids, say).
    """

    on: Tensor
    members: Tensor

    def __init__(self, tokens: int | Bool[Tensor, " state"]):
        super().__init__()
        on = torch.ones(tokens, dtype=torch.bool) if isinstance(tokens, int) else tokens.detach().clone()
        if on.dtype != torch.bool or on.dim() != 1:
            raise ValueError(f"tokens must be a number or Bool of shape [state]; got {on.dtype} {list(on.shape)}")
        self.vocab_size, self.count = on.numel(), int(on.sum())
        if self.count == 0:
            raise ValueError(f"uniform noise needs at least one token; got none of {self.vocab_size}")
        self.register_buffer("on", on)
        self.register_buffer("members", on.nonzero()[:, 0])
        self._host = HostCopy()

    def probs(self, t: Float[Tensor, "*batch"]) -> Float[Tensor, "*batch state"]:
        """1 / count on the set."""
        return (self.on.to(t) / self.count).expand(*t.shape, -1)

    def at(self, z: Int[Tensor, "batch length"], t: Float[Tensor, "batch time"]) -> Float[Tensor, "batch ..."]:
        """1 / count on the set, 0 elsewhere."""
        return self.on[z].to(t) / self.count

    def choose(self, u: Float[Tensor, "batch length"], t: Float[Tensor, "batch time"]) -> Int[Tensor, "batch length"]:
        """The member that `u` falls on."""
        return self.members[(u * self.count).long()]

    def profile(self, support: Bool[Tensor, " state"]) -> float | Float[Tensor, " state"] | None:
        """A number where all data tokens belong to the set, or none does; else a row."""
        inside = self._host.of(self.on)[support]
        if inside.all():
            return 1 / self.count
        return self.on.double() / self.count if inside.any() else 0.0

    def __repr__(self) -> str:
        return (
            f"Uniform({self.count})" if self.count == self.vocab_size else f"Uniform({self.count} of {self.vocab_size})"
        )


class Unigram(Mixing):
    """A fixed distribution, for example the token frequencies of a corpus.

    **Arguments:**

    - `row`: non-negative, summing to 1 (to 1e-6; it is normalised in float64).

    **Raises:** `ValueError` if `row` is no distribution.
    """

    row: Tensor
    cumulative: Tensor

    def __init__(self, row: Float[Tensor, " state"]):
        super().__init__()
        row = row.detach().double()
        if not (row >= 0).all() or abs(row.sum().item() - 1) > 1e-6:
            raise ValueError(
                f"row must be a distribution: non-negative, with sum 1; got sum {row.sum().item():.9g}, "
                f"smallest entry {row.min().item():.3g}"
            )
        self.vocab_size = row.numel()
        self.register_buffer("row", row / row.sum())
        cumulative = self.row.cumsum(0)
        # Rounding must not leave anything behind the last token that has mass.
        last = int(self.row.nonzero()[-1])
        self.register_buffer("cumulative", torch.cat([cumulative[:last], torch.ones_like(cumulative[last:])]))

    def probs(self, t: Float[Tensor, "*batch"]) -> Float[Tensor, "*batch state"]:
        """The row, at every time."""
        return self.row.to(t).expand(*t.shape, -1)

    def at(self, z: Int[Tensor, "batch length"], t: Float[Tensor, "batch time"]) -> Float[Tensor, "batch ..."]:
        """The row's entries."""
        return self.row.to(t)[z]

    def choose(self, u: Float[Tensor, "batch length"], t: Float[Tensor, "batch time"]) -> Int[Tensor, "batch length"]:
        """By inverse CDF, with the cumulative sums made once."""
        return torch.searchsorted(self.cumulative, u.contiguous(), right=True).clamp(max=self.vocab_size - 1)

    def profile(self, support: Bool[Tensor, " state"]) -> float | Float[Tensor, " state"] | None:
        """The row."""
        return self.row

    def __repr__(self) -> str:
        return f"Unigram({self.vocab_size})"
