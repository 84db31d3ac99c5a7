"""Unigram noise."""

import published
import torch
from family import CAMPBELL, FREQUENCIES, MASK, SIGNALS, Equality, Pairs, bound, row

import noiselab as nl

WORLDS = {"sparse unigram": lambda: nl.unigram(row(0.5, 0, 0.3, 0.2, 0), support=torch.arange(5) < 4)}
SMALL = {
    "unigram": lambda: nl.unigram(row(0.6, 0.3, 0.1)),
    "hybrid unigram": lambda: nl.processes.mask_and_unigram(row(0.7, 0.3, 0), mask_id=2, p_unigram=0.2),
}
SETTINGS = [
    lambda size: {"family": "unigram", "frequencies": [1 / size] * size},
    lambda size: {
        "family": "mask_and_unigram",
        "frequencies": [0 if token == 2 else 1 / (size - 1) for token in range(size)],
        "mask_id": 2,
        "p_unigram": 0.2,
    },
]


def unigram() -> Pairs:
    for seed, name in enumerate(["linear", "cosine", "geometric"]):
        signal, theirs = SIGNALS[name]
        row = FREQUENCIES[:-1]
        yield from bound(
            nl.unigram(row, signal=signal), published.jump_process(published.row_matrices(theirs, row)), seed
        )


def mask_and_unigram() -> Pairs:
    for seed, (share, gamma) in enumerate([(0.1, 1.0), (0.4, 2.0)]):
        process = nl.processes.mask_and_unigram(FREQUENCIES, mask_id=MASK, p_unigram=share, gamma=gamma)
        matrices = published.hybrid_matrices(share, gamma, MASK, FREQUENCIES)
        yield from bound(process, published.jump_process(matrices), seed)


EQUALITIES = {
    "unigram": Equality("`unigram`, any signal", CAMPBELL, "continuous-time bound", unigram),
    "mask and unigram": Equality("`mask_and_unigram`", CAMPBELL, "continuous-time bound", mask_and_unigram),
}
