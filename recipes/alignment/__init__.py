"""In-context alignment: answers with rewards, ranking losses, and a transformer that performs gradient descent on them."""

from .answers import AnswersOnALine, Ranked, RankedAnswers, ScatteredAnswers
from .baselines import best_answer, gradient_descent, line_end, mean_answer
from .construction import InContextPlackettLuce
from .ranking import Ties, bradley_terry, plackett_luce, plackett_luce_gradient, plackett_luce_pull
from .rewards import Reward, cosine, negative_squared_error

__all__ = [
    "AnswersOnALine",
    "InContextPlackettLuce",
    "Ranked",
    "RankedAnswers",
    "Reward",
    "ScatteredAnswers",
    "Ties",
    "best_answer",
    "bradley_terry",
    "cosine",
    "gradient_descent",
    "line_end",
    "mean_answer",
    "negative_squared_error",
    "plackett_luce",
    "plackett_luce_gradient",
    "plackett_luce_pull",
]
