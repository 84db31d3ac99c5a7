"""Noise processes: the interface of all, those written in two methods, and those composed of weighted noises."""

from .base import NoiseProcess, lift
from .interpolating import InterpolatingProcess
from .interpolation import Interpolation
from .token_dependent import TokenDependentProcess

__all__ = ["InterpolatingProcess", "Interpolation", "NoiseProcess", "TokenDependentProcess", "lift"]
