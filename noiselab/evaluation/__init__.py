"""Evaluation: the bound on held-out data, judged samples, self-correction before and after, forced errors, the known world."""

from .answers import (
    AnswerScores,
    Bias,
    BiasedQuestion,
    BiasScores,
    RightShare,
    answer_scores,
    bias_scores,
    correction_law,
    fixed_point,
)
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
from .problem_solving import Accuracy, accuracy, filled_solutions, prompt_of, solve, verdicts_of, written_solutions
from .proofreading import by_proofreading, by_surprise_proofreading
from .recovery import (
    Continuation,
    Recovery,
    continued_by_infilling,
    continued_with_backspaces,
    recovery,
    recovery_table,
)
from .refusals import REFUSALS, load_prompts, refusal_rate
from .repair import Repair, Revised, Reviser, by_guess, by_self_correction, repair
from .text import token_bytes

__all__ = [
    "REFUSALS",
    "Accuracy",
    "AnswerScores",
    "Bias",
    "BiasScores",
    "BiasedQuestion",
    "Bound",
    "Continuation",
    "Correction",
    "Damage",
    "Detection",
    "ForcedErrorRow",
    "GridRow",
    "Interval",
    "Judgement",
    "Recovery",
    "Repair",
    "Revised",
    "Reviser",
    "RightShare",
    "Suspicion",
    "accuracy",
    "answer_scores",
    "bias_scores",
    "by_backspace",
    "by_denoiser",
    "by_guess",
    "by_proofreading",
    "by_self_correction",
    "by_surprise",
    "by_surprise_proofreading",
    "continued_by_infilling",
    "continued_with_backspaces",
    "correction_grid",
    "correction_grid_table",
    "correction_law",
    "damage",
    "detection",
    "distinct",
    "filled_solutions",
    "fixed_point",
    "forced_error_row",
    "forced_error_table",
    "generative_perplexity",
    "interval",
    "load_prompts",
    "other_tokens",
    "paired_difference",
    "prompt_of",
    "recovery",
    "recovery_table",
    "refusal_rate",
    "repair",
    "self_accuracy",
    "self_correction",
    "solve",
    "text_perplexity",
    "threshold_at",
    "token_bytes",
    "token_entropy",
    "token_nats",
    "validation_bound",
    "verdicts_of",
    "wilson",
    "written_solutions",
]
