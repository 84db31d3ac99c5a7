"""Published processes, in a few lines each, with their sources: one file per family."""

from .absorbing_hybrid import AbsorbingHybrid, absorbing_hybrid
from .coarse import Coarse
from .discrete import absorbing_betas, cosine_betas, d3pm
from .families import FAMILIES
from .hybrid import gidd, gidd_v1_0
from .log_snr import log_snr_hybrid
from .masking import masked
from .neighbours import Neighbours
from .registry import registered
from .settings import process_from, settings_of
from .token_rates import TokenRates
from .uniform import uniform
from .unigram import mask_and_unigram, unigram

__all__ = [
    "FAMILIES",
    "AbsorbingHybrid",
    "Coarse",
    "Neighbours",
    "TokenRates",
    "absorbing_betas",
    "absorbing_hybrid",
    "cosine_betas",
    "d3pm",
    "gidd",
    "gidd_v1_0",
    "log_snr_hybrid",
    "mask_and_unigram",
    "masked",
    "process_from",
    "registered",
    "settings_of",
    "uniform",
    "unigram",
]
