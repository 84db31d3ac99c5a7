"""The interface of all levels of iGSM: parameters with dependencies, an order of solution, and the checker's verdict."""

from abc import ABC, abstractmethod
from collections.abc import Hashable, Mapping, Sequence
from dataclasses import dataclass

Parameter = Hashable
"""The identifier of a quantity in a problem."""


@dataclass(frozen=True)
class Verdict:
    """The result of checking a solution.

    **Arguments:**

    - `right`: whether every step is correct and the last one answers the question.
    - `step`: the index of the first wrong step, from 0, without deleted steps; `None` if there is none.
    - `kind`: the kind of error: "parse", "unknown" (no such parameter), "skip" (uses a parameter that is not known yet,
      or not the operands that the problem states), "cited" (a wrong value for a symbol), "arithmetic", "repeated",
      "answer" (a wrong number or parameter at the end) or "empty"; `None` if there is no error.
    - `why`: an explanation of the error; empty if there is none.
    - `retries`: the number of deleted steps.
    - `unnecessary`: the number of correct steps that the question does not need.
    - `parameters`: the defined parameters, in order, up to and including that of the first wrong step.
    """

    right: bool
    step: int | None = None
    kind: str | None = None
    why: str = ""
    retries: int = 0
    unnecessary: int = 0
    parameters: tuple[Parameter, ...] = ()


class Problem(ABC):
    """A question about one of many parameters that are defined in terms of each other.

    **Arguments:**

    - `needs`: for every parameter of the problem, the parameters in its definition; all of them must be keys too.
    - `order`: the parameters of the solution, each after its dependencies; the last is the parameter of the question.
    """

    needs: Mapping[Parameter, tuple[Parameter, ...]]
    order: tuple[Parameter, ...]

    @property
    @abstractmethod
    def question(self) -> tuple[str, ...]:
        """The words of the problem, including the question."""

    @abstractmethod
    def step(self, place: int) -> tuple[str, ...]:
        """The words of the step that computes `order[place]`."""

    @abstractmethod
    def mistake(self, parameter: Parameter) -> tuple[str, ...]:
        """The words of a step that begins to compute `parameter` and is then deleted."""

    @abstractmethod
    def check(self, solution: Sequence[str]) -> Verdict:
        """Check the words of a solution step by step."""

    @property
    def answer(self) -> tuple[str, ...]:
        """The words of the whole solution, without mistakes."""
        return tuple(word for place in range(len(self.order)) for word in self.step(place))

    def ready(self, known: Sequence[Parameter]) -> tuple[Parameter, ...]:
        """The unknown parameters whose dependencies are all known (can_next)."""
        have = set(known)
        return tuple(p for p, needed in self.needs.items() if p not in have and have.issuperset(needed))

    def not_ready(self, known: Sequence[Parameter]) -> tuple[Parameter, ...]:
        """The unknown parameters that cannot be computed next: the pool of mistakes of "retry" data."""
        have = set(known)
        return tuple(p for p, needed in self.needs.items() if p not in have and not have.issuperset(needed))
