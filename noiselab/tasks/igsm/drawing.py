"""Drawing a dependency graph of full iGSM: first the parameters that the question needs, then all others."""

import math
import random
from collections.abc import Sequence
from typing import NamedTuple

from .dependency import Dependency
from .formula import MODULUS, MOST_OPERANDS, Definition
from .quotable import Quotable
from .structure import ABSTRACT, Quantity, Shape, Structure, draw_structure

ALONE = 0.5
"""The probability that an unnecessary parameter depends only on unnecessary parameters."""

SORTS = 1000
"""Structures that are drawn until the chosen parameters of one can be ordered; nearly always a few are enough."""


class Chosen(NamedTuple):
    """The parameters of a solution before they are ordered.

    **Arguments:**

    - `quantities`: the parameters, closed under the dependencies of abstract ones.
    - `ops`: the fewest operations that compute them.
    """

    quantities: tuple[Quantity, ...]
    ops: int


def draw_dependency(
    shape: Shape, most: int, ops: int, generator: random.Random
) -> tuple[Dependency, tuple[Quantity, ...]] | None:
    """Draw a structure with definitions, and an order of solution for a question about the last parameter.

    **Arguments:**

    - `shape`: the shape of the structure.
    - `most`: the largest number of operations that the solution may have; with room for more, it has exactly these.
    - `ops`: the number of operations that is wanted, from 1 to `most`.
    - `generator`: the source of randomness.

    **Returns:** the dependency graph and an order in which each parameter but the last is needed by a later one, or
    `None` if the solution that was drawn has another number of operations.

    **Raises:** `ValueError` if `ops` is out of range.

    **Source:** Ye et al. (2024), arXiv 2407.20311, "light" style of their released data.
    """
    if not 1 <= ops <= most:
        raise ValueError(f"ops must be from 1 to most={most}; got {ops}")
    abstract_ops = max(generator.randint(1, most), generator.randint(1, most))
    chosen_ops = generator.randint(abstract_ops, most)
    for _ in range(SORTS):
        structure = draw_structure(shape, generator)
        chosen = choose_parameters(structure, abstract_ops, chosen_ops, generator)
        if sorted_ := reasonable_sort(structure, chosen.quantities, generator):
            break
    else:
        return None
    order, edges = sorted_
    needed = design(order, edges, chosen.ops, most, ops, generator)
    if needed is None:
        return None
    unused = design_unused(structure, chosen.quantities, generator)
    definitions = [*needed.items(), *unused.items()]
    generator.shuffle(definitions)
    return Dependency(structure, tuple(definitions)), order


def choose_parameters(structure: Structure, abstract_ops: int, ops: int, generator: random.Random) -> Chosen:
    """Choose the parameters of a solution: first abstract ones with their dependencies, then others.

    Each abstract parameter is found in a round over the differences of depth between an item and what is counted, from
    the smallest: one of each difference is drawn, until one needs more operations than are left. The last one that
    needs no more is chosen. The rounds end when the first one drawn already needs more.

    **Arguments:**

    - `structure`: the structure graph.
    - `abstract_ops`: the largest number of operations for abstract parameters and their dependencies.
    - `ops`: the total number of operations; fewer are used if the structure has too few parameters.
    - `generator`: the source of randomness.

    **Returns:** the parameters, each abstract one before those that it counts.

    **Source:** Ye et al. (2024), arXiv 2407.20311; the rounds are those of their released code.
    """
    # A total of nothing takes one operation, but is not counted here.
    ops_of = {q: max(1, len(parts) - 1) for q, parts in structure.parts.items()}
    counted = [q for q, parts in structure.parts.items() if q.kind != ABSTRACT or parts]
    left = budget = min(abstract_ops, sum(ops_of[q] for q in counted))
    chosen: dict[Quantity, None] = {}
    low, high = 1, len(structure.children)
    while left > 0:
        found: dict[Quantity, None] = {}
        for depth in range(1, len(structure.children) + 1):
            pool = [q for q in structure.abstracts if q.of - q.layer == depth and q not in chosen]
            if not pool:
                low, high = (low + 1, high) if depth == low else (low, high - (depth == high))
                continue
            more = dict.fromkeys(q for q in _with_parts(structure, generator.choice(pool)) if q not in chosen)
            if sum(ops_of[q] for q in more) > left:
                break
            found = more
            if depth == high:
                break
        else:  # nothing is left of the greatest difference: the next round ends before it
            continue
        if not found:
            break
        chosen |= found
        left -= sum(ops_of[q] for q in found)
    others = [q for q in structure.instances if q not in chosen]
    last = generator.sample(others, min(ops - budget + left, len(others)))
    return Chosen((*chosen, *last), budget - left + len(last))


def _with_parts(structure: Structure, total: Quantity) -> list[Quantity]:
    """An abstract parameter and all that it counts, each total before its parts, and of each term the total first."""
    found: list[Quantity] = []
    stack = [total]
    while stack:
        found.append(stack.pop())
        parts = structure.parts[found[-1]]
        # In pairs of an edge and the total below it the total comes first, with its own parts.
        pairs = found[-1].of > found[-1].layer + 1
        stack += reversed([parts[i ^ pairs] for i in range(len(parts))])
    return found


def reasonable_sort(
    structure: Structure, chosen: Sequence[Quantity], generator: random.Random
) -> tuple[tuple[Quantity, ...], dict[Quantity, Quantity]] | None:
    """Order the chosen parameters and add dependencies so that all of them are needed.

    The order is built from its end. Each earlier parameter is needed by a later one: by the meaning of an abstract
    parameter, or by a dependency added to an instance parameter, at random or when the order could not continue
    otherwise.

    **Arguments:**

    - `structure`: the structure graph.
    - `chosen`: at least one parameter, closed under the dependencies of abstract parameters.
    - `generator`: the source of randomness.

    **Returns:** the order, and for some of its instance parameters a required dependency; or `None` at a dead end.
    """
    often, preference = generator.random(), abs(generator.gauss(0, 1))
    remaining = dict.fromkeys(chosen)
    users = dict.fromkeys(chosen, 0)
    for user in chosen:
        for needed in structure.parts[user]:
            users[needed] += 1
    requested: set[Quantity] = set()
    edges: dict[Quantity, Quantity] = {}
    order = [generator.choice([q for q in remaining if not users[q]])]
    while True:
        current = order[-1]
        del remaining[current]
        for needed in structure.parts[current]:
            users[needed] -= 1
            requested.add(needed)
        if not remaining:
            return tuple(reversed(order)), edges
        ready = [q for q in remaining if q in requested and not users[q]]
        if current.kind != ABSTRACT and (not ready or generator.random() < often):
            # If nothing is ready, only a parameter without remaining users can come next.
            pool = [q for q in remaining if ready or not users[q]]
            weights = [math.exp(preference * ((q.kind == ABSTRACT) + (q not in requested))) for q in pool]
            edges[current] = generator.choices(pool, weights)[0]
            requested.add(edges[current])
            ready = [q for q in remaining if q in requested and not users[q]]
        if not ready:
            return None
        order.append(generator.choice(ready))


def design(
    order: Sequence[Quantity],
    edges: dict[Quantity, Quantity],
    fewest: int,
    most: int,
    ops: int,
    generator: random.Random,
) -> dict[Quantity, Definition] | None:
    """Draw definitions of the instance parameters of a solution, with the number of operations that there is room for.

    **Arguments:**

    - `order`: the parameters of the solution; each is defined by earlier ones.
    - `edges`: for some instance parameters, an earlier parameter that the definition must use.
    - `fewest`: the number of operations without further operands.
    - `most`: the largest number of operations.
    - `ops`: the number of operations that is wanted.
    - `generator`: the source of randomness.

    **Returns:** the definitions, or `None` if the solution would have another number of operations.
    """
    before = {q: order[:i] for i, q in enumerate(order) if q.kind != ABSTRACT}
    room = {q: max(min(MOST_OPERANDS, len(known) + 1) - 2, 0) for q, known in before.items()}
    missing = min(most - fewest, sum(room.values()))
    if fewest + missing != ops:
        return None
    extra = dict.fromkeys(before, 0)
    for _ in range(missing):
        extra[generator.choice([q for q in before if extra[q] < room[q]])] += 1
    found = {}
    for quantity, known in before.items():
        count = extra[quantity] + 2 if extra[quantity] else min(generator.randint(1, 2), len(known) + 1)
        found[quantity] = _draw_necessary(count, known, edges.get(quantity), generator)
    return found


def _draw_necessary(
    count: int, known: Sequence[Quantity], fixed: Quantity | None, generator: random.Random
) -> Definition:
    """Draw a definition with `count` operands: `fixed` comes first, and the others may be a number."""
    first = [] if fixed is None else [fixed]
    others = [q for q in known if q != fixed]
    count -= len(first)
    if count > len(others):
        return _draw_definition(True, [*first, *others], generator)
    number = count > 0 and generator.random() < 0.5
    # A number that is not chosen at once may still be drawn as one of the operands.
    drawn = generator.sample(others, count - 1) if number else generator.sample([None, *others], count)
    operands = [*first, *(q for q in drawn if q is not None)]
    return _draw_definition(number or None in drawn, operands, generator)


def design_unused(
    structure: Structure, chosen: Sequence[Quantity], generator: random.Random
) -> dict[Quantity, Definition]:
    """Draw definitions of all other instance parameters: sentences that the question does not need.

    Half of them depend on no parameter that the question needs. The others may depend on any parameter already defined.

    **Arguments:**

    - `structure`: the structure graph.
    - `chosen`: the parameters of the solution.
    - `generator`: the source of randomness.

    **Returns:** the definitions.
    """
    quotable = Quotable(structure, chosen)
    alone: list[Quantity] = []
    unused = [q for q in structure.instances if q not in set(chosen)]
    found = {}
    for quantity in generator.sample(unused, len(unused)):
        apart = generator.random() < ALONE
        pool = alone if apart else quotable.found
        count = 1
        while count < min(MOST_OPERANDS, len(pool) + 1) and generator.random() < 0.5:
            count += 1
        if count > len(pool):
            found[quantity] = _draw_definition(True, pool, generator)
        else:
            number = generator.random() < 0.5
            found[quantity] = _draw_definition(number, generator.sample(pool, count - number), generator)
        quotable.state(quantity)
        if apart:
            alone.append(quantity)
    return found


def _draw_definition(number: bool, operands: Sequence[Quantity], generator: random.Random) -> Definition:
    """Draw the value of the number, whether it multiplies, and whether two operands are subtracted."""
    factor = number and bool(operands) and generator.random() < 0.5
    difference = len(operands) == 2 and generator.random() < 0.5
    value = generator.randint(int(factor), MODULUS - 1) if number else None
    return Definition(value, tuple(operands), factor, difference)
