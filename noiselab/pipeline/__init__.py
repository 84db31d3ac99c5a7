"""Pipelines: a model with its tokenizer and settings, to load, generate, correct, save and share."""

from .base import Pipeline
from .causal import AutoregressivePipeline
from .diffusion import DiffusionPipeline, GiddPipeline
from .settings import GenerationSettings, ModelSettings
from .streaming import GenerationState, TextStream

__all__ = [
    "AutoregressivePipeline",
    "DiffusionPipeline",
    "GenerationSettings",
    "GenerationState",
    "GiddPipeline",
    "ModelSettings",
    "Pipeline",
    "TextStream",
]
