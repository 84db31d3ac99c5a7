"""Tasks whose solutions can be checked: problems step by step, and questions with options."""

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
