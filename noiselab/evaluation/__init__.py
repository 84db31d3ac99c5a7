"""Evaluation: the bound on held-out data, judged samples, self-correction before and after, the exactly known world."""

from .bound import Bound, validation_bound
from .correction import Correction, self_accuracy, self_correction
from .correction_grid import GridRow, correction_grid, correction_grid_table
from .forced_errors import Damage, Detection, Suspicion, by_backspace, by_denoiser, by_surprise, damage, detection
from .intervals import Interval, interval, paired_difference, wilson
from .judge import Judgement, distinct, generative_perplexity, text_perplexity, token_entropy
from .known_world import Measures, World, WorldResult, known_world, study, train_in_world
from .problem_solving import Accuracy, accuracy, filled_solutions, prompt_of, solve, verdicts_of, written_solutions
from .text import token_bytes

__all__ = [
    "Accuracy",
    "Bound",
    "Correction",
    "Damage",
    "Detection",
    "GridRow",
    "Interval",
    "Judgement",
    "Measures",
    "Suspicion",
    "World",
    "WorldResult",
    "accuracy",
    "by_backspace",
    "by_denoiser",
    "by_surprise",
    "correction_grid",
    "correction_grid_table",
    "damage",
    "detection",
    "distinct",
    "filled_solutions",
    "generative_perplexity",
    "interval",
    "known_world",
    "paired_difference",
    "prompt_of",
    "self_accuracy",
    "self_correction",
    "solve",
    "study",
    "text_perplexity",
    "token_bytes",
    "token_entropy",
    "train_in_world",
    "validation_bound",
    "verdicts_of",
    "wilson",
    "written_solutions",
]
