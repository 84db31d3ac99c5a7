"""Samplers: the interface, one method per file, what stands around them, and the record of what they did."""

from .ancestral import AncestralSampler
from .base import Sampler, Stage, WrappedSampler
from .blocks import BlockSampler
from .correction import SelfCorrection
from .corrector import Corrector
from .deterministic import DeterministicSampler
from .dfm_corrector import DFMCorrector
from .events import FirstHittingSampler, GillespieSampler
from .forward_backward import ForwardBackwardCorrector
from .gibbs import GibbsCorrector
from .grids import adaptive_grid, cosine_grid, even_grid, log_snr_grid, power_grid, signal_grid
from .infilling import Infilling, Prompted
from .leaping import EulerSampler, TauLeapingSampler
from .path_planning import PathPlanningSampler
from .planned import ConfidenceSampler, EntropyBoundedSampler
from .predictor_corrector import PredictorCorrector
from .remasking import RemaskingCorrector, RemaskingSampler
from .revisions import Outcome, Revision, outcome, revisions
from .stopping import EarlyStopping, EndToken, lengths
from .tallies import Tally
from .traces import Change, Trace, trace

__all__ = [
    "AncestralSampler",
    "BlockSampler",
    "Change",
    "ConfidenceSampler",
    "Corrector",
    "DFMCorrector",
    "DeterministicSampler",
    "EarlyStopping",
    "EndToken",
    "EntropyBoundedSampler",
    "EulerSampler",
    "FirstHittingSampler",
    "ForwardBackwardCorrector",
    "GibbsCorrector",
    "GillespieSampler",
    "Infilling",
    "Outcome",
    "PathPlanningSampler",
    "PredictorCorrector",
    "Prompted",
    "RemaskingCorrector",
    "RemaskingSampler",
    "Revision",
    "Sampler",
    "SelfCorrection",
    "Stage",
    "Tally",
    "TauLeapingSampler",
    "Trace",
    "WrappedSampler",
    "adaptive_grid",
    "cosine_grid",
    "even_grid",
    "lengths",
    "log_snr_grid",
    "outcome",
    "power_grid",
    "revisions",
    "signal_grid",
    "trace",
]
