"""Models with all that belongs to them: load, generate, correct, save, share."""

from .base import Pipeline
from .causal import AutoregressivePipeline
from .diffusion import DiffusionPipeline, GiddPipeline
from .settings import Generation, ModelSettings

__all__ = [
    "AutoregressivePipeline",
    "DiffusionPipeline",
    "Generation",
    "GiddPipeline",
    "ModelSettings",
    "Pipeline",
]
