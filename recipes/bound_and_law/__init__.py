"""The parts of recipes/bound_and_law.py: a small world, its networks, exact measures, and an enumeration by other code."""
