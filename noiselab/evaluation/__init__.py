"""Evaluation: bounds on held-out data, samples under a judge, self-correction before and after, and forced errors."""

from .bound import Bound, validation_bound
from .correction import Correction, self_accuracy, self_correction
from .correction_grid import GridRow, correction_grid, correction_grid_table
from .forced_error_study import ForcedErrorRow, forced_error_row, forced_error_table
from .forced_errors import (
    Damage,
    Detection,
    Suspicion,
    by_backspace,
    by_denoiser,
    by_surprise,
    damage,
    detection,
    other_tokens,
    threshold_at,
)
from .intervals import Interval, interval, paired_difference, wilson
from .judge import Judgement, distinct, generative_perplexity, text_perplexity, token_entropy, token_nats
from .proofreading import by_proofreading, by_surprise_proofreading
from .repair import Repair, Revised, Reviser, by_guess, by_self_correction, repair
from .text import token_bytes

__all__ = [
    "Bound",
    "Correction",
    "Damage",
    "Detection",
    "ForcedErrorRow",
    "GridRow",
    "Interval",
    "Judgement",
    "Repair",
    "Revised",
    "Reviser",
    "Suspicion",
    "by_backspace",
    "by_denoiser",
    "by_guess",
    "by_proofreading",
    "by_self_correction",
    "by_surprise",
    "by_surprise_proofreading",
    "correction_grid",
    "correction_grid_table",
    "damage",
    "detection",
    "distinct",
    "forced_error_row",
    "forced_error_table",
    "generative_perplexity",
    "interval",
    "other_tokens",
    "paired_difference",
    "repair",
    "self_accuracy",
    "self_correction",
    "text_perplexity",
    "threshold_at",
    "token_bytes",
    "token_entropy",
    "token_nats",
    "validation_bound",
    "wilson",
]
