"""What the ready-made processes say about their signal."""

from ..schedules import Schedule, ScheduleLike, as_schedule, t

LINEAR = 1 - t


def rest(signal: ScheduleLike) -> Schedule:
    """What a signal leaves to the noise, 1 - signal."""
    return t if signal is LINEAR else 1 - as_schedule(signal)
