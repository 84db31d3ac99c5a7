"""Pipelines: a model with its tokenizer and settings, to load, generate, correct, save and share."""

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
