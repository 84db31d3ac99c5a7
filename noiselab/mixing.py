"""What replaces destroyed tokens: distributions over the vocabulary, and weighted sums of them kept factored."""

import abc
from collections.abc import Sequence
from typing import NamedTuple

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from .categorical import choose
from .exact import Exact


class HostCopy:
    """A copy of a tensor that can be read without stalling a GPU, renewed when the tensor is replaced or written to."""

    def __init__(self) -> None:
        self.seen: tuple[Tensor, int, Tensor] | None = None

    def of(self, tensor: Tensor) -> Tensor:
        """The tensor on the host."""
        if self.seen is None or self.seen[0] is not tensor or self.seen[1] != tensor._version:
            self.seen = (tensor, tensor._version, tensor.cpu())
        return self.seen[2]


class Mixing(Exact, abc.ABC):
    r"""A distribution $\pi_t$ over the vocabulary, possibly moving with time.

    A subclass sets `vocab_size` and writes `probs`. The other methods are derived from it; each may be overridden for
    speed, and `noiselab.testing` compares every override with the definition it replaces. Times reach these methods as
    float64 of shape [batch, 1 or length].
    """

    vocab_size: int

    # Write this one.

    @abc.abstractmethod
    def probs(self, t: Float[Tensor, "*batch"]) -> Float[Tensor, "*batch state"]:
        """The distribution at the times `t`: non-negative, each row sums to 1."""

    # Derived from it; may be overridden for speed only.

    def at(self, z: Int[Tensor, "batch length"], t: Float[Tensor, "batch time"]) -> Float[Tensor, "batch ..."]:
        """The probability of the tokens `z`, of a shape that broadcasts with `z`."""
        p = self.probs(t)
        return p.expand(*z.shape, -1).gather(-1, z[..., None])[..., 0]

    def choose(self, u: Float[Tensor, "batch length"], t: Float[Tensor, "batch time"]) -> Int[Tensor, "batch length"]:
        """The tokens that the uniform numbers `u` select."""
        return choose(self.probs(t).expand(*u.shape, -1), u)

    def profile(self, support: Bool[Tensor, " state"]) -> float | Float[Tensor, " state"] | None:
        """`probs` as the data tokens see it, in its smallest form; this alone decides how dense the bound is.

        **Arguments:**

        - `support`: the tokens that data consist of, on the host, so that reading it stalls no GPU.

        **Returns:** a number if `probs` is that number on all of `support` at every time (0.0 where noise and data
        never meet); a row if it is fixed in time (entries off `support` are not read); `None` if it moves, so that
        `probs` must be asked.
        """
        return None


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


class Mass(NamedTuple):
    """A measure over tokens for each [batch, 1 or length] entry, kept factored: the sum of weights[..., k] * parts[k].

    Nothing of size [batch, length, state] is built unless `dense` is asked for.
    """

    weights: Tensor  # float64 [batch, 1 or length, K]
    parts: Sequence[Mixing]  # K of them
    t: Tensor  # float64 [batch, 1 or length]

    def at(self, z: Tensor) -> Tensor:
        """The mass of the tokens `z`."""
        terms = [w * part.at(z, self.t) for w, part in zip(self.weights.unbind(-1), self.parts, strict=True)]
        return torch.stack(terms).sum(0) if len(terms) > 1 else terms[0]

    def total(self) -> Tensor:
        """The mass of all tokens together."""
        return self.weights.sum(-1)

    def dense(self) -> Tensor:
        """The mass of every token, [batch, 1 or length, state]."""
        weighted = zip(self.weights.unbind(-1), self.parts, strict=True)
        first, *others = (w[..., None] * part.probs(self.t) for w, part in weighted)
        return sum(others, start=first)

    def choose(self, u: Tensor, which: Tensor) -> Tensor:
        """Tokens of the normalised measure; `which` selects the part, `u` the token, both uniform [batch, length]."""
        z = self.parts[0].choose(u, self.t)
        if len(self.parts) > 1:
            part = choose(self.weights.expand(*u.shape, -1), which)
            for k, mixing in enumerate(self.parts[1:], 1):
                z = torch.where(part == k, mixing.choose(u, self.t), z)
        return z
