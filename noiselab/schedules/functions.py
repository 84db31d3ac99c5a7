"""Elementary functions of schedules, which print as they are written: `cos(pi / 2 * t)`."""

import math
from collections.abc import Callable
from typing import no_type_check

import torch
from torch import Tensor

from ..typing import Elementwise
from .base import Constant, Node, Schedule, ScheduleLike, as_schedule

pi = Constant(math.pi, "pi")
"""The number as a schedule, so that `pi / 2 * t` prints as it is written."""


def cos(schedule: ScheduleLike) -> Schedule:
    """The cosine of a schedule."""
    return _Elementary("cos", schedule)


def sin(schedule: ScheduleLike) -> Schedule:
    """The sine of a schedule."""
    return _Elementary("sin", schedule)


def exp(schedule: ScheduleLike) -> Schedule:
    """The exponential of a schedule."""
    return _Elementary("exp", schedule)


def log(schedule: ScheduleLike) -> Schedule:
    """The natural logarithm of a schedule."""
    return _Elementary("log", schedule)


def sqrt(schedule: ScheduleLike) -> Schedule:
    """The square root of a schedule."""
    return _Elementary("sqrt", schedule)


def sigmoid(schedule: ScheduleLike) -> Schedule:
    r"""The logistic function of a schedule, $1 / (1 + e^{-w})$."""
    return _Elementary("sigmoid", schedule)


_FUNCTIONS: dict[str, Callable[[Tensor], Tensor]] = {
    "cos": torch.cos,
    "sin": torch.sin,
    "exp": torch.exp,
    "log": torch.log,
    "sqrt": torch.sqrt,
    "sigmoid": torch.sigmoid,
}
_COMPLEMENTS: dict[str, Callable[[Tensor], Tensor]] = {
    # 1 - f(x) for f near 1, without cancellation
    "cos": lambda x: 2 * torch.sin(x / 2) ** 2,
    "sin": lambda x: 2 * torch.sin(torch.pi / 4 - x / 2) ** 2,
    "exp": lambda x: -torch.expm1(x),
    "sigmoid": lambda x: torch.sigmoid(-x),
}


class _Elementary(Node):
    """A torch function, given by its name, of a schedule."""

    def __init__(self, name: str, inner: ScheduleLike):
        super().__init__()
        self.name, self.inner = name, as_schedule(inner)

    @no_type_check
    def _value(self, t: Tensor) -> Tensor:
        return _FUNCTIONS[self.name](self.inner._value(t))

    @no_type_check
    def _complement(self, t: Tensor) -> Tensor:
        inner = self.inner._value(t)
        value = _FUNCTIONS[self.name](inner)
        if self.name not in _COMPLEMENTS:
            return 1 - value
        return torch.where(value > 0.5, _COMPLEMENTS[self.name](inner), 1 - value)

    def log_snr(self, t: Elementwise) -> Elementwise:
        return self.inner._value(t) if self.name == "sigmoid" else super().log_snr(t)

    def _by(self, clock: Schedule) -> Schedule:
        return _Elementary(self.name, self.inner(clock))

    def __repr__(self) -> str:
        return f"{self.name}({self.inner})"
