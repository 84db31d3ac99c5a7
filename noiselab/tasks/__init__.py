"""Tasks whose solutions can be checked step by step."""

from . import igsm
from .igsm import (
    FullProblem,
    Problem,
    ProblemMistakes,
    SmallProblem,
    Verdict,
    Words,
    draw_problem,
    draw_small,
)

__all__ = [
    "FullProblem",
    "Problem",
    "ProblemMistakes",
    "SmallProblem",
    "Verdict",
    "Words",
    "draw_problem",
    "draw_small",
    "igsm",
]
