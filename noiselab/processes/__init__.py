"""Ready-made processes, a few lines each, with their paper: one file a family."""

from .hybrid import gidd
from .masking import masked
from .uniform import uniform

__all__ = ["gidd", "masked", "uniform"]
