"""Rules that say which of the proposed tokens are accepted in a step."""

from .base import Acceptance, Proposals, even_quotas
from .ranks import EntropyBound, Factor, LocalMaxima, Quota
from .stability import StableConfidence
from .thresholds import ConfidenceThreshold, EntropyThreshold

__all__ = [
    "Acceptance",
    "ConfidenceThreshold",
    "EntropyBound",
    "EntropyThreshold",
    "Factor",
    "LocalMaxima",
    "Proposals",
    "Quota",
    "StableConfidence",
    "even_quotas",
]
