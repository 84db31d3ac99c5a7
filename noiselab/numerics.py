"""What rounding can do, named once; and the small numerical methods that several rooms need."""

import math
import numbers
from collections.abc import Callable, Sequence

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
TIME_SLACK = 1e-6
"""How far outside of its range a time may be by rounding to float32; it is then moved to the end."""
ENTRIES_AT_ONCE = 1 << 23
"""Entries of the largest tensor that an enumeration holds at once."""


def as_token_times(t: Times, z: Shaped[Tensor, "batch length"]) -> TokenTimes:
    """Time as float64 [batch, 1 or length], the form in which a process receives it.

    **Arguments:**

    - `t`: one time for each sequence, [batch], or for each token, [batch, length]; times of this form stay as they are.

    **Raises:** `ValueError` for any other shape, of times or of tokens; for times outside [0, 1], or NaN, on the CPU. On an
    accelerator, which reading them would stall, they are not checked.
    """
    return require_times(as_time_shape(t, z))


def as_time_shape(t: Times, z: Shaped[Tensor, "batch length"]) -> TokenTimes:
    """As `as_token_times`, for times of any value, such as the NaN of a state without a time."""
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


def require_times(t: Elementwise, low: float | int = 0.0, high: float | int = 1.0) -> Elementwise:
    """Times given by the user, checked on the CPU.

    **Arguments:**

    - `low`, `high`: the range; times that miss it by no more than 1e-6, the rounding of float32, are moved to its ends.

    **Raises:** `ValueError` for times outside the range, or NaN.
    """
    ends = _ends(t)
    if ends is None or (low <= ends[0] and ends[1] <= high):
        return t
    if low - TIME_SLACK <= ends[0] and ends[1] <= high + TIME_SLACK:
        return t.clamp(low, high)
    came = f"{ends[0]:g}" if ends[0] == ends[1] or math.isnan(ends[0]) else f"{ends[0]:g} to {ends[1]:g}"
    raise ValueError(f"times must lie in [{low:g}, {high:g}]; got {came}")


def require_falling(s: Elementwise, t: Elementwise) -> None:
    """Raise `ValueError`, on the CPU, unless each time s is at most t."""
    gap = _ends(t - s)
    if gap is not None and gap[0] < -TIME_EPS:  # a step of length 0, up to rounding
        raise ValueError(f"s must not be later than t; got a step from t to s = t + {-gap[0]:g}")


def require_sequences(name: str, tokens: Shaped[Tensor, "..."], states: int | None = None) -> None:
    """`require_tokens`, of shape [batch, length]."""
    if tokens.dim() != 2:
        raise ValueError(f"{name} must have shape [batch, length]; got {list(tokens.shape)}")
    require_tokens(name, tokens, states)


def require_tokens(name: str, tokens: Shaped[Tensor, "..."], states: int | None = None) -> None:
    """Check tokens given by the user: their dtype, and on the CPU their values.

    **Raises:** `ValueError` unless they are integers in [0, `states`).
    """
    if tokens.dtype == torch.bool or tokens.is_floating_point() or tokens.is_complex():
        raise ValueError(f"{name} must be tokens, integers; got {tokens.dtype}")
    ends = _ends(tokens)
    if ends is not None and (ends[0] < 0 or (states is not None and ends[1] >= states)):
        inside = "not be negative" if states is None else f"lie in [0, {states})"
        raise ValueError(f"{name} must {inside}; got {int(ends[0])} to {int(ends[1])}")


def require_not_negative(name: str, values: Float[Tensor, "..."]) -> None:
    """Raise `ValueError` for values that are not floating-point numbers, or, on the CPU, negative; NaN is passed on."""
    if not values.is_floating_point():
        raise ValueError(f"{name} must be floating-point numbers; got {values.dtype}")
    ends = _ends(values)
    if ends is not None and ends[0] < 0:
        raise ValueError(f"{name} must not be negative; got {ends[0]:g}")


def _ends(values: Shaped[Tensor, "..."]) -> tuple[float | int, float | int] | None:
    """The smallest and the largest; `None` where reading them is impossible or stalls an accelerator, or there are none."""
    if values.device.type != "cpu" or not values.numel() or torch.compiler.is_compiling():
        return None
    try:
        least, most = torch.aminmax(values.detach())
        return least.item(), most.item()
    except RuntimeError:  # within torch.func.vmap
        return None


def no_attribute(owner: object, name: str, made: Sequence[str]) -> AttributeError:
    """The error for an attribute that an object lacks; `made` are those that its base class makes in `__init__`."""
    kind = type(owner).__name__
    more = f": the __init__ of {kind} must call super().__init__" if name in made else ""
    return AttributeError(f"{kind!r} object has no attribute {name!r}{more}")


def require_made(thing: object) -> None:
    """Raise `ValueError` if a module is used whose `__init__` has not called that of its base class."""
    if not torch.compiler.is_compiling() and "_buffers" not in vars(thing):
        raise ValueError(
            f"the __init__ of {type(thing).__name__} must call super().__init__() before all else; it does not"
        )


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


def require_token(name: str, token: object, states: int) -> int:
    """The id of a token given by the user, checked; as `require_number`.

    **Raises:** `ValueError` unless it is a whole number in [0, states).
    """
    whole = isinstance(token, numbers.Integral) and not isinstance(token, bool)
    if whole and 0 <= token < states:  # type: ignore[operator]
        return int(token)  # type: ignore[call-overload]
    raise ValueError(f"{name} must {'' if whole else 'be a whole number and '}lie in [0, {states}); got {token!r}")


def require_tensor(name: str, value: object, *axes: str, ids: bool = False, finite: bool = True) -> Tensor:
    """A tensor given by the user to a constructor, checked: its number of axes, and that it holds numbers, or ids.

    **Arguments:**

    - `axes`: the names of its axes, for the message.
    - `ids`: whether it must hold integers.
    - `finite`: whether real numbers must be finite.

    **Raises:** `ValueError` unless it is a tensor of so many axes, none of size 0, with finite numbers, or with integers.
    """
    tensor = value if isinstance(value, Tensor) else None
    if tensor is None or tensor.dim() != len(axes) or not tensor.numel():
        came = f"a {type(value).__name__}" if tensor is None else f"shape {list(tensor.shape)}"
        raise ValueError(f"{name} must be a tensor of shape [{', '.join(axes)}]; got {came}")
    if tensor.dtype == torch.bool or tensor.is_complex() or (ids and tensor.is_floating_point()):
        raise ValueError(f"{name} must hold {'integers' if ids else 'real numbers'}; got {tensor.dtype}")
    if finite and not tensor.isfinite().all():
        raise ValueError(f"{name} must be finite; got {tensor[~tensor.isfinite()][0].item()}")
    return tensor


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
    node, weight = np.polynomial.legendre.leggauss(require_count("nodes", nodes))
    return (torch.from_numpy(node) + 1) / 2, torch.from_numpy(weight) / 2
