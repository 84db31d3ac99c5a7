"""Schedules: scalar functions of time as expressions in `t`, published families, and learned schedules."""

from .base import Constant, Function, Schedule, ScheduleLike, Time, as_schedule, t
from .families import cosine, cosine_md4, cosine_squared, from_log_snr, geometric, linear, log_linear, polynomial
from .functions import cos, exp, log, pi, sigmoid, sin, sqrt
from .learned import LearnedConstant, MonotoneNetwork

__all__ = [
    "Constant",
    "Function",
    "LearnedConstant",
    "MonotoneNetwork",
    "Schedule",
    "ScheduleLike",
    "Time",
    "as_schedule",
    "cos",
    "cosine",
    "cosine_md4",
    "cosine_squared",
    "exp",
    "from_log_snr",
    "geometric",
    "linear",
    "log",
    "log_linear",
    "pi",
    "polynomial",
    "sigmoid",
    "sin",
    "sqrt",
    "t",
]
