"""The dependency graph of full iGSM: what each parameter is defined by, and its value."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from functools import cached_property

from .formula import Definition, Formula, chain, evaluate
from .structure import ABSTRACT, Quantity, Structure


@dataclass(frozen=True)
class Dependency:
    """Parameters that are defined by one another: those of edges by sentences, the totals by what they mean.

    **Arguments:**

    - `structure`: which parameters there are.
    - `definitions`: of each instance parameter, in the order of the sentences of the problem.

    **Raises:** `ValueError` if not just the instance parameters are defined, each once, by others of the structure, or if
    one needs itself in the end.

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
                f"each instance parameter must be defined once, and nothing else; {len(self.structure.instances)} there "
                f"are, got definitions of {len(defined)}: {defined}"
            )
        for quantity, definition in self.definitions:
            if not known.issuperset(definition.operands):
                raise ValueError(f"operands must be parameters of the structure; got {definition} for {quantity}")
        self.values  # noqa: B018 - finds out whether there is a cycle

    def formula(self, quantity: Quantity) -> Formula:
        """What a parameter equals."""
        if quantity.kind == ABSTRACT:
            return chain("+", tuple(chain("*", product) for product in self.structure.products(quantity)))
        return self._definition[quantity].formula

    @cached_property
    def _definition(self) -> dict[Quantity, Definition]:
        return dict(self.definitions)

    @cached_property
    def needs(self) -> dict[Quantity, tuple[Quantity, ...]]:
        """For every parameter, those that its formula uses; numbers are none."""
        found = {q: implicit_needs(self.structure, q) for q in self.structure.abstracts}
        return {q: d.operands for q, d in self.definitions} | found

    def has_number(self, quantity: Quantity) -> bool:
        """Whether a number of the problem is among the operands of a parameter."""
        return quantity.kind != ABSTRACT and self._definition[quantity].number is not None

    def ops(self, quantity: Quantity) -> int:
        """The operations of a step: one less than its operands, but at least one."""
        return max(1, len(self.needs[quantity]) + self.has_number(quantity) - 1)

    @cached_property
    def values(self) -> dict[Quantity, int]:
        """The value of every parameter, modulo 23."""
        found: dict[Quantity, int] = {}
        for quantity in ordered(self.needs, self.needs):
            found[quantity] = evaluate(self.formula(quantity), found)
        return found

    def necessary(self, query: Quantity) -> set[Quantity]:
        """All that one has to know for a parameter, and itself."""
        return set(ordered(self.needs, (query,)))


def implicit_needs(structure: Structure, quantity: Quantity) -> tuple[Quantity, ...]:
    """What a parameter needs by its meaning alone: nothing, unless it is abstract."""
    if quantity.kind != ABSTRACT:
        return ()
    return tuple(factor for product in structure.products(quantity) for factor in product)


def ordered(needs: Mapping[Quantity, tuple[Quantity, ...]], wanted: Iterable[Quantity]) -> list[Quantity]:
    """The wanted parameters and all that they need, each after what it needs.

    **Raises:** `ValueError` if one of them needs itself in the end.
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
                raise ValueError(f"no parameter may need itself in the end; got {quantity}, which {cycle[0]} needs")
            stack += missing
    return list(done)
