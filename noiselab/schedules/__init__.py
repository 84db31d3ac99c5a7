"""Scalars of time: expressions in `t`, ready-made families, learned ones."""

from .base import Constant, Function, Schedule, ScheduleLike, Time, as_schedule, t

__all__ = ["Constant", "Function", "Schedule", "ScheduleLike", "Time", "as_schedule", "t"]
