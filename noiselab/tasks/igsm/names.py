"""Names of the objects in full iGSM: chains of categories, and the items of each category."""

import random
from functools import cache

POOLS = {
    "trees": "Alder Aspen Beech Birch Cedar Cypress Elm Hazel Holly Juniper Larch Linden Maple Oak Olive Pine Poplar Rowan "
    "Spruce Willow",
    "stones": "Agate Amber Basalt Beryl Chalk Coral Crystal Flint Garnet Granite Jasper Limestone Marble Obsidian Onyx Opal "
    "Pebble Quartz Slate Topaz",
    "colours": "Azure Beige Black Blue Bronze Brown Crimson Golden Green Grey Ivory Lilac Ochre Orange Pink Purple Red "
    "Silver White Yellow",
    "weather": "Breezy Bright Calm Clear Cloudy Dewy Drizzly Dusty Foggy Frosty Gusty Hazy Icy Misty Rainy Snowy Stormy "
    "Sunny Thundery Windy",
    "places": "Canyon Cave Cliff Coastal Delta Desert Fjord Forest Glacier Harbour Island Lagoon Meadow Moor Mountain "
    "Prairie River Shore Swamp Valley",
    "people": "Baker Cooper Drummer Farmer Fisher Gardener Juggler Mason Miller Painter Pilot Poet Potter Ranger Sailor "
    "Shepherd Smith Tailor Tinker Weaver",
    "tastes": "Bitter Buttery Creamy Crisp Crunchy Fresh Fruity Mild Minty Nutty Peppery Plain Roasted Salty Smoky Sour "
    "Spicy Sweet Tangy Toasted",
    "plants": "Apple Barley Carrot Celery Cherry Fennel Garlic Ginger Lemon Lentil Mango Onion Parsley Peach Pumpkin Rice "
    "Sesame Spinach Tomato Walnut",
    "shapes": "Angular Arched Barbed Broad Coiled Conical Curved Flat Forked Hollow Hooked Knotted Long Narrow Oval Round "
    "Short Slender Spiral Thick",
    "sky": "Aurora Comet Cosmic Crescent Dawn Dusk Eclipse Equinox Lunar Meteor Midnight Nebula Orbit Polar Pulsar Solar "
    "Starlight Summit Twilight Zenith",
    "cloth": "Canvas Corduroy Cotton Denim Embroidered Felt Flannel Fleece Hemp Knitted Leather Linen Nylon Padded Quilted "
    "Satin Silk Tweed Velvet Woollen",
    "sites": "Anterior Basal Central Deep Distal Dorsal External Frontal Inner Lateral Left Lower Medial Outer Posterior "
    "Proximal Right Superficial Upper Ventral",
}
"""Pools of twenty first words on one subject; combined with a last word they form the items of a sub-list."""

CHAINS = (
    {
        "District": {"Quarter": "trees", "Heights": "stones", "Borough": "people"},
        "Supermarket": {"Market": "sky", "Grocer": "colours", "Emporium": "weather"},
        "Product": {"Pie": "plants", "Soup": "tastes", "Cracker": "shapes"},
        "Ingredient": {"Flour": "plants", "Syrup": "trees", "Powder": "tastes"},
    },
    {
        "Zoo": {"Menagerie": "sky", "Sanctuary": "places", "Wildpark": "trees"},
        "Enclosure": {"Aviary": "weather", "Paddock": "stones", "Pool": "shapes"},
        "Animal": {"Otter": "places", "Parrot": "colours", "Lizard": "stones"},
        "Bone": {"Rib": "sites", "Vertebra": "shapes", "Knuckle": "sites"},
    },
    {
        "School": {"Academy": "people", "College": "places", "Institute": "sky"},
        "Classroom": {"Studio": "people", "Workshop": "weather", "Laboratory": "stones"},
        "Backpack": {"Satchel": "cloth", "Rucksack": "colours", "Knapsack": "trees"},
        "Stationery": {"Pencil": "colours", "Notebook": "cloth", "Ruler": "shapes"},
    },
    {
        "Ecosystems": {"Reef": "weather", "Wetland": "places", "Grove": "trees"},
        "Creatures": {"Beetle": "colours", "Frog": "places", "Crab": "stones"},
        "Organs": {"Gland": "sites", "Valve": "shapes", "Lobe": "sites"},
        "Cells": {"Neuron": "sites", "Fibre": "shapes", "Receptor": "tastes"},
    },
)
"""Four chains of four categories, from whole to part; for each sub-list, its last word and the pool of its first words.
"""

CHAIN_LENGTH = 4


@cache
def sublist(category: str, last: str) -> tuple[str, ...]:
    """Return the items of one sub-list of a category, for example "Birch Quarter", "Cedar Quarter", ...

    **Raises:** `ValueError` if the category has no sub-list with this last word.
    """
    for chain in CHAINS:
        if last in chain.get(category, {}):
            return tuple(f"{first} {last}" for first in POOLS[chain[category][last]].split())
    raise ValueError(f"last must be the last word of a sub-list of the category; got {last!r} of {category!r}")


def draw_names(
    widths: tuple[int, ...], generator: random.Random
) -> tuple[tuple[str, ...], tuple[tuple[str, ...], ...]]:
    """Draw consecutive categories of a chain, and the given number of items of each, from one sub-list.

    **Arguments:**

    - `widths`: the number of items of each category, 1 to 20; at most four categories.
    - `generator`: the source of randomness.

    **Returns:** the categories, and the items of each.

    **Raises:** `ValueError` if the widths are out of range.

    **Source:** Ye et al. (2024), arXiv 2407.20311, for the categories; the names are new.
    """
    if not 1 <= len(widths) <= CHAIN_LENGTH or not all(1 <= width <= 20 for width in widths):
        raise ValueError(f"widths must be one to four numbers from 1 to 20; got {widths}")
    chain = generator.choice(CHAINS)
    start = generator.randint(0, CHAIN_LENGTH - len(widths))
    categories = tuple(chain)[start : start + len(widths)]
    items = (
        generator.sample(sublist(category, generator.choice(tuple(chain[category]))), width)
        for category, width in zip(categories, widths, strict=True)
    )
    return categories, tuple(map(tuple, items))
