"""The parts of recipes/unseen_by_the_bound.py: a small world, its networks, exact measures, other code for them, the page."""
