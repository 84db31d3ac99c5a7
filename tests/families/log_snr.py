"""Hybrid noise by log-SNR."""

import published
from family import MASK, Equality, Pairs, V, bound

import noiselab as nl

WORLDS = {
    "log-SNR hybrid": lambda: nl.processes.log_snr_hybrid(vocab_size=5, mask_id=4, shift=1),
}

SETTINGS = [
    lambda size: {"family": "log_snr_hybrid", "scale": 1.0, "shift": 0.5, "mask_id": 2, "vocab_size": size},
]


def log_snr() -> Pairs:
    for seed, (scale, shift) in enumerate([(1.0, 0.0), (1.0, -2.0), (1.0, 2.0), (0.5, 1.0), (-1.0, 0.0)]):
        process = nl.processes.log_snr_hybrid(vocab_size=V, mask_id=MASK, scale=scale, shift=shift)
        yield from bound(process, published.log_snr(scale, shift, MASK, V), seed)


EQUALITIES = {
    "log-SNR": Equality(
        "`log_snr_hybrid`, any scale and shift",
        "von Rütte et al. (2025), [2512.10858](https://arxiv.org/abs/2512.10858)",
        "weights in the log-SNR",
        log_snr,
    ),
}
