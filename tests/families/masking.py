"""Masking."""

from collections.abc import Callable

import published
import torch
from family import MASK, MD4, SIGNALS, Equality, Pairs, V, bound, draw, normalised, values_and_gradients

import noiselab as nl

MDLM = "MDLM, Sahoo et al. (2024), [2406.07524](https://arxiv.org/abs/2406.07524)"

WORLDS = {
    "masked": lambda: nl.masked(vocab_size=5, mask_id=4),
}

SETTINGS = [
    lambda size: {"family": "masked", "mask_id": 2, "signal": "cosine", "vocab_size": size},
    lambda size: {"family": "masked", "mask_id": 2, "signal": {"name": "polynomial", "power": 2}, "vocab_size": size},
]


def masking(names: str, paper=published.mdlm) -> Callable[[], Pairs]:
    def pairs() -> Pairs:
        for seed, name in enumerate(names.split(", ")):
            ours, theirs = SIGNALS[name]
            yield from bound(nl.masked(vocab_size=V, mask_id=MASK, signal=ours), paper(theirs, MASK), seed)

    return pairs


def llada() -> Pairs:
    yield from bound(nl.masked(vocab_size=V, mask_id=MASK), published.llada(MASK))


def md4_steps() -> Pairs:
    steps = 10
    for seed, name in enumerate(["linear", "MD4 cosine", "square"]):
        signal, theirs = SIGNALS[name]
        process = nl.masked(vocab_size=V, mask_id=MASK, signal=signal)
        logits, x, _, t = draw(process, seed)
        t = ((t * steps).floor() + 1) / steps
        z = process.corrupt(x, t, generator=torch.Generator().manual_seed(seed))
        paper = published.md4_steps(theirs, MASK, steps)
        yield from values_and_gradients(
            lambda leaf, x=x, z=z, t=t, process=process: nl.elbo.step_kl(process, leaf, x, z, t - 1 / steps, t),
            lambda leaf, x=x, z=z, t=t, process=process, paper=paper: paper(normalised(process, leaf), x, z, t),
            logits,
        )


EQUALITIES = {
    "mdlm": Equality(
        "`masked`, linear, log-linear, cosine and squared cosine signal",
        MDLM,
        "equations 10, 11",
        masking("linear, log-linear, cosine, cosine squared"),
    ),
    "md4": Equality(
        "`masked`, linear, polynomial and MD4's cosine signal",
        MD4,
        "equation 5",
        masking("linear, square, square root, MD4 cosine"),
    ),
    "md4 steps": Equality("`masked` with `step_kl`", MD4, "section 3, T steps", md4_steps),
    "llada": Equality(
        "`masked`", "LLaDA, Nie et al. (2025), [2502.09992](https://arxiv.org/abs/2502.09992)", "equation 3", llada
    ),
}
