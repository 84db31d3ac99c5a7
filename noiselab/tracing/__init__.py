"""Traces: a record of a sampling run, its summary, a figure and an interactive page."""

from .figure import plot_trace
from .page import write_trace
from .summary import ChangeSummary
from .trace import Change, Trace, trace

__all__ = [
    "Change",
    "ChangeSummary",
    "Trace",
    "plot_trace",
    "trace",
    "write_trace",
]
