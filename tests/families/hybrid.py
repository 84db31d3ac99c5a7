"""Hybrid noise."""

import published
from family import MASK, Equality, Pairs, V, bound

import noiselab as nl

WORLDS = {
    "gidd": lambda: nl.gidd(vocab_size=5, mask_id=4, p_uniform=0.1),
    "gidd, gamma 2": lambda: nl.gidd(vocab_size=5, mask_id=1, p_uniform=0.2, gamma=2.0),
}

SMALL = {"gidd v1.0.0": lambda: nl.processes.gidd_v1_0(vocab_size=3, mask_id=2, p_uniform=0.2)}

SETTINGS = [
    lambda size: {"family": "gidd", "p_uniform": 0.1, "gamma": 0.7, "mask_id": 2, "vocab_size": size},
    lambda size: {"family": "gidd_v1_0", "p_uniform": 0.1, "mask_id": 2, "vocab_size": size},
]


def gidd() -> Pairs:
    for seed, (share, gamma) in enumerate([(0.1, 1.0), (0.2, 1.0), (0.5, 2.0), (0.9, 0.5)]):
        process = nl.gidd(vocab_size=V, mask_id=MASK, p_uniform=share, gamma=gamma)
        yield from bound(process, published.gidd(share, gamma, MASK, V), seed)


def gidd_v1_0() -> Pairs:
    for seed, (share, gamma) in enumerate([(0.1, 1.0), (0.2, 1.0), (0.4, 1.7)]):
        process = nl.processes.gidd_v1_0(vocab_size=V, mask_id=MASK, p_uniform=share, gamma=gamma)
        yield from bound(process, published.gidd_v1_0(share, gamma, MASK, V), seed)


EQUALITIES = {
    "gidd": Equality(
        "`gidd`, any share and gamma",
        "GIDD, von Rütte et al. (2025), [2503.04482](https://arxiv.org/abs/2503.04482)",
        "theorem 3.7, weights in closed form",
        gidd,
    ),
    "gidd v1.0.0": Equality(
        "`gidd_v1_0`", "GIDD, [release v1.0.0](https://github.com/dvruette/gidd/tree/v1.0.0)", "its weights", gidd_v1_0
    ),
}
