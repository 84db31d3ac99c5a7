"""Pipelines: a model with its tokenizer and settings, to load, generate, correct, save and share."""

from .base import Pipeline
from .canvas import CanvasPipeline
from .canvas_settings import CanvasSettings
from .causal import AutoregressivePipeline
from .diffusion import DiffusionPipeline, GiddPipeline
from .settings import GenerationSettings, ModelSettings
from .streaming import GenerationState, TextStream

__all__ = [
    "AutoregressivePipeline",
    "CanvasPipeline",
    "CanvasSettings",
    "DiffusionPipeline",
    "GenerationSettings",
    "GenerationState",
    "GiddPipeline",
    "ModelSettings",
    "Pipeline",
    "TextStream",
]
