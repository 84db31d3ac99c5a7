"""Schedules: scalar functions of time, written as expressions in `t` and printed as they were written."""

import abc
from collections.abc import Callable
from typing import TypeAlias, no_type_check, overload

import torch
from torch import Tensor, nn

from ..numerics import require_number
from ..typing import Elementwise
from .solving import implicit, require_within, solve

ScheduleLike: TypeAlias = "Schedule | Callable[[Tensor], Tensor] | float | int"
"""Anything accepted as a schedule: a schedule, an elementwise function of time, or a constant."""


class Schedule(nn.Module, abc.ABC):
    r"""A scalar function of time, $w(t)$ with $t \in [0, 1]$.

    A subclass implements `forward(t)`, elementwise, for `t` of any shape; a schedule with parameters is learned.
    Schedules can be added, subtracted, multiplied, divided and raised to powers, with each other and with numbers.
    Calling a schedule with another schedule composes them: a change of time.

    **Example:**

    ```python
    from noiselab import t

    weight = 0.5 * (t * (1 - t)) ** 0.5
    assert repr(weight) == "0.5 * (t * (1 - t)) ** 0.5"
    assert repr((1 - t)(t**2)) == "1 - t ** 2"
    ```
    """

    @overload
    def __call__(self, t: Tensor) -> Tensor: ...

    @overload
    def __call__(self, t: "Schedule") -> "Schedule": ...

    def __call__(self, t: "Tensor | Schedule") -> "Tensor | Schedule":
        """The value at the times `t`; or, if `t` is a schedule g, the composition $w(g(t))$."""
        return self._by(t) if isinstance(t, Schedule) else super().__call__(t)

    @abc.abstractmethod
    def forward(self, t: Elementwise) -> Elementwise:
        """The value at the times `t`, elementwise."""

    def derivative(self, t: Elementwise) -> Elementwise:
        """The slope dw/dt, by forward-mode automatic differentiation."""
        t = t.contiguous()  # jvp does not accept expanded tensors
        return torch.func.jvp(self.forward, (t,), (torch.ones_like(t),))[1]

    def complement(self, t: Elementwise) -> Elementwise:
        """The complement 1 - w(t): the noise weight of a signal w.

        Written `1 - alpha`. If alpha rounds to 1, a subtraction gives 0; powers, `cos`, `exp`, `sigmoid`,
        `MonotoneNetwork` and expressions of them compute their complements to full relative precision.
        """
        return 1 - self.forward(t)

    def corners(self) -> list[float]:
        """Times at which the slope jumps, as far as they are known: none."""
        return []

    # Internal evaluation of the parts of an expression. The library's own nodes skip shape checks at inner levels,
    # because the whole expression is checked at its entry; user-defined schedules are always checked.

    @no_type_check
    def _value(self, t: Tensor) -> Tensor:
        return self(t)

    @no_type_check
    def _complement(self, t: Tensor) -> Tensor:
        return self.complement(t)

    def log_snr(self, t: Elementwise) -> Elementwise:
        r"""The log signal-to-noise ratio $\log\frac{w}{1-w}$, for a schedule that is a signal weight in (0, 1)."""
        return self.forward(t).log() - self.complement(t).log()

    @overload
    def inverse(self, value: Tensor) -> Tensor: ...

    @overload
    def inverse(self, value: "Schedule") -> "Schedule": ...

    def inverse(self, value: "Tensor | Schedule") -> "Tensor | Schedule":
        r"""The times at which a monotone schedule has the given values: $t$ with $w(t) = value$, by bisection in
        float64.

        **Arguments:**

        - `value`: a tensor of any shape; or a schedule v, for the change of time $w^{-1}(v(t))$ that turns this
          schedule into v; it is differentiable in t and in the parameters of both, by the implicit function theorem.

        **Returns:** float64 times in [0, 1], the earliest if the schedule is flat; without gradient.

        **Raises:** `ValueError` if the schedule is not monotone or does not take such a value.

        **Example:**

        ```python
        import torch
        import noiselab as nl

        half = nl.schedules.cosine().inverse(torch.tensor(0.5, dtype=torch.float64))
        assert torch.isclose(half, torch.tensor(2 / 3, dtype=torch.float64))
        ```
        """
        if isinstance(value, Schedule):
            return _Inverse(self, value)
        value = value.double()
        require_within(self, value.detach())
        return solve(self, value, 1 - value)

    def _by(self, clock: "Schedule") -> "Schedule":
        """This schedule composed with a change of time; an expression substitutes it for `t`."""
        return _ByClock(self, clock)

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
        return _Negative(self)


class Time(Schedule):
    """The time itself, `noiselab.t`: 0 is clean, 1 is noise."""

    def forward(self, t: Elementwise) -> Elementwise:
        """The times unchanged."""
        return t

    @no_type_check
    def _value(self, t: Tensor) -> Tensor:
        return t if type(self) is Time else super()._value(t)

    @no_type_check
    def _complement(self, t: Tensor) -> Tensor:
        return 1 - t if type(self) is Time else super()._complement(t)

    def _by(self, clock: Schedule) -> Schedule:
        return clock

    def __repr__(self) -> str:
        return "t"


class Constant(Schedule):
    """A constant schedule.

    **Arguments:**

    - `value`: a finite number.
    - `name`: printed in place of the number.

    **Raises:** `ValueError` if the number is not finite.
    """

    def __init__(self, value: float | int, name: str | None = None):
        super().__init__()
        self.value, self.name = require_number("the value of a constant schedule", value), name

    def forward(self, t: Elementwise) -> Elementwise:
        """The number, in the shape of `t`."""
        return torch.full_like(t, self.value)

    @no_type_check
    def _value(self, t: Tensor) -> Tensor:
        return torch.full_like(t, self.value) if type(self) is Constant else super()._value(t)

    @no_type_check
    def _complement(self, t: Tensor) -> Tensor:
        return 1 - torch.full_like(t, self.value) if type(self) is Constant else super()._complement(t)

    def _by(self, clock: Schedule) -> Schedule:
        return self

    def __repr__(self) -> str:
        return self.name or f"{self.value:.6g}"


class Function(Schedule):
    """Any elementwise function of time.

    **Arguments:**

    - `function`: an elementwise function of a tensor of any shape, differentiable by torch.
    """

    def __init__(self, function: Callable[[Tensor], Tensor]):
        super().__init__()
        self.function = function

    def forward(self, t: Elementwise) -> Elementwise:
        """The function's value."""
        return self.function(t)

    def __repr__(self) -> str:
        return f"{self.name}(t)"

    @property
    def name(self) -> str:
        """The function's name as it is printed; f for a lambda."""
        name = getattr(self.function, "__name__", type(self.function).__name__)
        return "f" if name == "<lambda>" else name


def as_schedule(value: ScheduleLike) -> Schedule:
    """Convert a schedule, an elementwise function of time or a number to a schedule.

    **Raises:** `ValueError` for anything else.
    """
    if isinstance(value, Schedule):
        return value
    if isinstance(value, int | float):
        return Constant(value)
    if callable(value):
        return Function(value)
    raise ValueError(f"a schedule must be a Schedule, a function of time or a number; got {value!r}")


_OPERATIONS: dict[str, tuple[Callable[..., Tensor], int]] = {
    # sign: (function, precedence)
    "+": (torch.add, 1),
    "-": (torch.sub, 1),
    "*": (torch.mul, 2),
    "/": (torch.div, 2),
    "**": (torch.pow, 4),
}
# The same operations with a number on one side. Forward-mode derivatives of `torch.mul` and similar functions treat a
# number as a tensor with zero tangent, and infer the shape of products in Python, which takes most of the time of a
# rate.
_WITH_NUMBER: dict[str, Callable[..., Tensor]] = {
    "+": torch.ops.aten.add.Scalar,
    "-": torch.ops.aten.sub.Scalar,
    "*": torch.ops.aten.mul.Scalar,
    "/": torch.ops.aten.div.Scalar,
    "**": torch.pow,
}
_FROM_NUMBER: dict[str, Callable[..., Tensor]] = {
    "+": torch.ops.aten.add.Scalar,
    "-": torch.rsub,
    "*": torch.ops.aten.mul.Scalar,
}
_MINUS, _ATOM = 3, 9  # precedence of a unary minus, and of parts that need no brackets


def _precedence(part: Schedule) -> int:
    if isinstance(part, _Operation):
        return _OPERATIONS[part.sign][1]
    return _MINUS if isinstance(part, _Negative) or (isinstance(part, Constant) and part.value < 0) else _ATOM


def _show(part: Schedule, outside: int, bracket_equal: bool = False) -> str:
    inside = _precedence(part)
    return f"({part})" if inside < outside or (bracket_equal and inside == outside) else f"{part}"


class Node(Schedule):
    """Base class of the library's composed schedules: `_value`, and `_complement` if there is a precise form."""

    def forward(self, t: Elementwise) -> Elementwise:
        """The value at the times `t`."""
        return self._value(t)

    def complement(self, t: Elementwise) -> Elementwise:
        """The complement 1 - w(t)."""
        return self._complement(t)

    @abc.abstractmethod
    def _value(self, t: Tensor) -> Tensor: ...

    @no_type_check
    def _complement(self, t: Tensor) -> Tensor:
        return 1 - self._value(t)


class _Operation(Node):
    """An arithmetic operation on two schedules."""

    def __init__(self, left: ScheduleLike, right: ScheduleLike, sign: str):
        super().__init__()
        self.left, self.right, self.sign = as_schedule(left), as_schedule(right), sign

    @no_type_check
    def _value(self, t: Tensor) -> Tensor:
        if self._from_one:
            return self.right._complement(t)
        # A constant power or factor stays a number, because the derivative of pow with respect to the power is not
        # needed.
        if isinstance(self.right, Constant):
            return _WITH_NUMBER[self.sign](self.left._value(t), self.right.value)
        if isinstance(self.left, Constant) and self.sign in _FROM_NUMBER:
            return _FROM_NUMBER[self.sign](self.right._value(t), self.left.value)
        return _OPERATIONS[self.sign][0](self.left._value(t), self.right._value(t))

    @no_type_check
    def _complement(self, t: Tensor) -> Tensor:
        if self._from_one:
            return self.right._value(t)
        if self.sign == "*":  # 1 - ab = (1 - a) + a (1 - b)
            return self.left._complement(t) + self.left._value(t) * self.right._complement(t)
        if self.sign == "**" and isinstance(self.right, Constant) and self.right.value > 0:
            # 1 - a^p = -expm1(p log1p(-(1 - a))), where a is near 1; clamped so that the other branch stays finite.
            near, power = self.left._complement(t), self.right.value
            precise = -torch.expm1(power * torch.log1p(-near.clamp(max=0.5)))
            return torch.where(near.abs() < 0.5, precise, 1 - self.left._value(t) ** power)
        return 1 - self._value(t)

    @property
    @no_type_check
    def _from_one(self) -> bool:
        return self.sign == "-" and isinstance(self.left, Constant) and self.left.value == 1

    def _by(self, clock: Schedule) -> Schedule:
        return _Operation(self.left(clock), self.right(clock), self.sign)

    def __repr__(self) -> str:
        own = _OPERATIONS[self.sign][1]
        return f"{_show(self.left, own, self.sign == '**')} {self.sign} {_show(self.right, own, True)}"


class _Negative(Node):
    """A negated schedule."""

    def __init__(self, inner: Schedule):
        super().__init__()
        self.inner = inner

    @no_type_check
    def _value(self, t: Tensor) -> Tensor:
        return -self.inner._value(t)

    def _by(self, clock: Schedule) -> Schedule:
        return _Negative(self.inner(clock))

    def __repr__(self) -> str:
        return f"-{_show(self.inner, _MINUS)}"


class _ByClock(Node):
    """A schedule that is not an expression, composed with a change of time."""

    def __init__(self, inner: Schedule, clock: Schedule):
        super().__init__()
        self.inner, self.clock = inner, clock

    @no_type_check
    def _value(self, t: Tensor) -> Tensor:
        return self.inner._value(self.clock._value(t))

    @no_type_check
    def _complement(self, t: Tensor) -> Tensor:
        return self.inner._complement(self.clock._value(t))

    def _by(self, clock: Schedule) -> Schedule:
        return _ByClock(self.inner, self.clock(clock))

    def __repr__(self) -> str:
        return f"{self.inner.name if isinstance(self.inner, Function) else self.inner}({self.clock})"


class _Inverse(Node):
    """The change of time that turns one schedule into another."""

    def __init__(self, inner: Schedule, value: Schedule):
        super().__init__()
        self.inner, self.value = inner, value
        require_within(inner, value(torch.linspace(0, 1, 65, dtype=torch.float64)).detach())

    @no_type_check
    def _value(self, t: Tensor) -> Tensor:
        return implicit(self.inner, self.value._value(t), self.value._complement(t))

    def _by(self, clock: Schedule) -> Schedule:
        return _Inverse(self.inner, self.value(clock))

    def __repr__(self) -> str:
        return f"{_show(self.inner, _ATOM)}.inverse({self.value})"


t = Time()
"""The time as a schedule, for writing expressions: `1 - t`, `0.5 * (t * (1 - t)) ** 0.5`."""
