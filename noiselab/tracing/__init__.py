"""Traces as pictures: a figure of one sequence, and a page that plays the walk."""

from .figure import plot_trace
from .page import write_trace

__all__ = ["plot_trace", "write_trace"]
