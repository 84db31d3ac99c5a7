"""Functions that build processes, by name."""

from collections.abc import Callable
from typing import TypeVar

from ..process import NoiseProcess

Make = TypeVar("Make", bound=Callable[..., NoiseProcess])
FAMILIES: dict[str, Callable[..., NoiseProcess]] = {}
"""Name -> function that builds the process from keyword arguments. Register your own so that models trained on it can
be loaded.
"""
SIGNALS = ("cosine", "cosine_md4", "cosine_squared", "geometric", "linear", "log_linear", "polynomial")


def family(make: Make) -> Make:
    """Decorator that registers a function that builds a process from JSON arguments, so that its models can be loaded."""
    FAMILIES[make.__name__] = make
    return make
