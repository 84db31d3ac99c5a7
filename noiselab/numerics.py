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
TEMPERATURES = (1e-20, 1e20)
"""The range of temperatures: outside of it, logits divided by them overflow, or lose all differences, in float32."""
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


def require_number(
    name: str,
    value: object,
    low: float | int = -math.inf,
    high: float | int = math.inf,
    *,
    above: bool = False,
    below: bool = False,
    infinite: bool = False,
) -> float:
    """A number given by the user, checked.

    **Arguments:**

    - `name`: the name of the argument, for the message.
    - `low`, `high`: the ends of its range.
    - `above`, `below`: whether the number must differ from `low`, and from `high`.
    - `infinite`: whether it may be infinite, if the range is.

    **Raises:** `ValueError` unless it is a real number in the range; NaN, a Bool and a tensor are not.
    """
    real = isinstance(value, numbers.Real) and not isinstance(value, bool)
    number = float(value) if real else math.nan  # type: ignore[arg-type]
    inside = (low < number if above else low <= number) and (number < high if below else number <= high)
    if inside and (infinite or math.isfinite(number)):
        return number
    if math.isfinite(high):
        what = f"lie in {'(' if above else '['}{low:g}, {high:g}{')' if below else ']'}"
    else:
        sign = "" if low < 0 else "positive" if above else "non-negative"
        what = f"be {' and '.join(part for part in (sign, '' if infinite else 'finite') if part)}"
    raise ValueError(f"{name} must {what}; got {value!r}")


def require_count(name: str, value: object, least: int = 1, most: int | None = None) -> int:
    """A whole number given by the user, checked; as `require_number`.

    **Raises:** `ValueError` unless it is a whole number of at least `least`, and at most `most`.
    """
    whole = isinstance(value, numbers.Integral) and not isinstance(value, bool)
    if whole and least <= value and (most is None or value <= most):  # type: ignore[operator]
        return int(value)  # type: ignore[call-overload]
    kind = "" if whole else "a whole number, "
    what = f"at least {least}" if most is None else f"in [{least}, {most}]"
    raise ValueError(f"{name} must {'lie ' if whole and most is not None else 'be '}{kind}{what}; got {value!r}")


def require_token_set(name: str, tokens: object, states: int | None = None) -> TokenSet:
    """A set of tokens given by the user, as a mask over the vocabulary, checked; as `require_number`.

    **Raises:** `ValueError` unless it is Bool of shape [state].
    """
    if (
        isinstance(tokens, Tensor)
        and tokens.dtype == torch.bool
        and tokens.dim() == 1
        and states in (None, len(tokens))
    ):
        return tokens
    came = f"{tokens.dtype} {list(tokens.shape)}" if isinstance(tokens, Tensor) else repr(tokens)
    raise ValueError(f"{name} must be Bool of shape [{'state' if states is None else states}]; got {came}")


def mask_off_support(logits: Float[Tensor, "*batch state"], support: TokenSet | None) -> Float[Tensor, "*batch state"]:
    """The logits, with -inf at tokens outside the support; unchanged if it is `None`."""
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
