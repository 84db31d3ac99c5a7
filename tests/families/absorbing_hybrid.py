"""Hybrid noise whose masks absorb."""

import published
import torch
from family import CAMPBELL, MASK, Equality, Pairs, V, bound, draw, normalised, values_and_gradients

import noiselab as nl
from noiselab import t
from noiselab.processes import AbsorbingHybrid, absorbing_hybrid

SCDD = "SCDD, [2603.02230](https://arxiv.org/abs/2603.02230)"
CASES = [(0.1, 1.0, 0.5), (0.2, 1.3, 0.3), (0.5, 0.6, 0.8)]

DEPENDENT = {
    "absorbing hybrid": lambda: absorbing_hybrid(vocab_size=5, mask_id=4, p_uniform=0.2),
    "absorbing hybrid, own clocks": lambda: AbsorbingHybrid(
        vocab_size=5, mask_id=1, kept=(1 - t**2) ** 0.5, unmasked=1 - t**3
    ),
}

SETTINGS = [
    lambda size: {
        "family": "absorbing_hybrid",
        "p_uniform": 0.1,
        "gamma": 0.7,
        "peak": 0.4,
        "mask_id": 2,
        "vocab_size": size,
    },
]


def jumps() -> Pairs:
    for seed, (share, gamma, peak) in enumerate(CASES):
        process = absorbing_hybrid(vocab_size=V, mask_id=MASK, p_uniform=share, gamma=gamma, peak=peak)
        paper = published.jump_process(published.absorbing_hybrid_matrices(share, gamma, peak, MASK, V))
        yield from bound(process, paper, seed)


def steps() -> Pairs:
    """Gradients only: the published number leaves out the constants of the divergence."""
    count = 64
    for seed, (share, gamma, peak) in enumerate(CASES):
        process = absorbing_hybrid(vocab_size=V, mask_id=MASK, p_uniform=share, gamma=gamma, peak=peak)
        logits, x, _, time = draw(process, seed)
        time = ((time * count).floor() + 1) / count
        z = process.corrupt(x, time, generator=torch.Generator().manual_seed(seed))
        paper = published.scdd(share, gamma, peak, MASK, V, count)
        yield list(
            values_and_gradients(
                lambda leaf, x=x, z=z, t=time, p=process: count * nl.elbo.step_kl(p, leaf, x, z, t - 1 / count, t),
                lambda leaf, x=x, z=z, t=time, p=process, paper=paper: paper(normalised(p, leaf), x, z, t),
                logits,
            )
        )[1]


EQUALITIES = {
    "absorbing hybrid": Equality("`absorbing_hybrid`", CAMPBELL, "continuous-time bound", jumps),
    "scdd steps": Equality(
        "`absorbing_hybrid`, an `AbsorbingHybrid`, with `step_kl` times T",
        SCDD,
        "the loss of T steps, gradients",
        steps,
    ),
}
