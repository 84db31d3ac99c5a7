"""Noise processes: the interface of all, those written in two methods, and those composed of weighted noises."""

from ..numerics import as_token_times
from .base import NoiseProcess
from .change_of_time import ChangeOfTime
from .interpolating import InterpolatingProcess
from .interpolation import Interpolation
from .token_dependent import TokenDependentProcess

__all__ = [
    "ChangeOfTime",
    "InterpolatingProcess",
    "Interpolation",
    "NoiseProcess",
    "TokenDependentProcess",
    "as_token_times",
]
