"""Inverting a monotone function of time by bisection, with derivatives by the implicit function theorem."""

from typing import TYPE_CHECKING, no_type_check

import torch
from torch import Tensor

if TYPE_CHECKING:
    from .base import Schedule

PARTS, ROUNDS = 8, 34  # resolution 1e-30: needed near t = 0, where float64 is much finer than near 1
SLACK = 1e-9  # tolerance for values outside the range, due to rounding


@torch.no_grad()
def require_within(schedule: "Schedule", value: Tensor) -> None:
    """Raise `ValueError` unless the schedule is monotone and takes these values."""
    u = torch.linspace(0, 1, 257, dtype=torch.float64, device=value.device)
    w = schedule(torch.sin(torch.pi * u / 2) ** 2)
    steps = w.diff()
    if not w.isfinite().all() or not ((steps >= -SLACK).all() or (steps <= SLACK).all()) or w[0] == w[-1]:
        raise ValueError(f"a schedule must be monotone on [0, 1] to have an inverse; got {schedule}")
    low, high = sorted((w[0].item(), w[-1].item()))
    bad = ~((value >= low - SLACK) & (value <= high + SLACK))
    if bad.any():
        raise ValueError(
            f"values must lie in [{low:.6g}, {high:.6g}], the range of {schedule}; "
            f"got {value[bad].flatten()[0].item():.6g}"
        )


@torch.no_grad()
def solve(schedule: "Schedule", value: Tensor, complement: Tensor) -> Tensor:
    """The times in [0, 1] at which the schedule has the value, or an end of [0, 1] if there is none.

    Values above one half are found by their complements, because 1 - 1e-20 rounds to 1, but 1e-20 does not round to 0.
    """
    upper = value > 0.5
    target = torch.where(upper, complement, value)
    low = torch.zeros_like(value)
    first = _side(schedule, upper, low)
    rises = _side(schedule, upper, torch.ones_like(value)) > first
    at_once = torch.where(rises, first >= target, first <= target)
    inner = torch.arange(1, PARTS, dtype=value.dtype, device=value.device).view(-1, *value.dim() * [1])
    for k in range(ROUNDS):
        width = PARTS ** -(k + 1.0)
        found = _side(schedule, upper, low + width * inner)
        reached = torch.where(rises, found >= target, found <= target)
        low = low + width * (~reached).sum(0)
        if not torch.compiler.is_compiling() and (at_once | (low + width == low)).all():
            break
    return torch.where(at_once, 0, low + width)


def implicit(schedule: "Schedule", value: Tensor, complement: Tensor) -> Tensor:
    """`solve`, differentiable to third order in the value and in the parameters of the schedule.

    Newton steps from the root do not change its value, but each doubles the order of correct derivatives.
    """
    upper = value.detach() > 0.5
    target = torch.where(upper, complement, value)
    root = solve(schedule, value, complement)
    for _ in range(2):
        found, slope, *_ = torch.func.jvp(lambda t: _side(schedule, upper, t), (root,), (torch.ones_like(root),))
        usable = slope.isfinite() & (slope != 0)
        root = root - torch.where(usable, (found - target) / torch.where(usable, slope, 1), 0)
    return root


@no_type_check
def _side(schedule: "Schedule", upper: Tensor, t: Tensor) -> Tensor:
    return torch.where(upper, schedule._complement(t), schedule._value(t))
