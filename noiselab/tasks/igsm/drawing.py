"""Drawing a dependency graph of full iGSM: first the parameters that the question needs, then all others."""

import math
import random
from collections.abc import Sequence

from .dependency import Dependency, implicit_needs, ordered
from .formula import MODULUS, MOST_OPERANDS, Definition
from .structure import ABSTRACT, Quantity, Structure

ALONE = 0.5
"""The probability that an unnecessary parameter depends only on unnecessary parameters."""

SORTS = 100
"""Attempts to order the same parameters; larger sets need up to three, and few need more than 100."""


def draw_dependency(
    structure: Structure, ops: int, generator: random.Random
) -> tuple[Dependency, tuple[Quantity, ...]] | None:
    """Draw definitions for a structure, and an order of solution for a question about the last parameter.

    **Arguments:**

    - `structure`: the structure graph, which determines the parameters.
    - `ops`: the number of operations of the solution, at least 1.
    - `generator`: the source of randomness.

    **Returns:** the dependency graph and an order in which each parameter but the last is needed by a later one, or
    `None` if the draw failed, which is frequent if the structure is too small.

    **Raises:** `ValueError` if `ops` is less than 1.

    **Source:** Ye et al. (2024), arXiv 2407.20311, "light" style of their released data.
    """
    if ops < 1:
        raise ValueError(f"ops must be at least 1; got {ops}")
    abstract_ops = max(generator.randint(1, ops), generator.randint(1, ops))
    chosen = choose_parameters(structure, abstract_ops, generator.randint(abstract_ops, ops), generator)
    tries = (reasonable_sort(structure, chosen, generator) for _ in range(SORTS))
    sorted_ = next((found for found in tries if found is not None), None)
    if sorted_ is None:
        return None
    order, edges = sorted_
    needed = design(structure, order, edges, ops, generator)
    if needed is None:
        return None
    definitions = [*needed.items(), *design_unused(structure, order, generator).items()]
    generator.shuffle(definitions)
    return Dependency(structure, tuple(definitions)), order


def least_ops(structure: Structure, quantity: Quantity) -> int:
    """The smallest number of operations that a parameter takes."""
    return max(1, len(implicit_needs(structure, quantity)) - 1)


def choose_parameters(
    structure: Structure, abstract_ops: int, ops: int, generator: random.Random
) -> tuple[Quantity, ...]:
    """Choose the parameters of a solution: first abstract ones with their dependencies, then others.

    **Arguments:**

    - `structure`: the structure graph.
    - `abstract_ops`: the largest number of operations for abstract parameters and their dependencies.
    - `ops`: the total number of operations; fewer are used if the structure has too few parameters.
    - `generator`: the source of randomness.

    **Returns:** a set of parameters that is closed under the dependencies of abstract parameters.
    """
    needs = {q: implicit_needs(structure, q) for q in structure.quantities}
    chosen: dict[Quantity, None] = {}
    spent = 0
    # The remaining budget only shrinks, so each candidate is tried once.
    for total in generator.sample(structure.abstracts, len(structure.abstracts)):
        more = [q for q in ordered(needs, (total,)) if q not in chosen]
        cost = sum(least_ops(structure, q) for q in more)
        if spent + cost <= abstract_ops:
            chosen.update(dict.fromkeys(more))
            spent += cost
    rest = [q for q in structure.instances if q not in chosen]
    return (*chosen, *generator.sample(rest, min(ops - spent, len(rest))))


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
    often = generator.random()
    to_abstract, to_new = abs(generator.gauss(0, 1)), abs(generator.gauss(0, 1))
    remaining = dict.fromkeys(chosen)
    users = dict.fromkeys(chosen, 0)
    for user in chosen:
        for needed in implicit_needs(structure, user):
            users[needed] += 1
    requested: set[Quantity] = set()
    edges: dict[Quantity, Quantity] = {}
    order = [generator.choice([q for q in remaining if not users[q]])]
    while True:
        current = order[-1]
        del remaining[current]
        for needed in implicit_needs(structure, current):
            users[needed] -= 1
            requested.add(needed)
        if not remaining:
            return tuple(reversed(order)), edges
        ready = [q for q in remaining if q in requested and not users[q]]
        if current.kind != ABSTRACT and (not ready or generator.random() < often):
            # If nothing is ready, only a parameter without remaining users can come next.
            pool = [q for q in remaining if ready or not users[q]]
            weights = [math.exp(to_abstract * (q.kind == ABSTRACT) + to_new * (q not in requested)) for q in pool]
            edges[current] = generator.choices(pool, weights)[0]
            requested.add(edges[current])
            ready = [q for q in remaining if q in requested and not users[q]]
        if not ready:
            return None
        order.append(generator.choice(ready))


def design(
    structure: Structure,
    order: Sequence[Quantity],
    edges: dict[Quantity, Quantity],
    ops: int,
    generator: random.Random,
) -> dict[Quantity, Definition] | None:
    """Draw definitions of the instance parameters of a solution with a given total number of operations.

    **Arguments:**

    - `structure`: the structure graph.
    - `order`: the parameters of the solution; each is defined by earlier ones.
    - `edges`: for some instance parameters, an earlier parameter that the definition must use.
    - `ops`: the number of operations of the solution.
    - `generator`: the source of randomness.

    **Returns:** the definitions, or `None` if this number of operations is impossible.
    """
    place = {q: i for i, q in enumerate(order) if q.kind != ABSTRACT}
    extra = dict.fromkeys(place, 0)
    missing = ops - sum(least_ops(structure, q) for q in order)
    room = [q for q, before in place.items() for _ in range(min(MOST_OPERANDS, before + 1) - 2)]
    if not 0 <= missing <= len(room):
        return None
    for quantity in generator.sample(room, missing):
        extra[quantity] += 1
    found = {}
    for quantity, before in place.items():
        count = extra[quantity] + 2 if extra[quantity] else min(generator.randint(1, 2), before + 1)
        fixed = edges.get(quantity)
        found[quantity] = _draw_definition(count, order[:before], fixed, generator)
    return found


def design_unused(
    structure: Structure, order: Sequence[Quantity], generator: random.Random
) -> dict[Quantity, Definition]:
    """Draw definitions of all other instance parameters: sentences that the question does not need.

    Half of them depend on no parameter that the question needs. The others may depend on any parameter already defined.

    **Arguments:**

    - `structure`: the structure graph.
    - `order`: the parameters of the solution.
    - `generator`: the source of randomness.

    **Returns:** the definitions.
    """
    chosen: list[Quantity] = list(order)
    alone: list[Quantity] = []
    unused = [q for q in structure.instances if q not in set(order)]
    found = {}
    for quantity in generator.sample(unused, len(unused)):
        apart = generator.random() < ALONE
        pool = alone if apart else chosen
        count = 1
        while count < min(MOST_OPERANDS, len(pool) + 1) and generator.random() < 0.5:
            count += 1
        found[quantity] = _draw_definition(count, pool, None, generator)
        chosen.append(quantity)
        if apart:
            alone.append(quantity)
    return found


def _draw_definition(
    count: int, pool: Sequence[Quantity], fixed: Quantity | None, generator: random.Random
) -> Definition:
    """Draw a definition with `count` operands from the pool, including `fixed`; sometimes, or if the pool is too small,
    one is a number.
    """
    number = count > len(pool) or ((fixed is None or count > 1) and generator.random() < 0.5)
    free = [q for q in pool if q != fixed]
    operands = generator.sample(free, count - number - (fixed is not None))
    if fixed is not None:
        operands.insert(generator.randint(0, len(operands)), fixed)
    factor = number and bool(operands) and generator.random() < 0.5
    difference = len(operands) == 2 and generator.random() < 0.5
    value = generator.randint(int(factor), MODULUS - 1) if number else None
    return Definition(value, tuple(operands), factor, difference)
