"""Evaluation: the bound on held-out data, judged samples, self-correction before and after, the exactly known world."""

from .bound import Bound, validation_bound
from .correction import Correction, self_accuracy, self_correction
from .judge import Judgement, distinct, generative_perplexity, text_perplexity, token_entropy
from .known_world import Measures, World, WorldResult, known_world, study, train_in_world
from .text import token_bytes

__all__ = [
    "Bound",
    "Correction",
    "Judgement",
    "Measures",
    "World",
    "WorldResult",
    "distinct",
    "generative_perplexity",
    "known_world",
    "self_accuracy",
    "self_correction",
    "study",
    "text_perplexity",
    "token_bytes",
    "token_entropy",
    "train_in_world",
    "validation_bound",
]
