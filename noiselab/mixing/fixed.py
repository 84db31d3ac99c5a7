"""Mixings that are constant in time: one token, a set of tokens, a row of frequencies."""

from collections.abc import Iterable
from typing import Any

import torch
from jaxtyping import Float, Int, Real
from torch import Tensor

from ..numerics import require_count, require_number, require_tensor, require_token
from ..typing import Elementwise, ElementwiseProbs, PerToken, TokenProbs, Tokens, TokenSet, TokenTimes
from .base import HostCopy, Mixing

GATHERED = 1 << 16  # token ids counted at once


def support_without(vocab_size: int, ids: int | Iterable[int] | Int[Tensor, "..."]) -> TokenSet:
    """All tokens except the given ones, such as the support of data without special tokens.

    **Arguments:**

    - `vocab_size`: number of tokens.
    - `ids`: the token or tokens to leave out, for example a tokenizer's `all_special_ids`; duplicates are allowed.

    **Raises:** `ValueError` for an id outside the vocabulary or none at all (`None`), or if no token is left.

    **Example:**

    ```python
    import noiselab as nl

    assert nl.mixing.support_without(5, [0, 4]).tolist() == [False, True, True, True, False]
    ```
    """
    vocab_size = require_count("vocab_size", vocab_size)
    several = ids.flatten().tolist() if isinstance(ids, Tensor) else ids if isinstance(ids, Iterable) else [ids]
    support = torch.ones(vocab_size, dtype=torch.bool)
    for token in several:
        support[require_token("tokens to leave out", token, vocab_size)] = False
    if not support.any():
        raise ValueError(f"at least one token must be left; got all {vocab_size} to leave out")
    return support


class Absorbing(Mixing):
    """All mass on one token, usually a mask token that does not occur in data.

    **Arguments:**

    - `token`: in [0, `vocab_size`).
    - `vocab_size`: the number of tokens, including the absorbing one.

    **Raises:** `ValueError` for a token outside the vocabulary.
    """

    fixed = True

    def __init__(self, token: int, vocab_size: int):
        super().__init__()
        self.vocab_size = require_count("vocab_size", vocab_size)
        self.token = require_token("the absorbing token", token, vocab_size)
        self.only = self.token

    def probs(self, t: Elementwise) -> ElementwiseProbs:
        """One-hot at every time."""
        return (torch.arange(self.vocab_size, device=t.device) == self.token).to(t).expand(*t.shape, -1)

    def at(self, z: Tokens, t: TokenTimes) -> Float[Tensor, "batch ..."]:
        """1 on the token, 0 elsewhere."""
        return (z == self.token).to(t)

    def choose(self, u: PerToken, t: TokenTimes) -> Tokens:
        """Always the token."""
        return torch.full_like(u, self.token, dtype=torch.long)

    def profile(self, support: TokenSet) -> float | TokenProbs | None:
        """0, unless data may contain the token; then a row."""
        return (torch.arange(self.vocab_size) == self.token).double() if support[self.token] else 0.0

    def __repr__(self) -> str:
        return f"Absorbing({self.token})"


class Uniform(Mixing):
    """The same probability on every token of a set.

    **Arguments:**

    - `tokens`: the size of the vocabulary, to use all of it, or a Bool tensor of shape [state] that selects tokens.
      `Uniform.without` takes the ids of the tokens to leave out.

    **Raises:** `ValueError` if no token is selected, or `tokens` is something else, such as a list of ids.
    """

    on: Tensor
    members: Tensor
    share: Tensor
    fixed = True

    def __init__(self, tokens: int | TokenSet):
        super().__init__()
        if not isinstance(tokens, int | Tensor) or isinstance(tokens, bool):
            raise ValueError(f"tokens must be a number or Bool of shape [state]; got {tokens!r}; see Uniform.without")
        if isinstance(tokens, int):
            tokens = torch.ones(max(0, tokens), dtype=torch.bool)
        on = tokens.detach().clone()
        if on.dtype != torch.bool or on.dim() != 1:
            raise ValueError(f"tokens must be a number or Bool of shape [state]; got {on.dtype} {list(on.shape)}")
        self.vocab_size, self.count = on.numel(), int(on.sum())
        if self.count == 0:
            raise ValueError(f"uniform noise needs at least one token; got none of {self.vocab_size}")
        self.register_buffer("on", on)
        self.register_buffer("members", on.nonzero()[:, 0])
        self.register_buffer("share", on.double() / self.count, persistent=False)
        self.each, rest = 1 / self.count, (~on).nonzero()[:, 0].tolist()
        self.missing = rest[0] if len(rest) == 1 else None
        first = int(self.members[0])
        self.first = first if int(self.members[-1]) - first + 1 == self.count else None  # of members side by side
        self._host = HostCopy()

    @classmethod
    def without(cls, vocab_size: int, ids: int | Iterable[int] | Int[Tensor, "..."]) -> "Uniform":
        """Uniform over all tokens except the given ones; arguments and errors are those of `support_without`."""
        return cls(support_without(vocab_size, ids))

    def probs(self, t: Elementwise) -> ElementwiseProbs:
        """1 / count on the set."""
        return (self.on.to(t) / self.count).expand(*t.shape, -1)

    def at(self, z: Tokens, t: TokenTimes) -> Float[Tensor, "batch ..."]:
        """1 / count on the set, 0 elsewhere."""
        return self.share[z].to(t)

    def choose(self, u: PerToken, t: TokenTimes) -> Tokens:
        """The member that `u` selects."""
        index = (u * self.count).long()
        if self.first is None:
            return self.members[index]
        return index + self.first if self.first else index

    def profile(self, support: TokenSet) -> float | TokenProbs | None:
        """A number if all data tokens or none belong to the set; else a row."""
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
    - `support`: the tokens that may have mass, Bool of shape [state]; `None` for all of them.

    **Raises:** `ValueError` if `row` is not a distribution, or has mass outside `support`.
    """

    row: Tensor
    cumulative: Tensor
    fixed = True

    def __init__(self, row: TokenProbs, *, support: TokenSet | None = None):
        super().__init__(support)
        row = require_tensor("row", row, "state").detach().double()
        if not (row >= 0).all() or abs(row.sum().item() - 1) > 1e-6:
            raise ValueError(
                f"row must be a distribution: non-negative, with sum 1; got sum {row.sum().item():.9g}, "
                f"smallest entry {row.min().item():.3g}"
            )
        if support is not None:
            check_support(support, row.numel())
            outside = (row > 0) & ~support.to(row.device)
            if outside.any():
                token = int(outside.nonzero()[0])
                raise ValueError(
                    f"mixing must have no mass outside its support; got {row[token].item():.6g} on token {token}"
                )
        self.vocab_size = row.numel()
        self.set_row(row / row.sum())

    def set_row(self, row: TokenProbs) -> None:
        """Replace the row by another, which must be a float64 distribution and is not normalised again."""
        self.register_buffer("row", row)
        cumulative = self.row.cumsum(0)
        # Rounding must not leave mass after the last token that has any.
        last = int(self.row.nonzero()[-1])
        self.register_buffer("cumulative", torch.cat([cumulative[:last], torch.ones_like(cumulative[last:])]))

    @classmethod
    def from_counts(
        cls, counts: Real[Tensor, " state"], *, smoothing: float | int = 0.0, support: TokenSet | None = None
    ) -> "Unigram":
        r"""The relative frequencies of counted tokens.

        $$\pi(v) = \frac{c_v + s}{\sum_{u \in S} (c_u + s)} \quad \text{on the support } S, \text{ else } 0$$

        **Arguments:**

        - `counts`: how often each token occurred, or any non-negative weights.
        - `smoothing`: added to each count, so that tokens that never occurred have mass too.
        - `support`: the tokens that get mass; the counts of others, such as special tokens, are ignored.

        **Raises:** `ValueError` for negative numbers, or if the counts sum to 0.

        **Example:**

        ```python
        import torch
        import noiselab as nl

        counts = torch.tensor([90, 6, 3, 0, 50])
        words = nl.Unigram.from_counts(counts, smoothing=1, support=nl.mixing.support_without(5, [4]))
        assert torch.allclose(words.row, torch.tensor([91, 7, 4, 1, 0]).double() / 103)
        ```
        """
        mass = require_tensor("counts", counts, "state").detach().double()
        if not (mass >= 0).all():
            raise ValueError(f"counts must be non-negative and finite; got {mass.min().item():.6g}")
        mass = mass + require_number("smoothing", smoothing, 0)
        if support is not None:
            check_support(support, mass.numel())
            mass = torch.where(support.to(mass.device), mass, 0)
        if mass.sum() == 0:
            raise ValueError("counts must not all vanish on the support; got none there, and no smoothing")
        return cls(mass / mass.sum(), support=support)

    @classmethod
    def from_tokens(
        cls,
        ids: Int[Tensor, "..."] | Iterable[Any],
        vocab_size: int,
        *,
        smoothing: float | int = 0.0,
        support: TokenSet | None = None,
    ) -> "Unigram":
        """The frequencies of the tokens of a corpus.

        **Arguments:**

        - `ids`: a tensor of token ids of any shape, an iterable of ids, or an iterable of texts, each a tensor or list of
          ids. An iterable is read once, piece by piece.
        - `vocab_size`: number of tokens.
        - `smoothing`, `support`: as for `from_counts`.

        **Raises:** `ValueError` for ids outside the vocabulary, or as `from_counts`.

        **Example:**

        ```python
        import noiselab as nl

        texts = [[0, 1, 0, 3], [2, 0, 3]]  # 3 ends a text
        words = nl.Unigram.from_tokens(texts, vocab_size=4, support=nl.mixing.support_without(4, 3))
        assert words.row.tolist() == [0.6, 0.2, 0.2, 0.0]
        ```
        """
        counts = torch.zeros(require_count("vocab_size", vocab_size), dtype=torch.long)
        for piece in _pieces(ids):
            low, high = (int(v) for v in piece.aminmax())
            if low < 0 or high >= vocab_size:
                raise ValueError(f"tokens must lie in [0, {vocab_size}); got {low if low < 0 else high}")
            counts += piece.bincount(minlength=vocab_size).cpu()
        return cls.from_counts(counts, smoothing=smoothing, support=support)

    def probs(self, t: Elementwise) -> ElementwiseProbs:
        """The row at every time."""
        return self.row.to(t).expand(*t.shape, -1)

    def at(self, z: Tokens, t: TokenTimes) -> Float[Tensor, "batch ..."]:
        """The row's entries."""
        return self.row.to(t)[z]

    def choose(self, u: PerToken, t: TokenTimes) -> Tokens:
        """By inverse CDF with precomputed cumulative sums."""
        return torch.searchsorted(self.cumulative, u.contiguous(), right=True)

    def profile(self, support: TokenSet) -> float | TokenProbs | None:
        """The row."""
        return self.row

    def __repr__(self) -> str:
        return f"Unigram({self.vocab_size})"


def check_support(support: Tensor, states: int) -> None:
    """Raise `ValueError` unless `support` is Bool of shape [states]."""
    if support.dtype != torch.bool or support.shape != (states,):
        raise ValueError(f"support must be Bool of shape [{states}]; got {support.dtype} {list(support.shape)}")


def _pieces(ids: Tensor | Iterable[Any]) -> Iterable[Tensor]:
    """The tokens in flat pieces, none empty: each text by itself, single ids in groups of `GATHERED`."""
    single: list[int] = []
    for item in [ids] if isinstance(ids, Tensor) else ids:
        if isinstance(item, int):
            single.append(item)
            if len(single) < GATHERED:
                continue
            item, single = single, []
        yield from _whole(item)
    yield from _whole(single)


def _whole(item: Any) -> Iterable[Tensor]:
    piece = torch.as_tensor(item).flatten()
    if piece.numel():
        if piece.is_floating_point() or piece.is_complex() or piece.dtype == torch.bool:
            raise ValueError(f"tokens must be integers; got {piece.dtype}")
        yield piece.long()
