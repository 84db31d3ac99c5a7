"""Full iGSM: random grade-school problems in English with a chosen number of operations."""

import hashlib
import random
from collections.abc import Hashable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from string import ascii_letters
from typing import Literal, NamedTuple, get_args

from .checker import check
from .dependency import Dependency, ordered
from .drawing import draw_dependency
from .problem import Problem, Verdict
from .structure import Quantity, draw_shape
from .text import check_names, mistake, question, sentence, sketch, solution, words

Level = Literal["med", "hard"]
"""How large a problem is: at most 15 or 21 operations in training."""
Layout = Literal["pq", "qp"]
"""The order of problem and question in the text."""
Split = Literal["train", "test"]
"""Whether the template of a problem is used in training or held out."""

BINS = 23
TRAIN_BINS = 16
TRIES = 4000
"""Attempts at one random number of operations before another is drawn."""
FIXED_TRIES = 500
"""Attempts at a number of operations given by the caller."""


class Size(NamedTuple):
    """The largest number of operations in training, and of edges of the structure."""

    ops: int
    edges: int


LEVELS: dict[Level, Size] = {"med": Size(15, 20), "hard": Size(21, 28)}


@dataclass(frozen=True)
class FullProblem(Problem):
    """A problem of full iGSM, as a graph and as text.

    **Arguments:**

    - `dependency`: the definitions of all parameters; names are words of two or more letters.
    - `order`: the parameters of the solution, each after its dependencies; the last is the parameter of the question.
    - `letters`: distinct letters, one for each operation of the solution, in the order of their use.
    - `layout`: "pq" (question at the end) or "qp" (question at the start).

    **Raises:** `ValueError` if the order omits or repeats a parameter, the letters do not suffice, or a name cannot be
    parsed.

    **Source:** Ye et al. (2024), arXiv 2407.20311 and 2408.16293.
    """

    dependency: Dependency
    order: tuple[Quantity, ...]
    letters: str
    layout: Layout = "pq"
    needs: Mapping[Hashable, tuple[Quantity, ...]] = field(init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        if self.layout not in get_args(Layout):
            raise ValueError(f"layout must be 'pq' or 'qp'; got {self.layout!r}")
        check_names(self.dependency.structure)
        known: set[Quantity] = set()
        for quantity in self.order:
            if quantity not in self.dependency.needs or quantity in known:
                raise ValueError(f"order must contain distinct parameters of the problem; got {quantity}")
            if not known.issuperset(self.dependency.needs[quantity]):
                raise ValueError(f"order must have each parameter after its dependencies; got {quantity} too early")
            known.add(quantity)
        if not known:
            raise ValueError("order must contain the parameter of the question; got none")
        distinct = set(self.letters)
        if len(distinct) < len(self.letters) or not distinct.issubset(ascii_letters) or len(distinct) < self.ops:
            raise ValueError(f"letters must be {self.ops} distinct letters from a-z and A-Z; got {self.letters!r}")
        object.__setattr__(self, "needs", dict(self.dependency.needs))

    @property
    def query(self) -> Quantity:
        """The parameter of the question."""
        return self.order[-1]

    @property
    def value(self) -> int:
        """The answer to the question."""
        return self.dependency.values[self.query]

    @property
    def ops(self) -> int:
        """The number of operations of the solution; each step has one less than its operands, but at least one."""
        return sum(self.dependency.ops(quantity) for quantity in self.order)

    @property
    def question_text(self) -> str:
        """The problem in English, including the question."""
        structure = self.dependency.structure
        problem = [sentence(structure, quantity, definition) for quantity, definition in self.dependency.definitions]
        asked = [question(structure, self.query)]
        return " ".join(problem + asked if self.layout == "pq" else asked + problem)

    @property
    def answer_text(self) -> str:
        """The solution in English."""
        return " ".join(self._steps)

    @cached_property
    def _steps(self) -> tuple[str, ...]:
        return solution(self.dependency, self.order, self.letters)

    @property
    def question(self) -> tuple[str, ...]:
        """The words of the problem, including the question."""
        return words(self.question_text)

    @property
    def answer(self) -> tuple[str, ...]:
        """The words of the whole solution, without mistakes."""
        return words(self.answer_text)

    def step(self, place: int) -> tuple[str, ...]:
        """The words of the step that computes `order[place]`."""
        return words(self._steps[place])

    def mistake(self, parameter: Hashable) -> tuple[str, ...]:
        """The words of a step that begins to compute `parameter` and is then deleted.

        **Raises:** `ValueError` if the problem has no such parameter.
        """
        if not isinstance(parameter, Quantity) or parameter not in self.needs:
            raise ValueError(f"parameter must be one of the problem's; got {parameter!r}")
        return words(mistake(self.dependency.structure, parameter))

    def check(self, solution: Sequence[str]) -> Verdict:
        """Check a solution, given as words or text; see `checker.check`."""
        return check(self.dependency, self.query, solution)


def draw_problem(
    generator: random.Random,
    *,
    level: Level = "med",
    ops: int | None = None,
    layout: Layout = "pq",
    split: Split | None = None,
) -> FullProblem:
    r"""Draw a random problem.

    The number of operations is the minimum of two uniform numbers, $\min(u, v)$ with $u, v \sim U\{1, \dots, 15\}$ (21
    for "hard"). If a split has no or nearly no problem with this number, another is drawn.

    **Arguments:**

    - `generator`: the source of randomness.
    - `level`: "med" (up to 15 operations and 20 sentences) or "hard" (up to 21 and 28).
    - `ops`: the number of operations, 1 to 52; it may exceed that of the level, for problems longer than in training.
    - `layout`: "pq" (question at the end) or "qp" (question at the start).
    - `split`: "train" or "test", which have no template in common, or `None` for both.

    **Raises:** `ValueError` if an argument is out of range or no problem with this number of operations was found.

    **Source:** Ye et al. (2024), arXiv 2407.20311, "light" style of their released data.

    **Example:**

    ```python
    import random
    from noiselab.tasks.igsm.full import draw_problem

    problem = draw_problem(random.Random(0), ops=5, split="train")
    assert problem.check(problem.answer).right
    retried = (*problem.mistake(problem.query), *problem.answer)
    assert problem.check(retried).retries == 1
    ```
    """
    if level not in LEVELS:
        raise ValueError(f"level must be 'med' or 'hard'; got {level!r}")
    if ops is not None and not 1 <= ops <= len(ascii_letters):
        raise ValueError(f"ops must be from 1 to {len(ascii_letters)}, the number of letters; got {ops}")
    if layout not in get_args(Layout):
        raise ValueError(f"layout must be 'pq' or 'qp'; got {layout!r}")
    if split not in (None, *get_args(Split)):
        raise ValueError(f"split must be 'train', 'test' or None; got {split!r}")
    most, edges = LEVELS[level]
    while True:
        target = min(generator.randint(1, most), generator.randint(1, most)) if ops is None else ops
        for _ in range(FIXED_TRIES if ops else TRIES):
            # The smaller of two numbers, given that it is no smaller than the target: solutions may have no room for all.
            size = ops or min(generator.randint(target, most), generator.randint(target, most))
            drawn = draw_dependency(draw_shape(size, edges, generator), size, target, generator)
            if drawn is None:
                continue
            dependency, order = drawn
            if split is None or _split_of(dependency, order) == split:
                letters = "".join(generator.sample(ascii_letters, target))
                return FullProblem(dependency, order, letters, layout)
        if ops is not None:
            raise ValueError(
                f"some problem must have this number of operations; got ops={ops}, and none in {FIXED_TRIES} draws of {split=}"
            )


def reask(problem: FullProblem, generator: random.Random) -> FullProblem:
    """Return the same problem with a question about another random parameter; the number of operations may change.

    **Arguments:**

    - `problem`: the problem; it is not modified.
    - `generator`: the source of randomness.

    **Returns:** a problem with the same sentences and a random order of solution.

    **Source:** Ye et al. (2024), arXiv 2408.16293.
    """
    dependency = problem.dependency
    quantities = dependency.structure.quantities
    for query in generator.sample(quantities, len(quantities)):
        order = _random_order(dependency, query, generator)
        ops = sum(map(dependency.ops, order))
        if ops <= len(ascii_letters):  # always true for a constant
            break
    return FullProblem(dependency, order, "".join(generator.sample(ascii_letters, ops)), problem.layout)


def _random_order(dependency: Dependency, query: Quantity, generator: random.Random) -> tuple[Quantity, ...]:
    """A random topological order of a parameter and everything it depends on."""
    waiting = ordered(dependency.needs, (query,))
    order: list[Quantity] = []
    while waiting:
        done = set(order)
        order.append(generator.choice([q for q in waiting if done.issuperset(dependency.needs[q])]))
        waiting.remove(order[-1])
    return tuple(order)


def solution_hash(problem: FullProblem) -> int:
    """Return the bin of a problem's template, 0 to 22; bins below 16 are for training, the others for testing.

    The template is the solution without names, numbers and symbols, so that problems of different splits never have the
    same solution structure.

    **Source:** Ye et al. (2024), arXiv 2407.20311.
    """
    return _bin(problem.dependency, problem.order)


def split_of(problem: FullProblem) -> Split:
    """Return the split of a problem: "train" or "test"."""
    return _split_of(problem.dependency, problem.order)


def _split_of(dependency: Dependency, order: Sequence[Quantity]) -> Split:
    return "train" if _bin(dependency, order) < TRAIN_BINS else "test"


def _bin(dependency: Dependency, order: Sequence[Quantity]) -> int:
    return int.from_bytes(hashlib.sha256(sketch(dependency, order).encode()).digest()) % BINS
