"""Evaluation, measures only: the bound on held-out data, judged samples, detection, self-correction, intervals."""

from .bound import Bound, validation_bound
from .canvas_bound import canvas_validation_bound
from .comparison import Comparison, TextScores, compare_texts
from .correction import Correction, self_accuracy, self_correction
from .correction_grid import GridRow, correction_grid, correction_grid_table
from .detection import Detection, measure_detection, select_units, threshold_at
from .intervals import Interval, interval, paired_difference, wilson
from .judge import Judgement, distinct, generative_perplexity, text_perplexity, token_entropy, token_nats
from .text import token_bytes

__all__ = [
    "Bound",
    "Comparison",
    "Correction",
    "Detection",
    "GridRow",
    "Interval",
    "Judgement",
    "TextScores",
    "canvas_validation_bound",
    "compare_texts",
    "correction_grid",
    "correction_grid_table",
    "distinct",
    "generative_perplexity",
    "interval",
    "measure_detection",
    "paired_difference",
    "select_units",
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
