"""The full bound on the likelihood with all its terms: estimated, tightened by importance weights, or enumerated."""

from .bounds import BoundTerms, continuous_bound, discrete_bound
from .estimates import Estimate, average, estimate
from .exact import every_sequence, expected_bound, expected_discrete_bound, model_law
from .importance import importance_bound, path_log_weight
from .learned import learned_nelbo
from .nodes import process_quadrature

__all__ = [
    "BoundTerms",
    "Estimate",
    "average",
    "continuous_bound",
    "discrete_bound",
    "estimate",
    "every_sequence",
    "expected_bound",
    "expected_discrete_bound",
    "importance_bound",
    "learned_nelbo",
    "model_law",
    "path_log_weight",
    "process_quadrature",
]
