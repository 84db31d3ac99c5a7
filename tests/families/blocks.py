"""A time for each token."""

import published
import torch
from family import MASK, Equality, Pairs, V, draw, normalised, values_and_gradients
from torch import Tensor

import noiselab as nl


def blocks() -> Pairs:
    process = nl.masked(vocab_size=V, mask_id=MASK)
    for size in (1, 2, 3):
        logits, x, _, _ = draw(process, size)
        t, weight = nl.times.block_times(*x.shape, size, generator=torch.Generator().manual_seed(size))
        z = process.corrupt(x, t, generator=torch.Generator().manual_seed(size))
        paper = published.bd3lm(MASK, size)

        def ours(leaf: Tensor, x=x, z=z, t=t, weight=weight) -> Tensor:
            return torch.where(weight > 0, weight * nl.nelbo(process, leaf, x, z, t), 0)

        def theirs(leaf: Tensor, x=x, z=z, t=t, paper=paper) -> Tensor:
            return paper(normalised(process, leaf), x, z, t)

        yield from values_and_gradients(ours, theirs, logits)


EQUALITIES = {
    "bd3lm": Equality(
        "`masked` at `block_times`",
        "BD3-LM, Arriola et al. (2025), [2503.09573](https://arxiv.org/abs/2503.09573)",
        "bound of section 3",
        blocks,
    ),
}
