"""Models with all that belongs to them: load, generate, correct, save, share."""

from .base import Pipeline
from .causal import AutoregressivePipeline
from .diffusion import DiffusionPipeline, GiddPipeline
from .settings import GenerationSettings, ModelSettings

__all__ = [
    "AutoregressivePipeline",
    "DiffusionPipeline",
    "GenerationSettings",
    "GiddPipeline",
    "ModelSettings",
    "Pipeline",
]
