"""The sampler bench: a world whose law is known, the runner, the catalogue of samplers, tables and figures."""

from .world import World

__all__ = ["World"]
