"""The sampler bench: known worlds, the runner, the catalogue of samplers, tables and figures."""

from .known_world import Measures, World, WorldResult, known_world, study, train_in_world

__all__ = [
    "Measures",
    "World",
    "WorldResult",
    "known_world",
    "study",
    "train_in_world",
]
