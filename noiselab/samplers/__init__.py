"""Samplers: the interface, one method per file, and the record of revisions."""

from .ancestral import AncestralSampler
from .base import Sampler
from .correction import SelfCorrection
from .revisions import Outcome, Revision, outcome, revisions

__all__ = ["AncestralSampler", "Outcome", "Revision", "Sampler", "SelfCorrection", "outcome", "revisions"]
