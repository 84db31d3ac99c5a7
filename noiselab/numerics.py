"""What rounding can do, named once; and the small numerical methods that several rooms need."""

import math
import numbers
from collections.abc import Callable

import numpy as np
import torch
from jaxtyping import Float, Shaped
from torch import Tensor

from .typing import Elementwise, Times, TokenSet, TokenTimes

TIME_EPS = 1e-12
"""How near the ends of time rates and limits are taken: what changes beyond is in no bound."""
SIGNAL_EPS = 1e-15
"""The signal that is 0 but for rounding: cos(pi / 2) is 6e-17."""
UNIFORMS_PER_MOVE = 5
"""Uniform numbers for each token in a three-way step or a Gibbs draw: whether it moves, to data or noise, a token of the noise
(2), a token of x_hat.
"""
LOGITS_AT_ONCE = 1 << 21
"""Entries of the largest tensor that is made of logits at once, so that it stays in the cache."""
LARGEST = 1e20
"""The largest of public numbers that are otherwise unbounded; times a logit it is finite in float32."""
TEMPERATURES = (1e-20, LARGEST)
"""The range of temperatures: outside of it float32 logits may overflow when they are divided."""
ENTRIES_AT_ONCE = 1 << 23
"""Entries of the largest tensor that an enumeration holds at once."""


def as_token_times(t: Times, z: Shaped[Tensor, "batch length"]) -> TokenTimes:
    """Time as float64 [batch, 1 or length], the form in which a process receives it.

    **Arguments:**

    - `t`: one time for each sequence, [batch], or for each token, [batch, length]; times of this form stay as they are.

    **Raises:** `ValueError` for any other shape, of times or of tokens.
    """
    if z.dim() != 2:
        raise ValueError(
            f"tokens must have shape [batch, length], distributions [batch, length, state]; got tokens of {list(z.shape)}"
        )
    batch, length = z.shape
    if not isinstance(t, Tensor):
        raise ValueError(f"t must be a tensor of times, [{batch}] or [{batch}, {length}]; got {t!r}")
    if t.shape not in ((batch,), (batch, length), (batch, 1)):
        raise ValueError(f"t must have shape [{batch}] or [{batch}, {length}]; got {list(t.shape)}")
    # jvp refuses expanded tensors, hence contiguous.
    return (t[:, None] if t.dim() == 1 else t).to(z.device, torch.float64).contiguous()


def require_number(name: str, value: object, low: float | int, high: float | int, *, zero: bool = False) -> float:
    """Check a public number.

    **Arguments:**

    - `low`, `high`: the range, both ends included.
    - `zero`: whether 0 is allowed too, if it is not in the range.

    **Raises:** `ValueError` unless it is a real number in the range; NaN is not.
    """
    number = float(value) if isinstance(value, numbers.Real) else math.nan
    if not (low <= number <= high or (zero and number == 0)):
        positive = name == "temperature" and not zero
        what = "be positive and lie in" if positive else "be 0 or lie in" if zero else "lie in"
        raise ValueError(f"{name} must {what} [{low:g}, {high:g}]; got {value}")
    return number


def require_count(name: str, value: object, least: int = 1) -> int:
    """Check a public count.

    **Raises:** `ValueError` unless it is a whole number of at least `least`.
    """
    if not isinstance(value, numbers.Integral) or isinstance(value, bool):
        raise ValueError(f"{name} must be a whole number, at least {least}; got {value}")
    if value < least:
        raise ValueError(f"{name} must be at least {least}; got {value}")
    return int(value)


def mask_off_support(logits: Float[Tensor, "*batch width"], support: TokenSet | None) -> Float[Tensor, "*batch width"]:
    """The logits, with -inf at tokens outside the support; unchanged if it is `None`.

    **Raises:** `ValueError` if the width of the logits is not that of the support.
    """
    if support is not None and logits.shape[-1] != len(support):
        raise ValueError(f"logits must have the width of the support, {len(support)}; got {logits.shape[-1]}")
    return logits if support is None else logits.masked_fill(~support.to(logits.device), -torch.inf)


def bisect(
    rising: Callable[[Elementwise], Elementwise], value: Elementwise, low: float, high: float, *, halvings: int = 110
) -> Elementwise:
    """Where a rising function takes these values, by halving the interval from `low` to `high`.

    **Arguments:**

    - `rising`: elementwise, not falling on the interval.
    - `value`: one value for each result; one that the function does not take gives an end of the interval.
    - `halvings`: their number; it ends earlier once no float64 lies between the bounds.
    """
    below, above = torch.full_like(value, low), torch.full_like(value, high)
    for _ in range(halvings):
        middle = (below + above) / 2
        if ((middle == below) | (middle == above)).all():
            break
        reached = rising(middle) >= value
        below, above = torch.where(reached, below, middle), torch.where(reached, middle, above)
    return (below + above) / 2


def gauss_legendre(nodes: int) -> tuple[Float[Tensor, " nodes"], Float[Tensor, " nodes"]]:
    """The nodes of Gauss-Legendre quadrature in (0, 1), and their weights."""
    node, weight = np.polynomial.legendre.leggauss(nodes)
    return (torch.from_numpy(node) + 1) / 2, torch.from_numpy(weight) / 2
