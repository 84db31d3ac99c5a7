"""The parameters that the sentences of full iGSM which the question does not need may refer to."""

from collections.abc import Iterable, Sequence

from .structure import ABSTRACT, INSTANCE, Quantity, Structure


class Quotable:
    """The parameters of the solution, those of earlier unnecessary sentences, and totals of what has been stated.

    A total is added when all parts are there, except that in each layer the totals of later items and categories are left
    out after the first one that lacks a part, until the next sentence.

    **Arguments:**

    - `structure`: the structure graph.
    - `chosen`: the parameters of the solution.

    **Source:** Ye et al. (2024), arXiv 2407.20311; which totals are left out is that of their released code.
    """

    def __init__(self, structure: Structure, chosen: Sequence[Quantity]) -> None:
        self.structure = structure
        self.found = list(chosen)
        self._stated = {q for q in chosen if q.kind == INSTANCE}
        self._open = set(structure.abstracts).difference(chosen)
        for total in structure.abstracts:
            if total.of == total.layer + 1:
                self._add_complete(total.layer, total.item)
        for layer in range(len(structure.children)):
            self._add_deeper(layer, range(layer + 2, len(structure.items)))

    def state(self, quantity: Quantity) -> None:
        """Add an instance parameter after its sentence, and the totals that it completes."""
        _, layer, item, _ = quantity
        self.found.append(quantity)
        self._stated.add(quantity)
        if not self._add_complete(layer, item):
            return
        for category in range(layer + 2, len(self.structure.items)):
            if self._lacks_part(layer, item, category):
                break
            self._add(Quantity(ABSTRACT, layer, item, category))
        for above in reversed(range(layer)):
            self._add_deeper(above, range(layer + 1, len(self.structure.items)))

    def _add(self, total: Quantity) -> None:
        if total in self._open:
            self._open.remove(total)
            self.found.append(total)

    def _add_complete(self, layer: int, item: int) -> bool:
        """Add the total of an item's children if all of them are stated, and return whether they are."""
        below = self.structure.children[layer][item]
        complete = all(Quantity(INSTANCE, layer, item, child) in self._stated for child in below)
        if complete:
            self._add(Quantity(ABSTRACT, layer, item, layer + 1))
        return complete

    def _add_deeper(self, layer: int, categories: Iterable[int]) -> None:
        """Add totals of later categories, up to the first that lacks a part."""
        for category in categories:
            for item in range(len(self.structure.items[layer])):
                if Quantity(ABSTRACT, layer, item, layer + 1) in self._open:
                    continue
                if self._lacks_part(layer, item, category):
                    return
                self._add(Quantity(ABSTRACT, layer, item, category))

    def _lacks_part(self, layer: int, item: int, category: int) -> bool:
        below = self.structure.children[layer][item]
        return any(Quantity(ABSTRACT, layer + 1, child, category) in self._open for child in below)
