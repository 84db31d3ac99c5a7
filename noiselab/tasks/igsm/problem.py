"""What every level of iGSM shares: parameters that need one another, an order to find them in, a verdict."""

from abc import ABC, abstractmethod
from collections.abc import Hashable, Mapping, Sequence
from dataclasses import dataclass

Parameter = Hashable
"""Names a quantity of a problem."""


@dataclass(frozen=True)
class Verdict:
    """What a checker found in a solution.

    **Arguments:**

    - `right`: whether every step is right, and the last one answers the question.
    - `step`: the first wrong step, counted from 0 without retries; `None` if there is none.
    - `kind`: what is wrong there: "parse", "unknown" (no such parameter), "skip" (needs what is not known yet, or not
      what the problem says), "cited" (a number is not that of its symbol), "arithmetic", "repeated", "answer" (another
      number, or another parameter, at the end) or "empty"; `None` if nothing is.
    - `why`: the same in a sentence; empty if nothing is.
    - `retries`: steps that were taken back.
    - `unnecessary`: right steps that the question does not need.
    - `parameters`: those that were defined, in order, up to the first wrong one and with it.
    """

    right: bool
    step: int | None = None
    kind: str | None = None
    why: str = ""
    retries: int = 0
    unnecessary: int = 0
    parameters: tuple[Parameter, ...] = ()


class Problem(ABC):
    """A question about one parameter among many that are defined by one another.

    **Arguments:**

    - `needs`: for every parameter of the problem, those that its definition uses, all of them among the keys.
    - `order`: the parameters of the solution, each after all that it needs; the last one is asked for.
    """

    needs: Mapping[Parameter, tuple[Parameter, ...]]
    order: tuple[Parameter, ...]

    @property
    @abstractmethod
    def question(self) -> tuple[str, ...]:
        """The words of the problem, the question among them."""

    @abstractmethod
    def step(self, place: int) -> tuple[str, ...]:
        """The words of the step that finds `order[place]`."""

    @abstractmethod
    def mistake(self, parameter: Parameter) -> tuple[str, ...]:
        """The words of a step that begins to find `parameter`, and takes it back."""

    @abstractmethod
    def check(self, solution: Sequence[str]) -> Verdict:
        """Whether the words of a solution are right, to the last step."""

    @property
    def answer(self) -> tuple[str, ...]:
        """The words of the whole solution, without mistakes."""
        return tuple(word for place in range(len(self.order)) for word in self.step(place))

    def ready(self, known: Sequence[Parameter]) -> tuple[Parameter, ...]:
        """The parameters that can be found next: all they need is known, and they are not (can_next)."""
        have = set(known)
        return tuple(p for p, needed in self.needs.items() if p not in have and have.issuperset(needed))

    def not_ready(self, known: Sequence[Parameter]) -> tuple[Parameter, ...]:
        """Those that can not be found next, and are not known: the mistakes of "retry" data."""
        have = set(known)
        return tuple(p for p, needed in self.needs.items() if p not in have and not have.issuperset(needed))
