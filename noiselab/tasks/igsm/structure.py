"""The structure graph of full iGSM: layers of items, where each item has items of the next layer."""

import math
import random
from dataclasses import dataclass
from functools import cached_property
from itertools import pairwise
from typing import NamedTuple

from .names import draw_names

INSTANCE, ABSTRACT = 0, 1


class Quantity(NamedTuple):
    """A parameter of full iGSM: the number of things of one kind that each item has.

    **Arguments:**

    - `kind`: `INSTANCE`, the number of items `of` in the next layer; or `ABSTRACT`, the number of all items of category
      `of`.
    - `layer`, `item`: the owner, both counted from 0.
    - `of`: for `INSTANCE`, an item of layer `layer + 1`; for `ABSTRACT`, a layer larger than `layer`.
    """

    kind: int
    layer: int
    item: int
    of: int


@dataclass(frozen=True)
class Structure:
    """The items of each layer, and the edges to items of the next layer.

    **Arguments:**

    - `categories`: the name of each layer, from whole to part.
    - `items`: the names of the items of each layer; all names, including categories, are distinct.
    - `children`: for each item of each layer but the last, the items of the next layer that it has.

    **Raises:** `ValueError` if the lengths do not match, a child does not exist, or a name occurs twice.

    **Source:** Ye et al. (2024), arXiv 2407.20311.

    **Example:**

    ```python
    from noiselab.tasks.igsm.structure import ABSTRACT, Quantity, Structure

    zoos = Structure(("Zoo", "Animal"), (("City Zoo",), ("Owl", "Fox")), (((0, 1),),))
    assert zoos.find("City Zoo", "Animal") == Quantity(ABSTRACT, 0, 0, 1)
    assert len(zoos.quantities) == 3
    ```
    """

    categories: tuple[str, ...]
    items: tuple[tuple[str, ...], ...]
    children: tuple[tuple[tuple[int, ...], ...], ...]

    def __post_init__(self) -> None:
        widths = [len(layer) for layer in self.items]
        if len(self.categories) != len(widths) or [len(layer) for layer in self.children] != widths[:-1]:
            raise ValueError(
                "there must be a category for each layer of items, and children for each item of each layer but the last; "
                f"got {len(self.categories)} categories, {widths} items, {[len(layer) for layer in self.children]} children"
            )
        for layer, width in zip(self.children, widths[1:], strict=True):
            for below in layer:
                if len(set(below)) < len(below) or not all(0 <= child < width for child in below):
                    raise ValueError(f"children must be distinct items from 0 to {width - 1}; got {below}")
        names = [*self.categories, *(name for layer in self.items for name in layer)]
        if len(set(names)) < len(names):
            raise ValueError(
                f"names must differ; got {sorted(n for n in set(names) if names.count(n) > 1)} more than once"
            )

    @cached_property
    def instances(self) -> tuple[Quantity, ...]:
        """The instance parameters, one for each edge."""
        return tuple(
            Quantity(INSTANCE, i, j, k)
            for i, layer in enumerate(self.children)
            for j, below in enumerate(layer)
            for k in below
        )

    @cached_property
    def abstracts(self) -> tuple[Quantity, ...]:
        """The abstract parameters, one for each item and each later category that it has items of."""
        depth = [len(self.items) - 1] * len(self.items[-1])  # the last layer in which each item has descendants
        found: list[Quantity] = []
        for i in reversed(range(len(self.children))):
            depth = [max((depth[k] for k in below), default=i) for below in self.children[i]]
            found += (Quantity(ABSTRACT, i, j, k) for j, last in enumerate(depth) for k in range(i + 1, last + 1))
        return tuple(sorted(found))

    @cached_property
    def quantities(self) -> tuple[Quantity, ...]:
        """All parameters: instance parameters, then abstract ones."""
        return self.instances + self.abstracts

    def products(self, total: Quantity) -> tuple[tuple[Quantity, ...], ...]:
        r"""The terms whose sum is an abstract parameter; this definition is implicit and never stated in a problem.

        $$n_{j \to \text{category } k} = \sum_{x \text{ of } j} n_{j \to x} \cdot n_{x \to \text{category } k}$$

        For a category in the next layer, the last factor is 1. Children that have no items of the category are omitted.

        **Returns:** the factors of each term.
        """
        return self._products[total]

    @cached_property
    def _products(self) -> dict[Quantity, tuple[tuple[Quantity, ...], ...]]:
        totals = set(self.abstracts)
        found: dict[Quantity, tuple[tuple[Quantity, ...], ...]] = {}
        for total in self.abstracts:
            _, i, j, k = total
            below = self.children[i][j]
            if k == i + 1:
                found[total] = tuple((Quantity(INSTANCE, i, j, x),) for x in below)
            else:
                pairs = ((Quantity(INSTANCE, i, j, x), Quantity(ABSTRACT, i + 1, x, k)) for x in below)
                found[total] = tuple(pair for pair in pairs if pair[1] in totals)
        return found

    def name(self, quantity: Quantity) -> tuple[str, str]:
        """The names of the owner and of the thing."""
        kind, i, j, k = quantity
        return self.items[i][j], self.categories[k] if kind == ABSTRACT else self.items[i + 1][k]

    def find(self, owner: str, thing: str) -> Quantity | None:
        """The parameter with this name, or `None`."""
        return self._by_name.get((owner, thing))

    @cached_property
    def _by_name(self) -> dict[tuple[str, str], Quantity]:
        return {self.name(quantity): quantity for quantity in self.quantities}


def draw_structure(ops: int, max_edges: int, generator: random.Random) -> Structure:
    """Draw a structure for a problem of about `ops` operations; more operations give larger structures.

    **Arguments:**

    - `ops`: the number of operations, at least 1.
    - `max_edges`: the largest number of edges, at least 12.
    - `generator`: the source of randomness.

    **Returns:** 2 to 4 layers of 2 to 4 items each; every item outside the first layer has at least one parent.

    **Raises:** `ValueError` if an argument is out of range.

    **Source:** Ye et al. (2024), arXiv 2407.20311, "light" style of their released data.
    """
    if ops < 1 or max_edges < 12:
        raise ValueError(f"ops must be at least 1 and max_edges at least 12; got {ops} and {max_edges}")
    relative = (ops - 1) / (max_edges - 1)
    weights = [math.exp(-((relative - middle) ** 2)) for middle in (0.2, 0.5, 0.8)]
    depth, *ends = generator.choices((2, 3, 4), weights, k=3)
    narrow, wide = min(ends), max(ends)
    fewest = (depth - 1) * narrow
    edges = min(generator.randint(fewest, max_edges), generator.randint(fewest, max_edges))
    edges = min(edges, (depth - 1) * wide**2)
    widths = _draw_widths(depth, narrow, wide, edges, generator)
    categories, items = draw_names(widths, generator)
    return Structure(categories, items, _draw_children(widths, edges, generator))


def _draw_widths(depth: int, narrow: int, wide: int, edges: int, generator: random.Random) -> tuple[int, ...]:
    """Draw the number of items of each layer such that `edges` edges fit and every item can have a parent."""
    widths, more = [narrow] * depth, generator.random()
    while True:
        room = sum(a * b for a, b in pairwise(widths))
        if room >= edges and generator.random() >= more:
            return tuple(widths)
        spare = edges > sum(widths[1:])
        growing = [layer for layer, width in enumerate(widths) if width < wide and (spare or layer == 0)]
        if not growing:
            return tuple(widths)
        widths[generator.choice(growing)] += 1


def _draw_children(
    widths: tuple[int, ...], edges: int, generator: random.Random
) -> tuple[tuple[tuple[int, ...], ...], ...]:
    """Draw one random parent for each item, then the remaining edges uniformly from all possible ones."""
    layers = range(len(widths) - 1)
    first = {(i, generator.randrange(widths[i]), k) for i in layers for k in range(widths[i + 1])}
    pairs = ((i, j, k) for i in layers for j in range(widths[i]) for k in range(widths[i + 1]))
    others = [pair for pair in pairs if pair not in first]
    chosen = first.union(generator.sample(others, edges - len(first)))
    return tuple(
        tuple(tuple(k for k in range(widths[i + 1]) if (i, j, k) in chosen) for j in range(widths[i])) for i in layers
    )
