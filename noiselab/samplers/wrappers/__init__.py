"""Samplers that wrap a sampler: sampling by blocks, known tokens, early stopping."""

from .blocks import BlockSampler
from .infilling import Infilling, Prompted
from .sliding import SlidingBlockSampler
from .stopping import EarlyStopping, EndToken, lengths

__all__ = [
    "BlockSampler",
    "EarlyStopping",
    "EndToken",
    "Infilling",
    "Prompted",
    "SlidingBlockSampler",
    "lengths",
]
