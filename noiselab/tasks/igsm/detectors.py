"""Detectors of wrong steps in solutions, which know the problem, or its words."""

from collections.abc import Hashable, Sequence
from typing import Literal, get_args

from torch import nn

from ...autoregressive.detectors import ProbeDetector, StepDetector, find_last_step
from ...typing import TokenSequence
from .problem import Problem
from .words import Words

Errors = Literal["any", "not ready"]


def ends_of_steps(words: Words) -> tuple[int, ...]:
    """The tokens after which a step can begin: the full stop, and what ends a question or a sentence of the problem.

    Use it as the `boundary` of detectors. The `boundary` of `RetryUponRegret` is the full stop alone.
    """
    ends = [".", "?"] if words.level in ("med", "hard") else [".", ":", ";"]
    return tuple(words.encode(ends).tolist())


class CanNextDetector(ProbeDetector):
    """The probability, by a probe, that the parameter of the last step could not be found next; it reads up to "D A as".

    **Arguments:**

    - `probe`: a `Probe`, trained on rows of `can_next_examples`.
    - `words`: the tokens of its level.

    **Source:** Ye et al. (2024), arXiv 2408.16293, section 3: versions 1 and 2.
    """

    def __init__(self, probe: nn.Module, words: Words) -> None:
        super().__init__(
            probe,
            boundary=ends_of_steps(words),
            stop=int(words.encode(["as"])),
            start=words.start,
            ends=(words.full_stop,),
        )


class PerfectDetector(StepDetector):
    """1 if the last step of a solution is wrong and all before are right, otherwise 0; by the problem's own checker.

    A solution that ends too early has no wrong step.

    **Arguments:**

    - `problems`: those that texts can be about, each text beginning with the tokens of a question; with a start token
      before them or without.
    - `words`: the tokens of their level.
    - `errors`: "any", or "not ready" for a parameter that does not exist, or could not be found next, however well it is
      calculated.

    **Raises:** `ValueError` for no problems, or other errors; when called, for texts about another problem.

    **Source:** Ye et al. (2024), arXiv 2408.16293, section 3: version P has "not ready".

    **Example:**

    ```python
    import random
    import torch
    from noiselab.tasks.igsm import PerfectDetector, Words, draw_small

    problem, words = draw_small(random.Random(0), level="nano", ops=4), Words("nano")
    detector = PerfectDetector(problem, words)
    assert detector.score_step(words.encode([*problem.question, *problem.step(0)])) == 0
    assert detector.score_step(words.encode([*problem.question, *problem.step(3)])) == 1
    ```
    """

    def __init__(self, problems: Problem | Sequence[Problem], words: Words, *, errors: Errors = "any") -> None:
        several = [problems] if isinstance(problems, Problem) else list(problems)
        if not several or errors not in get_args(Errors):
            raise ValueError(f"there must be problems, errors be 'any' or 'not ready'; got {len(several)}, {errors!r}")
        super().__init__((words.full_stop,))
        self.words, self.errors = words, errors
        self.problems = {tuple(words.encode(problem.question).tolist()): problem for problem in several}
        self.lengths = sorted({len(question) for question in self.problems}, reverse=True)

    def score_step(self, text: TokenSequence) -> float:
        """The score of the last step, 0 or 1."""
        words, tokens = self.words, tuple(text.tolist())
        if tokens[:1] == (words.start,):
            tokens = tokens[1:]
        length = next((length for length in self.lengths if tokens[:length] in self.problems), None)
        if length is None:
            raise ValueError(f"a text must begin with the question of a problem; got {' '.join(words.decode(tokens))}")
        problem, solution = self.problems[tokens[:length]], tokens[length:]
        if not solution:
            return 0.0
        before = solution[: find_last_step(text.new_tensor(solution), (words.full_stop,))]
        known = _right_steps(problem, words.decode(before))
        now = _right_steps(problem, words.decode(solution))
        if known is None or now is not None:
            return 0.0
        return float(self.errors == "any" or _named(problem, words.decode(solution)) not in problem.ready(known))

    def __repr__(self) -> str:
        return f"PerfectDetector({len(self.problems)} problems, errors={self.errors!r})"


def _right_steps(problem: Problem, solution: Sequence[str]) -> tuple[Hashable, ...] | None:
    """The parameters that a solution has found, if all its steps are right; it need not have come to the answer."""
    verdict = problem.check(solution)
    # Full iGSM says of a wrong operation only that the answer is wrong; small iGSM never says so of the right parameter.
    on_the_way = verdict.kind == "empty" or (verdict.kind == "answer" and verdict.parameters[-1] != problem.order[-1])
    return verdict.parameters if verdict.right or on_the_way else None


def _named(problem: Problem, solution: Sequence[str]) -> Hashable | None:
    """The parameter of the first wrong step, if it names one."""
    verdict = problem.check(solution)
    named = verdict.parameters[verdict.step :] if verdict.step is not None else ()
    return named[0] if named else None
