"""The interface of mixings, and weighted sums of them kept factored."""

import abc
from collections.abc import Iterable, Mapping, Sequence
from typing import NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor

from ..categorical import BELOW_ONE, choose
from ..exact import Exact
from ..typing import Elementwise, ElementwiseProbs, PerToken, TokenProbs, Tokens, TokenSet, TokenTimes

WEIGHT_ROUNDING = 1e-7  # tolerance for negative weights, relative to the largest: float32 cosines round below 0


class HostCopy:
    """A copy of a tensor that can be read without stalling a GPU, renewed when the tensor is replaced or written to."""

    def __init__(self) -> None:
        self.seen: tuple[Tensor, int | None, Tensor] | None = None

    def of(self, tensor: Tensor) -> Tensor:
        """The tensor on the host."""
        # A tensor made under inference_mode has no version counter.
        version = None if tensor.is_inference() else tensor._version
        if self.seen is None or self.seen[0] is not tensor or self.seen[1] != version:
            self.seen = (tensor, version, tensor.cpu())
        return self.seen[2]


class Mixing(Exact, abc.ABC):
    r"""A distribution $\pi_t$ over the vocabulary that may change with time.

    A subclass sets `vocab_size` and writes `probs`. The other methods are derived from it; each may be overridden for
    speed, and `noiselab.testing` compares every override with the definition it replaces. Times reach these methods as
    float64 tensors of shape [batch, 1] or [batch, length].

    **Arguments:**

    - `support`: the tokens that may have mass, Bool of shape [state]. That no other token has mass is checked: here for a
      fixed row, by the process for a mixing that changes with time. `None` makes no such claim.
    """

    vocab_size: int
    support: Tensor | None
    fixed = False
    """Whether `at` does not depend on time, so that it is evaluated once for two times."""
    only: int | None = None
    """The token that has all mass, if there is one."""
    missing: int | None = None
    """The only token without mass, if there is one and the others have equal mass."""

    def __init__(self, support: TokenSet | None = None):
        super().__init__()
        self.register_buffer("support", None if support is None else support.clone())

    # Write this one.

    @abc.abstractmethod
    def probs(self, t: Elementwise) -> ElementwiseProbs:
        """The distribution at the times `t`: non-negative, each row sums to 1."""

    # Derived from it; may be overridden for speed only.

    def at(self, z: Tokens, t: TokenTimes) -> Float[Tensor, "batch ..."]:
        """The probability of the tokens `z`, in a shape that broadcasts with `z`."""
        p = self.probs(t)
        return p.expand(*z.shape, -1).gather(-1, z[..., None])[..., 0]

    def choose(self, u: PerToken, t: TokenTimes) -> Tokens:
        """The tokens that the uniform numbers `u` select."""
        return choose(self.probs(t).expand(*u.shape, -1), u)

    def profile(self, support: TokenSet) -> float | TokenProbs | None:
        """`probs` on the data tokens in its smallest form, which decides whether the bound needs anything dense.

        **Arguments:**

        - `support`: the tokens that data consist of, on the host, so that reading it does not stall a GPU.

        **Returns:** a number if `probs` equals it on all of `support` at every time (0.0 if no data token has mass); a
        row if `probs` is constant in time (entries off `support` are not read); `None` if it changes with time, and
        `probs` must be evaluated.
        """
        return None

    def factors(self, t: TokenTimes) -> "NoiseMass | None":
        """`probs` as a weighted sum of simpler mixings; `None` if there is no such form.

        The bound uses the factors of a mixing without a `profile`, so a blend of fixed rows never becomes dense.
        """
        return None


class NoiseMass(NamedTuple):
    """A measure over tokens for each [batch, 1 or length] entry, kept factored: the sum of weights[..., k] * parts[k].

    Nothing of size [batch, length, state] is built until `dense` is called.
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
        return self.weights.sum(-1) if len(self.parts) > 1 else self.weights[..., 0]

    def dense(self) -> Tensor:
        """The mass of every token, [batch, 1 or length, state]."""
        weighted = zip(self.weights.unbind(-1), self.parts, strict=True)
        first, *others = (w[..., None] * part.probs(self.t) for w, part in weighted)
        return sum(others, start=first)

    def choose(self, u: Tensor, which: Tensor, total: Tensor | None = None) -> Tensor:
        """Tokens of the normalised measure; `which` selects the part, `u` the token, both uniform [batch, length].

        `total` is that of the measure, if it is known.
        """
        only = getattr(self.parts[0], "only", None)
        if len(self.parts) == 2 and only is not None:  # the same with fewer operations
            target = which * ((self.total() if total is None else total) * BELOW_ONE)
            return self.parts[1].choose(u, self.t).masked_fill(target < self.weights[..., 0], only)
        z = self.parts[0].choose(u, self.t)
        if len(self.parts) > 1:
            # As `choose`, for a few parts.
            passed = self.weights.cumsum(-1)
            target = which * (passed[..., -1] * BELOW_ONE)
            for k, mixing in enumerate(self.parts[1:]):
                z = torch.where(target >= passed[..., k], mixing.choose(u, self.t), z)
        return z

    def between(self, first: int, last: int) -> "NoiseMass":
        """The measures of some columns of times."""
        return NoiseMass(self.weights[:, first:last], self.parts, self.t[:, first:last])


def same_size(weights: Mapping[Mixing, object], name: str) -> int:
    """The size of the vocabulary that all mixings share.

    **Raises:** `ValueError` if there are none, their sizes differ, or a key is not a `Mixing` or has no `vocab_size`.
    """
    if not isinstance(weights, Mapping):
        raise ValueError(f"{name} must be a mapping from mixings to their weights; got a {type(weights).__name__}")
    for mixing in weights:
        if not isinstance(mixing, Mixing):
            raise ValueError(f"{name} must have mixings as keys, such as Uniform(3); got {mixing!r}")
        if not hasattr(mixing, "vocab_size"):
            raise ValueError(
                f"a mixing must set vocab_size, the number of its tokens; {type(mixing).__name__} does not"
            )
    sizes = sorted({mixing.vocab_size for mixing in weights})
    if len(sizes) != 1:
        raise ValueError(f"at least one mixing is needed, and all need the same vocab_size; got sizes {sizes}")
    return sizes[0]


def check_weights(weights: Tensor, t: Tensor, schedules: Iterable[object]) -> None:
    """Raise `ValueError` unless the weights [time, parts] are non-negative and finite and never all vanish."""
    schedules = tuple(schedules)
    slack = WEIGHT_ROUNDING * weights.abs().nan_to_num(0, 0).max(-1).values
    for schedule, weight in zip(schedules, weights.unbind(-1), strict=True):
        bad = ~((weight >= -slack) & weight.isfinite())
        if bad.any():
            raise ValueError(
                f"weights must be non-negative and finite; got {weight[bad][0].item():.4g} from {schedule} "
                f"at t = {t[bad][0].item():.6g}"
            )
    empty = weights.clamp(min=0).sum(-1) == 0
    if empty.any():
        raise ValueError(
            f"weights must not all vanish; they do at t = {t[empty][0].item():.6g}: {', '.join(map(str, schedules))}"
        )
