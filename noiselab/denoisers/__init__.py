"""Denoisers: the interface, wrappers that change a prediction, the exact oracle; networks in their own modules."""

from .active_only import ActiveOnly
from .attention import attending_to, selected_sequences, takes_mask
from .base import Denoiser, ProjectedDenoiser, Transform, WrappedDenoiser, select
from .blockwise import BlockDenoiser
from .call_counter import CallCounter
from .constrained import Constrained
from .conversions import LeaveOneOut, Posterior, Score, as_leave_one_out, as_posterior
from .credit import Credit
from .earliest_time import EarliestTime
from .guidance import ClassifierFreeGuidance, ClassifierGuidance, by_enumeration, first_order
from .neighbour_penalty import NeighbourPenalty
from .oracle import MarkovOracle
from .perturbed import Perturbed
from .projection import LinearProjection, linear_projection
from .quality import QualityDenoiser
from .self_conditioning import SelfConditioned
from .transforms import MinP, Support, Suppress, Temperature, TopK, TopP

__all__ = [
    "ActiveOnly",
    "BlockDenoiser",
    "CallCounter",
    "ClassifierFreeGuidance",
    "ClassifierGuidance",
    "Constrained",
    "Credit",
    "Denoiser",
    "EarliestTime",
    "LeaveOneOut",
    "LinearProjection",
    "MarkovOracle",
    "MinP",
    "NeighbourPenalty",
    "Perturbed",
    "Posterior",
    "ProjectedDenoiser",
    "QualityDenoiser",
    "Score",
    "SelfConditioned",
    "Support",
    "Suppress",
    "Temperature",
    "TopK",
    "TopP",
    "Transform",
    "WrappedDenoiser",
    "as_leave_one_out",
    "as_posterior",
    "attending_to",
    "by_enumeration",
    "first_order",
    "linear_projection",
    "select",
    "selected_sequences",
    "takes_mask",
]
