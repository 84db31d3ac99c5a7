"""Tasks with verifiable solutions: problems that are checked step by step, and multiple-choice questions."""

from . import igsm
from .bbq import BBQItem, load_bbq, question_text
from .boxes import BoxQuestion, draw_boxes
from .choices import letters, read_choice
from .igsm import FullProblem, Problem, ProblemMistakes, SmallProblem, Verdict, Words, draw_problem, draw_small

__all__ = [
    "BBQItem",
    "BoxQuestion",
    "FullProblem",
    "Problem",
    "ProblemMistakes",
    "SmallProblem",
    "Verdict",
    "Words",
    "draw_boxes",
    "draw_problem",
    "draw_small",
    "igsm",
    "letters",
    "load_bbq",
    "question_text",
    "read_choice",
]
