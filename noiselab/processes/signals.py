"""Helpers for the signals of processes."""

from ..schedules import Schedule, ScheduleLike, as_schedule, t

LINEAR = 1 - t


def complement_of(signal: ScheduleLike) -> Schedule:
    """The noise weight of a signal, 1 - signal."""
    return t if signal is LINEAR else 1 - as_schedule(signal)
