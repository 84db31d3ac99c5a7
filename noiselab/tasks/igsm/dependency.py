"""The dependency graph of full iGSM: the definition and value of each parameter."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from functools import cached_property

from .formula import Definition, Formula, chain, evaluate
from .structure import ABSTRACT, Quantity, Structure


@dataclass(frozen=True)
class Dependency:
    """The definitions of all parameters: instance parameters are defined by sentences, abstract ones are totals.

    The total of things of which an item has none is 0 and depends on nothing.

    **Arguments:**

    - `structure`: the structure graph, which determines the parameters.
    - `definitions`: the definition of each instance parameter, in the order of the sentences of the problem.

    **Raises:** `ValueError` unless exactly the instance parameters are defined, each once, by parameters of the
    structure and without cycles.

    **Source:** Ye et al. (2024), arXiv 2407.20311.

    **Example:**

    ```python
    from noiselab.tasks.igsm.dependency import Dependency
    from noiselab.tasks.igsm.formula import Definition
    from noiselab.tasks.igsm.structure import Structure

    zoos = Structure(("Zoo", "Animal"), (("City Zoo",), ("Owl", "Fox")), (((0, 1),),))
    owls, foxes, animals = zoos.quantities
    graph = Dependency(zoos, ((foxes, Definition(2, (owls,), factor=True)), (owls, Definition(5))))
    assert graph.values[animals] == 15 and graph.needs[animals] == (owls, foxes)
    ```
    """

    structure: Structure
    definitions: tuple[tuple[Quantity, Definition], ...]

    def __post_init__(self) -> None:
        defined, known = [quantity for quantity, _ in self.definitions], set(self.structure.quantities)
        if sorted(defined) != sorted(self.structure.instances):
            raise ValueError(
                f"exactly the instance parameters must be defined, each once; there are {len(self.structure.instances)}, "
                f"got definitions of {len(defined)}: {defined}"
            )
        for quantity, definition in self.definitions:
            if not known.issuperset(definition.operands):
                raise ValueError(f"operands must be parameters of the structure; got {definition} for {quantity}")
        self.values  # noqa: B018 - finds out whether there is a cycle

    def demand(self, quantity: Quantity) -> None:
        """Check that the problem has a parameter.

        **Raises:** `ValueError` if it does not.
        """
        if quantity not in self.needs:
            raise ValueError(f"parameter must be one of the problem's {len(self.needs)}; got {quantity!r}")

    def formula(self, quantity: Quantity) -> Formula:
        """The formula that a parameter equals.

        **Raises:** `ValueError` if the problem has no such parameter, as do the other methods.
        """
        self.demand(quantity)
        if quantity.kind == ABSTRACT:
            terms = tuple(chain("*", product) for product in self.structure.products(quantity))
            return chain("+", terms) if terms else 0
        return self._definition[quantity].formula

    @cached_property
    def _definition(self) -> dict[Quantity, Definition]:
        return dict(self.definitions)

    @cached_property
    def needs(self) -> dict[Quantity, tuple[Quantity, ...]]:
        """For every parameter, the parameters in its formula (numbers excluded)."""
        parts = self.structure.parts
        return {q: d.operands for q, d in self.definitions} | {q: parts[q] for q in self.structure.abstracts}

    def has_number(self, quantity: Quantity) -> bool:
        """Whether a number is among the operands of a parameter: one of the problem, or the 0 of a total of nothing."""
        self.demand(quantity)
        return not self.needs[quantity] or (quantity.kind != ABSTRACT and self._definition[quantity].number is not None)

    def ops(self, quantity: Quantity) -> int:
        """The number of operations of a step: one less than its operands, but at least one."""
        numbers = int(self.has_number(quantity))
        return max(1, numbers + len(self.needs[quantity]) - 1)

    @cached_property
    def values(self) -> dict[Quantity, int]:
        """The value of every parameter, modulo 23."""
        found: dict[Quantity, int] = {}
        for quantity in ordered(self.needs, self.needs):
            found[quantity] = evaluate(self.formula(quantity), found)
        return found

    def necessary(self, query: Quantity) -> set[Quantity]:
        """A parameter and everything it depends on, directly or indirectly."""
        self.demand(query)
        return set(ordered(self.needs, (query,)))


def ordered(needs: Mapping[Quantity, tuple[Quantity, ...]], wanted: Iterable[Quantity]) -> list[Quantity]:
    """The wanted parameters and all their dependencies, in topological order.

    **Raises:** `ValueError` if the dependencies contain a cycle.
    """
    done: dict[Quantity, None] = {}
    for goal in wanted:
        open_: dict[Quantity, None] = {}
        stack = [goal]
        while stack:
            quantity = stack[-1]
            missing = [other for other in needs[quantity] if other not in done]
            if quantity in done or not missing:
                done[quantity] = None
                open_.pop(quantity, None)
                stack.pop()
                continue
            open_[quantity] = None
            if cycle := [other for other in missing if other in open_]:
                raise ValueError(f"dependencies must not contain a cycle; got {quantity}, which {cycle[0]} depends on")
            stack += missing
    return list(done)
