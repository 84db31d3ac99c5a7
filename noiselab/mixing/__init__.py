"""What replaces destroyed tokens: distributions over the vocabulary, and weighted sums of them kept factored."""

from .base import HostCopy, Mass, Mixing
from .fixed import Absorbing, Uniform, Unigram

__all__ = ["Absorbing", "HostCopy", "Mass", "Mixing", "Uniform", "Unigram"]
