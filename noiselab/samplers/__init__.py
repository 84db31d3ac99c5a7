"""Samplers: the interface, one method per file, and wrappers."""

from .ancestral import AncestralSampler
from .base import Sampler, Stage, WrappedSampler
from .confidence import ConfidenceSampler, EntropyBoundedSampler
from .deterministic import DeterministicSampler
from .gillespie import FirstHittingSampler, GillespieSampler
from .grids import adaptive_grid, cosine_grid, even_grid, log_snr_grid, power_grid, signal_grid
from .guided_steps import GuidedStepSampler
from .joint_thresholds import JointThresholdSampler
from .path_planning import PathPlanningSampler
from .remasking import RemaskingSampler
from .renoising import RenoisingSampler
from .tau_leaping import EulerSampler, TauLeapingSampler
from .wrappers import BlockSampler, EarlyStopping, EndToken, Infilling, Prompted, lengths

__all__ = [
    "AncestralSampler",
    "BlockSampler",
    "ConfidenceSampler",
    "DeterministicSampler",
    "EarlyStopping",
    "EndToken",
    "EntropyBoundedSampler",
    "EulerSampler",
    "FirstHittingSampler",
    "GillespieSampler",
    "GuidedStepSampler",
    "Infilling",
    "JointThresholdSampler",
    "PathPlanningSampler",
    "Prompted",
    "RemaskingSampler",
    "RenoisingSampler",
    "Sampler",
    "Stage",
    "TauLeapingSampler",
    "WrappedSampler",
    "adaptive_grid",
    "cosine_grid",
    "even_grid",
    "lengths",
    "log_snr_grid",
    "power_grid",
    "signal_grid",
]
