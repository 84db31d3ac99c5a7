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
      `of`, which is 0 if the item has none.
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
    - `items`: the names of the items of each layer; those of a layer are distinct, and a name that occurs twice must not
      give two parameters the same name.
    - `children`: for each item of each layer but the last, the items of the next layer that it has.

    **Raises:** `ValueError` if the lengths do not match, a child does not exist, or names are not distinct.

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
        if len(set(names)) == len(names):
            return
        alike = any(len(set(layer)) < len(layer) for layer in (self.categories, *self.items))
        if alike or len(self._by_name) < len(self.quantities):
            twice = sorted(name for name in set(names) if names.count(name) > 1)
            raise ValueError(f"names must differ in each layer, and for each parameter; got {twice} more than once")

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
        """The abstract parameters, one for each item and each later category, also where the item has none of them."""
        depth = len(self.items)
        return tuple(
            Quantity(ABSTRACT, i, j, k)
            for i, layer in enumerate(self.children)
            for j in range(len(layer))
            for k in range(i + 1, depth)
        )

    @cached_property
    def quantities(self) -> tuple[Quantity, ...]:
        """All parameters: instance parameters, then abstract ones."""
        return self.instances + self.abstracts

    def products(self, total: Quantity) -> tuple[tuple[Quantity, ...], ...]:
        r"""The terms whose sum is an abstract parameter; this definition is implicit and never stated in a problem.

        $$n_{j \to \text{category } k} = \sum_{x \text{ of } j} n_{j \to x} \cdot n_{x \to \text{category } k}$$

        For a category in the next layer, the last factor is 1. The total of an item without children has no terms.

        **Returns:** the factors of each term.
        """
        _, i, j, k = total
        terms = ((Quantity(INSTANCE, i, j, x), Quantity(ABSTRACT, i + 1, x, k)) for x in self.children[i][j])
        return tuple(term[:1] if k == i + 1 else term for term in terms)

    @cached_property
    def parts(self) -> dict[Quantity, tuple[Quantity, ...]]:
        """The parameters that each parameter depends on by its meaning: the factors of a total, none of the others."""
        found: dict[Quantity, tuple[Quantity, ...]] = dict.fromkeys(self.instances, ())
        for total in self.abstracts:
            found[total] = tuple(factor for term in self.products(total) for factor in term)
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


class Shape(NamedTuple):
    """What structures are drawn from: all that is fixed before the edges.

    **Arguments:**

    - `depth`: the number of layers.
    - `narrow`, `wide`: the fewest and most items of a layer.
    - `edges`: the number of edges.
    - `growth`: the probability that another item is added to a random layer, in [0, 1).
    """

    depth: int
    narrow: int
    wide: int
    edges: int
    growth: float


def draw_shape(ops: int, max_edges: int, generator: random.Random) -> Shape:
    """Draw the shape of a structure for a problem of about `ops` operations; more operations give larger structures.

    **Arguments:**

    - `ops`: the number of operations, at least 1.
    - `max_edges`: the largest number of edges, at least 12.
    - `generator`: the source of randomness.

    **Returns:** 2 to 4 layers of 2 to 4 items each, and at most `max_edges` edges.

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
    return Shape(depth, narrow, wide, min(edges, (depth - 1) * wide**2), generator.random())


def draw_structure(shape: Shape, generator: random.Random) -> Structure:
    """Draw a structure of a shape, with names; every item outside the first layer has at least one parent.

    **Arguments:**

    - `shape`: the limits of the structure.
    - `generator`: the source of randomness.

    **Returns:** a structure; an item may have no children.

    **Source:** Ye et al. (2024), arXiv 2407.20311, "light" style of their released data.
    """
    widths = _draw_widths(shape, generator)
    categories, items = draw_names(widths, generator)
    return Structure(categories, items, _draw_children(widths, shape.edges, generator))


def _draw_widths(shape: Shape, generator: random.Random) -> tuple[int, ...]:
    """Draw the number of items of each layer such that the edges fit and every item can have a parent."""
    widths = [shape.narrow] * shape.depth
    while True:
        short = sum(a * b for a, b in pairwise(widths)) < shape.edges
        # One parent for each item uses all edges already: no layer grows, not even the first.
        if not short and (sum(widths[1:]) == shape.edges or generator.random() >= shape.growth):
            return tuple(widths)
        growing = [layer for layer, width in enumerate(widths) if width < shape.wide]
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
