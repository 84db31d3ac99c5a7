"""Whether a parameter can be computed next: training examples for a probe that detects mistakes as they begin."""

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
    """Beginnings of steps, labelled by whether they are valid continuations of the solution.

    **Arguments:**

    - `rows`: tokens of start, question, the solution up to some step, and the beginning of a step for a parameter.
    - `labels`: whether the parameter can be computed next: it is not known yet, and all parameters it depends on are.
    - `parameters`: the parameter whose step each row begins.
    - `places`: the number of complete steps before the beginning.
    """

    rows: list[Tensor]
    labels: Bool[Tensor, " row"]
    parameters: tuple[Hashable, ...]
    places: tuple[int, ...]


def can_next_row(problem: Problem, words: Words, place: int, parameter: Hashable) -> TokenSequence:
    """Return the tokens of one example: start, question, `place` steps of the correct solution, "D A as".

    **Arguments:**

    - `problem`: the problem; `words`: the tokens of its level.
    - `place`: the number of complete steps, from 0 to all.
    - `parameter`: any parameter of the problem.

    **Raises:** `ValueError` if the place is out of range or the problem has no such parameter.
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
    """Draw random examples of one problem: some steps of its solution, then the beginning of a step for any parameter.

    The number of steps is uniform over the solution; the label is given by `Problem.ready`.

    **Arguments:**

    - `problem`: the problem; `words`: the tokens of its level.
    - `generator`: the source of randomness.
    - `count`: the number of examples.
    - `balanced`: whether positive and negative labels are equally likely wherever both occur; otherwise all parameters
      of the problem are equally likely.

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
