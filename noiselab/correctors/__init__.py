"""Correctors (the interface, one method per file, and the sampler that applies them between its steps); diffusion revisers."""

from .balanced import BalancedCorrector
from .base import Corrector
from .detection import DenoiserDetector
from .drafts import DraftCorrector
from .finished import CorrectorReviser, ResamplingReviser
from .flow_matching import DFMCorrector
from .forward_backward import ForwardBackwardCorrector
from .gibbs import GibbsCorrector
from .predictor_corrector import PredictorCorrector
from .quality import QualityDetector, SuspectCorrector
from .remasking import RemaskingCorrector
from .revisers import BestGuessReviser, InfillingReviser
from .self_correction import SelfCorrection

__all__ = [
    "BalancedCorrector",
    "BestGuessReviser",
    "Corrector",
    "CorrectorReviser",
    "DFMCorrector",
    "DenoiserDetector",
    "DraftCorrector",
    "ForwardBackwardCorrector",
    "GibbsCorrector",
    "InfillingReviser",
    "PredictorCorrector",
    "QualityDetector",
    "RemaskingCorrector",
    "ResamplingReviser",
    "SelfCorrection",
    "SuspectCorrector",
]
