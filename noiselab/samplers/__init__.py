"""Samplers: the interface, one method per file, and wrappers."""

from .acceptance import (
    Acceptance,
    ConfidenceThreshold,
    EntropyBound,
    EntropyThreshold,
    Factor,
    LocalMaxima,
    Proposals,
    Quota,
    StableConfidence,
    even_quotas,
)
from .ancestral import AncestralSampler
from .base import Sampler, Stage, WrappedSampler
from .committing import CommittingSampler
from .confidence import ConfidenceSampler, EntropyBoundedSampler
from .constrained import ConstrainedSampler
from .deterministic import DeterministicSampler
from .drafts import DraftSampler
from .gillespie import FirstHittingSampler, GillespieSampler
from .grids import adaptive_grid, cosine_grid, even_grid, log_snr_grid, power_grid, signal_grid
from .guided_steps import GuidedStepSampler
from .joint_thresholds import JointThresholdSampler
from .path_planning import PathPlanningSampler
from .remasking import RemaskingSampler
from .renoising import RenoisingSampler
from .tau_leaping import EulerSampler, TauLeapingSampler
from .threshold import ThresholdSampler
from .wrappers import BlockSampler, EarlyStopping, EndToken, Infilling, Prompted, SlidingBlockSampler, lengths

__all__ = [
    "Acceptance",
    "AncestralSampler",
    "BlockSampler",
    "CommittingSampler",
    "ConfidenceSampler",
    "ConfidenceThreshold",
    "ConstrainedSampler",
    "DeterministicSampler",
    "DraftSampler",
    "EarlyStopping",
    "EndToken",
    "EntropyBound",
    "EntropyBoundedSampler",
    "EntropyThreshold",
    "EulerSampler",
    "Factor",
    "FirstHittingSampler",
    "GillespieSampler",
    "GuidedStepSampler",
    "Infilling",
    "JointThresholdSampler",
    "LocalMaxima",
    "PathPlanningSampler",
    "Prompted",
    "Proposals",
    "Quota",
    "RemaskingSampler",
    "RenoisingSampler",
    "Sampler",
    "SlidingBlockSampler",
    "StableConfidence",
    "Stage",
    "TauLeapingSampler",
    "ThresholdSampler",
    "WrappedSampler",
    "adaptive_grid",
    "cosine_grid",
    "even_grid",
    "even_quotas",
    "lengths",
    "log_snr_grid",
    "power_grid",
    "signal_grid",
]
