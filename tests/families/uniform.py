"""Uniform noise."""

from collections.abc import Callable

import published
import torch
from family import MASK, SIGNALS, Equality, Pairs, V, bound

import noiselab as nl
from noiselab import schedules

ALL, WORDS = torch.ones(V, dtype=torch.bool), torch.arange(V) != MASK

WORLDS = {
    "uniform": lambda: nl.uniform(vocab_size=5),
    "uniform on words": lambda: nl.uniform(vocab_size=5, special=[4], signal=schedules.cosine()),
}

SETTINGS = [
    lambda size: {
        "family": "uniform",
        "special": [1, 2],
        "signal": {"name": "log_linear", "eps": 0.0},
        "vocab_size": size,
    },
]


def uniform(paper) -> Callable[[], Pairs]:
    def pairs() -> Pairs:
        for seed, name in enumerate(["linear", "log-linear", "cosine", "square"]):
            signal, theirs = SIGNALS[name]
            for special, words in (((), ALL), ((MASK,), WORDS)):
                process = nl.uniform(vocab_size=V, special=special, signal=signal)
                yield from bound(process, paper(theirs, words), seed)

    return pairs


EQUALITIES = {
    "udlm": Equality(
        "`uniform`, any signal, with and without special tokens",
        "UDLM, Schiff et al. (2024), [2412.10193](https://arxiv.org/abs/2412.10193)",
        "continuous-time bound of section 4",
        uniform(published.udlm),
    ),
    "duo": Equality(
        "`uniform`, any signal, with and without special tokens",
        "Duo, Sahoo et al. (2025), [2506.10892](https://arxiv.org/abs/2506.10892)",
        "Rao-Blackwellised bound",
        uniform(published.duo),
    ),
}
