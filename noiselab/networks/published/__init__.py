"""Networks in the formats in which diffusion models are published, loaded without remote code."""

from .base import FORMATS, PublishedNetwork, is_published, published_format
from .loading import load_network

__all__ = ["FORMATS", "PublishedNetwork", "is_published", "load_network", "published_format"]
