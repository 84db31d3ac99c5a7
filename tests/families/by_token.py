"""Noise that depends on the token."""

import published
import torch
from family import CAMPBELL, MASK, Equality, Pairs, V, bound, row

from noiselab import t
from noiselab.processes import Coarse, Neighbours, TokenRates

POWERS = torch.tensor([0.5, 1, 1.5, 2, 0.7, 3, 1], dtype=torch.float64)
PARENTS = torch.tensor([4, 4, 5, 5, 4, 5, 6])
HOPS = torch.tensor([[1, 5], [2, 0], [3, 1], [4, 2], [5, 3], [0, 4], [6, 6]])
CIRCLE = torch.tensor([[1, 3], [2, 0], [3, 1], [0, 2], [4, 4]])

DEPENDENT = {
    "token rates": lambda: TokenRates(row(1.0, 2.0, 0.5, 3.0, 1.0), mask_id=4),
    "coarse": lambda: Coarse(torch.tensor([4, 4, 5, 5, 4, 5, 6]), mask_id=6),
    "coarse, own clocks": lambda: Coarse(
        torch.tensor([3, 3, 3, 3, 4]), mask_id=4, fine=1 - t**0.5, unmasked=(1 - t) ** 2
    ),
    "neighbours": lambda: Neighbours(CIRCLE, torch.rand(5, 2, generator=torch.Generator().manual_seed(0)), mask_id=4),
    "neighbours, no other noise": lambda: Neighbours(
        CIRCLE, torch.ones(5, 2), mask_id=4, hops=3 * t**2, unmasked=1 - t**3
    ),
}


def token_rates() -> Pairs:
    for seed, learned in enumerate([False, True]):
        process = TokenRates(POWERS, mask_id=MASK, learned=learned)
        yield from bound(process, published.genmd4(POWERS, MASK), seed)


def coarse() -> Pairs:
    yield from bound(Coarse(PARENTS, mask_id=MASK), published.jump_process(published.coarse_matrices(PARENTS, MASK)))


def neighbours() -> Pairs:
    hop = torch.zeros(V, V, dtype=torch.float64).scatter_add(1, HOPS, torch.full((V, 2), 0.5, dtype=torch.float64))
    process = Neighbours(HOPS, torch.ones(V, 2), mask_id=MASK)
    yield from bound(process, published.jump_process(published.neighbour_matrices(hop, MASK)))


EQUALITIES = {
    "genmd4": Equality("`TokenRates`, fixed and learned", "GenMD4, in MD4", "section 6", token_rates),
    "coarse": Equality("`Coarse`", CAMPBELL, "continuous-time bound", coarse),
    "neighbours": Equality("`Neighbours`", CAMPBELL, "continuous-time bound", neighbours),
}
