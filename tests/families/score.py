"""Score entropy."""

from collections.abc import Callable

import published
import torch
from family import MASK, SEDD, SIGNALS, Equality, Pairs, V, bound, draw, values_and_gradients

import noiselab as nl


def sedd(kind: str, free: bool) -> Callable[[], Pairs]:
    """The score of a prediction with `nelbo`, or any score with `score_entropy`."""
    one = torch.ones(V, dtype=torch.float64)
    noise = (torch.arange(V) == MASK).double() if kind == "absorb" else one / V
    rates = noise - torch.eye(V, dtype=torch.float64)

    def pairs() -> Pairs:
        for seed, name in enumerate(["log-linear", "geometric"]):
            signal, theirs = SIGNALS[name]
            process = nl.masked(vocab_size=V, mask_id=MASK, signal=signal)
            if kind == "uniform":
                process = nl.uniform(vocab_size=V, signal=signal)
            # The mask's own score is not read: no token comes from a mask.
            paper = published.sedd(theirs, rates, process.data_tokens())
            if free:
                scores, x, z, t = draw(process, seed)
                yield from values_and_gradients(
                    lambda leaf, x=x, z=z, t=t, process=process: nl.elbo.score_entropy(process, leaf, x, z, t),
                    lambda leaf, x=x, z=z, t=t, paper=paper: paper(leaf, x, z, t),
                    scores,
                )
            else:
                read_off = published.score(theirs, noise)
                yield from bound(
                    process,
                    lambda log_x, x, z, t, paper=paper, read=read_off: paper(read(log_x, z, t), x, z, t),
                    seed,
                )

    return pairs


EQUALITIES = {
    "sedd absorb": Equality(
        "`masked`, log-linear and geometric signal, `nelbo`", SEDD, "theorem 3.6, absorb", sedd("absorb", free=False)
    ),
    "sedd uniform": Equality(
        "`uniform`, log-linear and geometric signal, `nelbo`", SEDD, "theorem 3.6, uniform", sedd("uniform", free=False)
    ),
    "sedd absorb, free": Equality(
        "`masked`, any scores, `score_entropy`", SEDD, "theorem 3.6, absorb", sedd("absorb", free=True)
    ),
    "sedd uniform, free": Equality(
        "`uniform`, any scores, `score_entropy`", SEDD, "theorem 3.6, uniform", sedd("uniform", free=True)
    ),
}
