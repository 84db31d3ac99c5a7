"""iGSM: random arithmetic problems over a graph of parameters, with solutions that are checked step by step.

The levels "logic", "nano" and "micro" are small (`draw_small`); "med" and "hard" are those of the papers
(`draw_problem`). `ProblemMistakes` inserts mistakes followed by a backspace into solutions, to train models that
correct themselves.

**Source:** Ye et al. (2024), arXiv 2407.20311 and 2408.16293.
"""

from .can_next import CanNext, can_next_examples, can_next_row
from .dependency import Dependency
from .detectors import CanNextDetector, PerfectDetector, ends_of_steps
from .formula import Definition
from .full import FullProblem, Layout, Level, Split, draw_problem, reask, solution_hash, split_of
from .mistakes import MistakeKind, ProblemMistakes
from .problem import Parameter, Problem, Verdict
from .reading import read_problem
from .small import SmallProblem, draw_small
from .small_text import Rule, SmallLevel
from .structure import Quantity, Structure
from .words import Words

__all__ = [
    "CanNext",
    "CanNextDetector",
    "Definition",
    "Dependency",
    "FullProblem",
    "Layout",
    "Level",
    "MistakeKind",
    "Parameter",
    "PerfectDetector",
    "Problem",
    "ProblemMistakes",
    "Quantity",
    "Rule",
    "SmallLevel",
    "SmallProblem",
    "Split",
    "Structure",
    "Verdict",
    "Words",
    "can_next_examples",
    "can_next_row",
    "draw_problem",
    "draw_small",
    "ends_of_steps",
    "read_problem",
    "reask",
    "solution_hash",
    "split_of",
]
