"""Laws of the graphs of full iGSM: structures, totals, definitions, and what may not be."""

import math
import random
from itertools import pairwise, product

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from noiselab.tasks.igsm.checker import check
from noiselab.tasks.igsm.dependency import Dependency
from noiselab.tasks.igsm.drawing import draw_dependency, reasonable_sort
from noiselab.tasks.igsm.formula import Definition
from noiselab.tasks.igsm.full import LEVELS, draw_problem
from noiselab.tasks.igsm.names import CHAINS, draw_names, sublist
from noiselab.tasks.igsm.structure import (
    ABSTRACT,
    INSTANCE,
    Quantity,
    Shape,
    Structure,
    draw_shape,
    draw_structure,
)
from noiselab.tasks.igsm.text import sentence, words

SEEDS = st.integers(0, 2**32)
ZOOS = Structure(("Zoo", "Animal"), (("City Zoo",), ("Owl", "Fox")), (((0, 1),),))
OWLS, FOXES, ANIMALS = ZOOS.quantities


def paths(structure: Structure, i: int, j: int, k: int):
    """All ways from an item down to the layer k, each as its edges."""
    for ends in product(*(range(len(layer)) for layer in structure.items[i + 1 : k + 1])):
        steps = [Quantity(INSTANCE, i + depth, a, b) for depth, (a, b) in enumerate(pairwise((j, *ends)))]
        if set(steps) <= set(structure.instances):
            yield steps


@settings(max_examples=40)
@given(seed=SEEDS, ops=st.integers(1, 12))
def test_a_total_is_the_number_of_things_on_all_ways_down(seed: int, ops: int):
    problem = draw_problem(random.Random(seed), ops=ops)
    structure, values = problem.dependency.structure, problem.dependency.values
    for i, layer in enumerate(structure.items):
        for j, k in product(range(len(layer)), range(i + 1, len(structure.items))):
            ways = list(paths(structure, i, j, k))
            total = Quantity(ABSTRACT, i, j, k)
            assert values[total] == sum(math.prod(values[edge] for edge in way) for way in ways) % 23
            assert ways or values[total] == 0


@settings(max_examples=60)
@given(seed=SEEDS, ops=st.integers(1, 32), level=st.sampled_from(["med", "hard"]))
def test_structures_have_a_parent_for_each_item_and_no_more_edges_than_allowed(seed: int, ops: int, level: str):
    generator = random.Random(seed)
    structure = draw_structure(draw_shape(ops, LEVELS[level].edges, generator), generator)
    assert 2 <= len(structure.items) <= 4 and all(2 <= len(layer) <= 4 for layer in structure.items)
    assert len(structure.instances) <= LEVELS[level].edges
    for layer, below in zip(structure.children, structure.items[1:], strict=True):
        assert {child for children in layer for child in children} == set(range(len(below)))
    assert all(structure.find(*structure.name(quantity)) == quantity for quantity in structure.quantities)
    assert structure.find("Nobody", "Nothing") is None


@pytest.mark.parametrize(
    ("definition", "end"),
    [
        (Definition(17), "17"),
        (Definition(None, (OWLS,)), "each City Zoo's Owl"),
        (Definition(4, (OWLS,)), "4 more than each City Zoo's Owl"),
        (Definition(0, (OWLS,)), "0 more than each City Zoo's Owl"),
        (Definition(4, (OWLS,), factor=True), "4 times as much as each City Zoo's Owl"),
        (Definition(None, (OWLS, ANIMALS)), "the sum of each City Zoo's Owl and each City Zoo's Animal"),
        (
            Definition(3, (ANIMALS, OWLS), factor=True, difference=True),
            "3 times as much as the difference of each City Zoo's Animal and each City Zoo's Owl",
        ),
        (
            Definition(3, (ANIMALS, OWLS, FOXES)),
            "3 more than the sum of each City Zoo's Animal, each City Zoo's Owl and each City Zoo's Fox",
        ),
    ],
)
def test_sentences(definition: Definition, end: str):
    assert sentence(ZOOS, FOXES, definition) == f"The number of each City Zoo's Fox equals {end}."


def test_things_without_a_total_in_the_text_can_always_be_sorted():
    structure = draw_structure(Shape(depth=4, narrow=3, wide=4, edges=14, growth=0.5), random.Random(0))
    for seed in range(100):
        order, edges = reasonable_sort(structure, structure.instances, random.Random(seed)) or ((), {})
        assert sorted(order) == sorted(structure.instances)
        # Each but the last is needed by one that comes later.
        place = {quantity: i for i, quantity in enumerate(order)}
        assert set(edges.values()) == set(order[:-1])
        assert all(place[needed] < place[user] for user, needed in edges.items())


def test_names_are_of_one_category_each():
    names = [
        item
        for chain in CHAINS
        for category, lasts in chain.items()
        for last in lasts
        for item in sublist(category, last)
    ]
    assert len(set(names)) == len(names) == 4 * 4 * 3 * 20
    assert not set(names) & {category for chain in CHAINS for category in chain}
    assert all(words(name) == tuple(name.split()) for name in names)


@pytest.mark.parametrize("widths", [(), (1,) * 5, (0, 2), (2, 21)])
def test_widths_out_of_range_are_refused(widths: tuple[int, ...]):
    with pytest.raises(ValueError, match="widths must be"):
        draw_names(widths, random.Random(0))


@pytest.mark.parametrize(("ops", "edges"), [(0, 20), (5, 11)])
def test_sizes_out_of_range_are_refused(ops: int, edges: int):
    with pytest.raises(ValueError, match="ops must be at least 1"):
        draw_shape(ops, edges, random.Random(0))


def test_graphs_that_cannot_be_are_refused():
    five, copy = Definition(5), Definition(None, (ANIMALS,))
    with pytest.raises(ValueError, match="contain a cycle"):
        Dependency(ZOOS, ((OWLS, five), (FOXES, copy)))  # a total that counts what is defined by it
    with pytest.raises(ValueError, match="each once"):
        Dependency(ZOOS, ((OWLS, five),))
    with pytest.raises(ValueError, match="parameters of the structure"):
        Dependency(ZOOS, ((OWLS, five), (FOXES, Definition(None, (Quantity(INSTANCE, 0, 0, 7),)))))
    with pytest.raises(ValueError, match="names must differ"):
        Structure(("Zoo", "Owl"), (("City Zoo",), ("Owl",)), (((0,),),))
    with pytest.raises(ValueError, match="distinct items"):
        Structure(("Zoo", "Animal"), (("City Zoo",), ("Owl",)), (((1,),),))
    with pytest.raises(ValueError, match="a category for each layer"):
        Structure(("Zoo",), (("City Zoo",), ("Owl",)), (((0,),),))


@pytest.mark.parametrize("what", ["formula", "ops", "has_number", "necessary", "check"])
def test_parameters_of_another_problem_are_refused(what: str):
    graph = Dependency(ZOOS, ((OWLS, Definition(5)), (FOXES, Definition(None, (OWLS,)))))
    for other in (Quantity(INSTANCE, 0, 0, 7), Quantity(ABSTRACT, 0, 1, 1), Quantity(ABSTRACT, 1, 0, 2)):
        with pytest.raises(ValueError, match="parameter must be one of the problem's 3; got Quantity"):
            check(graph, other, "") if what == "check" else getattr(graph, what)(other)


@pytest.mark.parametrize(
    ("number", "operands", "factor", "difference"),
    [
        (None, (), False, False),
        (23, (), False, False),
        (0, (OWLS,), True, False),
        (3, (), True, False),
        (None, (OWLS,), False, True),
        (None, (OWLS, OWLS), False, False),
        (1, (OWLS, FOXES, ANIMALS, Quantity(INSTANCE, 0, 0, 2)), False, False),
    ],
)
def test_sentences_that_cannot_be_are_refused(number, operands, factor, difference):
    with pytest.raises(ValueError, match="must"):
        Definition(number, operands, factor, difference)


SMALL = Shape(depth=2, narrow=2, wide=2, edges=2, growth=0.5)


def test_a_structure_can_be_too_small_for_so_many_operations():
    assert all(draw_dependency(SMALL, 20, 20, random.Random(seed)) is None for seed in range(20))
    drawn = [draw_dependency(SMALL, 3, 3, random.Random(seed)) for seed in range(50)]
    assert any(drawn) and all(sum(map(found[0].ops, found[1])) == 3 for found in drawn if found)
    # With room for fewer operations than are allowed, all the room is used.
    drawn = [draw_dependency(SMALL, 20, 3, random.Random(seed)) for seed in range(50)]
    assert any(drawn) and all(sum(map(found[0].ops, found[1])) == 3 for found in drawn if found)
    with pytest.raises(ValueError, match="ops must be from 1 to most=2; got 3"):
        draw_dependency(SMALL, 2, 3, random.Random(0))
