"""Scalars of time, written as expressions in `t`, so that they print as they were written."""

import abc
import math
from collections.abc import Callable
from typing import TypeAlias

import torch
from jaxtyping import Float
from torch import Tensor, nn

ScheduleLike: TypeAlias = "Schedule | Callable[[Tensor], Tensor] | float | int"
"""What may stand where a schedule is needed: a schedule, an elementwise function of time, or a constant."""


class Schedule(nn.Module, abc.ABC):
    r"""A scalar weight of time, $w(t)$ with $t \in [0, 1]$.

    A subclass writes `forward(t)`, elementwise, for `t` of any shape; parameters make it a learned one. Schedules are
    added, subtracted, multiplied, divided and raised to powers, with each other and with numbers.

    **Example:**

    ```python
    from noiselab import t

    weight = 0.5 * (t * (1 - t)) ** 0.5
    assert repr(weight) == "0.5 * (t * (1 - t)) ** 0.5"
    ```
    """

    @abc.abstractmethod
    def forward(self, t: Float[Tensor, "*batch"]) -> Float[Tensor, "*batch"]:
        """The weight at the times `t`, elementwise."""

    def derivative(self, t: Float[Tensor, "*batch"]) -> Float[Tensor, "*batch"]:
        """The slope dw/dt, by forward-mode automatic differentiation."""
        t = t.contiguous()  # jvp refuses expanded tensors
        return torch.func.jvp(self.forward, (t,), (torch.ones_like(t),))[1]

    def log_snr(self, t: Float[Tensor, "*batch"]) -> Float[Tensor, "*batch"]:
        r"""The log signal-to-noise ratio $\log\frac{w}{1-w}$, for a schedule that is a signal weight in (0, 1)."""
        return torch.logit(self.forward(t))

    def __add__(self, other: ScheduleLike) -> "Schedule":
        return _Operation(self, other, "+")

    def __radd__(self, other: ScheduleLike) -> "Schedule":
        return _Operation(other, self, "+")

    def __sub__(self, other: ScheduleLike) -> "Schedule":
        return _Operation(self, other, "-")

    def __rsub__(self, other: ScheduleLike) -> "Schedule":
        return _Operation(other, self, "-")

    def __mul__(self, other: ScheduleLike) -> "Schedule":
        return _Operation(self, other, "*")

    def __rmul__(self, other: ScheduleLike) -> "Schedule":
        return _Operation(other, self, "*")

    def __truediv__(self, other: ScheduleLike) -> "Schedule":
        return _Operation(self, other, "/")

    def __rtruediv__(self, other: ScheduleLike) -> "Schedule":
        return _Operation(other, self, "/")

    def __pow__(self, other: ScheduleLike) -> "Schedule":
        return _Operation(self, other, "**")

    def __rpow__(self, other: ScheduleLike) -> "Schedule":
        return _Operation(other, self, "**")

    def __neg__(self) -> "Schedule":
        return _Operation(-1, self, "*")


class Time(Schedule):
    """The time itself, `noiselab.t`: 0 is clean, 1 is noise."""

    def forward(self, t: Float[Tensor, "*batch"]) -> Float[Tensor, "*batch"]:
        """The times unchanged."""
        return t

    def __repr__(self) -> str:
        return "t"


class Constant(Schedule):
    """The same number at every time."""

    def __init__(self, value: float | int):
        super().__init__()
        if not math.isfinite(value):
            raise ValueError(f"a constant schedule must be a finite number; got {value}")
        self.value = float(value)

    def forward(self, t: Float[Tensor, "*batch"]) -> Float[Tensor, "*batch"]:
        """The number, in the shape of `t`."""
        return torch.full_like(t, self.value)

    def __repr__(self) -> str:
        return f"{self.value:.6g}"


class Function(Schedule):
    """Any elementwise function of time.

    **Arguments:**

    - `function`: takes and returns a tensor of any shape; differentiable by torch.
    """

    def __init__(self, function: Callable[[Tensor], Tensor]):
        super().__init__()
        self.function = function

    def forward(self, t: Float[Tensor, "*batch"]) -> Float[Tensor, "*batch"]:
        """The function's value."""
        return self.function(t)

    def __repr__(self) -> str:
        name = getattr(self.function, "__name__", type(self.function).__name__)
        return f"{'f' if name == '<lambda>' else name}(t)"


def as_schedule(value: ScheduleLike) -> Schedule:
    """A schedule from a schedule, an elementwise function of time or a number.

    **Raises:** `ValueError` for anything else.
    """
    if isinstance(value, Schedule):
        return value
    if isinstance(value, int | float):
        return Constant(value)
    if callable(value):
        return Function(value)
    raise ValueError(f"a schedule, a function of time or a number is needed; got {value!r}")


_OPERATIONS: dict[str, tuple[Callable[..., Tensor], int]] = {
    # sign: (function, precedence)
    "+": (torch.add, 1),
    "-": (torch.sub, 1),
    "*": (torch.mul, 2),
    "/": (torch.div, 2),
    "**": (torch.pow, 3),
}


class _Operation(Schedule):
    """Two schedules joined by an arithmetic sign."""

    def __init__(self, left: ScheduleLike, right: ScheduleLike, sign: str):
        super().__init__()
        self.left, self.right, self.sign = as_schedule(left), as_schedule(right), sign

    def forward(self, t: Float[Tensor, "*batch"]) -> Float[Tensor, "*batch"]:
        # A constant power or factor stays a number: the derivative of pow with respect to the power is not wanted.
        right = self.right.value if isinstance(self.right, Constant) else self.right(t)
        left = torch.full_like(t, self.left.value) if isinstance(self.left, Constant) else self.left(t)
        return _OPERATIONS[self.sign][0](left, right)

    def __repr__(self) -> str:
        own = _OPERATIONS[self.sign][1]

        def show(part: Schedule, bracket_equal: bool) -> str:
            inner = _OPERATIONS[part.sign][1] if isinstance(part, _Operation) else 9
            return f"({part})" if inner < own or (bracket_equal and inner == own) else f"{part}"

        return f"{show(self.left, self.sign == '**')} {self.sign} {show(self.right, True)}"


t = Time()
"""The time as a schedule, to write others with: `1 - t`, `0.5 * (t * (1 - t)) ** 0.5`."""
