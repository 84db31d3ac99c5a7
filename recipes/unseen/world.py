"""A world whose law is known: all sequences of six tokens, three of them and a mask, and the noises that are compared."""

import torch
from jaxtyping import Float
from torch import Tensor

import noiselab as nl
from noiselab.typing import Tokens

TOKENS, LENGTH, MASK = 3, 6, 3
NOISES = ("masks", "0.05", "0.1", "0.2", "0.5", "uniform")
"""Masks alone, hybrid noise by its share of uniform tokens, and uniform tokens alone."""


def build_process(noise: str) -> nl.InterpolatingProcess:
    """The process of one of `NOISES`."""
    if noise == "masks":
        return nl.masked(vocab_size=TOKENS + 1, mask_id=MASK)
    if noise == "uniform":
        return nl.uniform(vocab_size=TOKENS + 1, special=[MASK])
    return nl.gidd(vocab_size=TOKENS + 1, mask_id=MASK, p_uniform=float(noise))


def every_text() -> Tokens:
    """All sequences without masks, in lexical order."""
    return nl.likelihood.every_sequence(TOKENS, LENGTH)


def data_law(seed: int = 0, pairs: float = 0.8, wholes: float = 0.5) -> Float[Tensor, " text"]:
    """The probabilities of `every_text`: random couplings of all pairs of positions, and a random number for each text.

    No Markov chain: every token depends on all others, and on more than pairs.

    **Arguments:**

    - `pairs`, `wholes`: standard deviations of the couplings and of the numbers, in nats.
    """
    random = torch.Generator().manual_seed(seed)
    x, shape = every_text(), (LENGTH, LENGTH, TOKENS, TOKENS)
    couplings = pairs * torch.randn(shape, generator=random, dtype=torch.float64)
    score = wholes * torch.randn(len(x), generator=random, dtype=torch.float64)
    for i in range(LENGTH):
        for j in range(i):
            score = score + couplings[i, j, x[:, i], x[:, j]]
    return score.softmax(0)


def entropy(law: Float[Tensor, " text"]) -> float:
    """Nats per token."""
    return -torch.special.xlogy(law, law).sum().item() / LENGTH
