"""Networks in the formats in which diffusion models are published, loaded without remote code."""

from .base import FORMATS, PublishedNetwork, is_published, published_format
from .denoiser import PublishedDenoiser
from .gidd_scale import GiddConfig, GiddForDiffusionLM
from .llada2_moe import LLaDA2MoeConfig, LLaDA2MoeModelLM
from .loading import load_network
from .mdlm import DUO, MDLM, UDLM, DUOConfig, MDLMConfig, UDLMConfig

__all__ = [
    "DUO",
    "FORMATS",
    "MDLM",
    "UDLM",
    "DUOConfig",
    "GiddConfig",
    "GiddForDiffusionLM",
    "LLaDA2MoeConfig",
    "LLaDA2MoeModelLM",
    "MDLMConfig",
    "PublishedDenoiser",
    "PublishedNetwork",
    "UDLMConfig",
    "is_published",
    "load_network",
    "published_format",
]
