"""Mixings: the distributions over the vocabulary that replace corrupted tokens, and factored weighted sums of them."""

from .base import HostCopy, Mixing, NoiseMass
from .blend import Blend
from .fixed import Absorbing, Uniform, Unigram, support_without
from .neighbours import nearest_neighbours, neighbour_row

__all__ = [
    "Absorbing",
    "Blend",
    "HostCopy",
    "Mixing",
    "NoiseMass",
    "Uniform",
    "Unigram",
    "nearest_neighbours",
    "neighbour_row",
    "support_without",
]
