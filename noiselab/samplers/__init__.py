"""Samplers: the interface, one method per file, and the record of revisions."""

from .ancestral import AncestralSampler
from .base import Sampler, Stage, WrappedSampler
from .correction import SelfCorrection
from .corrector import Corrector
from .revisions import Outcome, Revision, outcome, revisions

__all__ = [
    "AncestralSampler",
    "Corrector",
    "Outcome",
    "Revision",
    "Sampler",
    "SelfCorrection",
    "Stage",
    "WrappedSampler",
    "outcome",
    "revisions",
]
