"""What replaces destroyed tokens: distributions over the vocabulary, and weighted sums of them kept factored."""

from .base import HostCopy, Mass, Mixing
from .blend import Blend
from .fixed import Absorbing, Uniform, Unigram, support_without
from .neighbours import nearest_neighbours, neighbour_row

__all__ = [
    "Absorbing",
    "Blend",
    "HostCopy",
    "Mass",
    "Mixing",
    "Uniform",
    "Unigram",
    "nearest_neighbours",
    "neighbour_row",
    "support_without",
]
