"""Correctors: the interface, one method per file, and the sampler that applies them between its steps."""

from .base import Corrector
from .flow_matching import DFMCorrector
from .forward_backward import ForwardBackwardCorrector
from .gibbs import GibbsCorrector
from .predictor_corrector import PredictorCorrector
from .remasking import RemaskingCorrector
from .self_correction import SelfCorrection

__all__ = [
    "Corrector",
    "DFMCorrector",
    "ForwardBackwardCorrector",
    "GibbsCorrector",
    "PredictorCorrector",
    "RemaskingCorrector",
    "SelfCorrection",
]
