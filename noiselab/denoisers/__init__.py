"""Denoisers: the interface, wrappers that change a prediction, the exact oracle; networks in their own modules."""

from .base import Denoiser, ProjectedDenoiser, Transform, select
from .counting import Counting
from .oracle import MarkovOracle
from .transforms import LeaveOneOut, MinP, Posterior, Score, Support, Temperature, TopP, as_leave_one_out

__all__ = [
    "Counting",
    "Denoiser",
    "LeaveOneOut",
    "MarkovOracle",
    "MinP",
    "Posterior",
    "ProjectedDenoiser",
    "Score",
    "Support",
    "Temperature",
    "TopP",
    "Transform",
    "as_leave_one_out",
    "select",
]
