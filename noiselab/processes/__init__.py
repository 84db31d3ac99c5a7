"""Ready-made processes, a few lines each, with their paper: one file a family."""

from .coarse import Coarse
from .hybrid import gidd
from .masking import masked
from .neighbours import Neighbours
from .token_rates import TokenRates
from .uniform import uniform

__all__ = ["Coarse", "Neighbours", "TokenRates", "gidd", "masked", "uniform"]
