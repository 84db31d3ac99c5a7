"""Whether a parameter can be found next: examples for a probe that shall tell a mistake when it begins."""

import random
from collections.abc import Hashable
from typing import NamedTuple

import torch
from jaxtyping import Bool
from torch import Tensor

from ...typing import TokenSequence
from .problem import Problem
from .text import BACK
from .words import Words


class CanNext(NamedTuple):
    """Beginnings of steps, and whether the solution may go on so.

    **Arguments:**

    - `rows`: tokens of start, question, the solution up to some step, and the beginning of a step for a parameter.
    - `labels`: whether each parameter can be found next: it is not known yet, and all it needs is.
    - `parameters`: those that the rows begin to find.
    - `places`: how many steps of the solution stand before.
    """

    rows: list[Tensor]
    labels: Bool[Tensor, " row"]
    parameters: tuple[Hashable, ...]
    places: tuple[int, ...]


def can_next_row(problem: Problem, words: Words, place: int, parameter: Hashable) -> TokenSequence:
    """The tokens of one example: start, question, `place` steps of the right solution, "D A as".

    **Arguments:**

    - `problem`: the problem; `words`: the tokens of its level.
    - `place`: from 0 to the number of steps.
    - `parameter`: any of the problem.

    **Raises:** `ValueError` for a place out of range, or a parameter that the problem does not have.
    """
    if not 0 <= place <= len(problem.order):
        raise ValueError(f"place must lie in [0, {len(problem.order)}]; got {place}")
    said = problem.mistake(parameter)
    before = [word for earlier in range(place) for word in problem.step(earlier)]
    text = words.encode([*problem.question, *before, *said[: said.index(BACK)]])
    return torch.cat([torch.tensor([words.start]), text])


def can_next_examples(
    problem: Problem, words: Words, generator: random.Random, count: int, *, balanced: bool = False
) -> CanNext:
    """Random examples of one problem: after some steps of its solution, a step for any parameter is begun.

    The place is any step of the solution, as likely; the label is that of `Problem.ready`.

    **Arguments:**

    - `problem`: the problem; `words`: the tokens of its level.
    - `generator`: of the random numbers.
    - `count`: how many examples.
    - `balanced`: whether yes and no are as likely, but at places that have only one of them; otherwise all parameters of the
      problem are.

    **Raises:** `ValueError` for a negative count.

    **Source:** Ye et al. (2024), arXiv 2408.16293, sections 3.1 and D.2.

    **Example:**

    ```python
    import random
    from noiselab.tasks.igsm import Words, can_next_examples, draw_small

    problem, words = draw_small(random.Random(0), level="nano", ops=4), Words("nano")
    found = can_next_examples(problem, words, random.Random(1), count=3)
    for row, label in zip(found.rows, found.labels.tolist()):
        print(" ".join(words.decode(row[1:])), label)
    ```
    """
    if count < 0:
        raise ValueError(f"count must not be negative; got {count}")
    rows: list[Tensor] = []
    labels: list[bool] = []
    parameters: list[Hashable] = []
    places: list[int] = []
    for _ in range(count):
        place = generator.randrange(len(problem.order))
        ready = problem.ready(problem.order[:place])
        pool = tuple(problem.needs)
        if balanced:
            others = tuple(p for p in pool if p not in set(ready))
            pool = ready if not others or generator.random() < 0.5 else others
        parameter = generator.choice(pool)
        rows.append(can_next_row(problem, words, place, parameter))
        labels.append(parameter in ready)
        parameters.append(parameter)
        places.append(place)
    return CanNext(rows, torch.tensor(labels, dtype=torch.bool), tuple(parameters), tuple(places))
