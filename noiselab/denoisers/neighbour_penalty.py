"""A penalty on repeating the token before."""

import torch
from jaxtyping import Float
from torch import Tensor

from ..numerics import require_count, require_number
from ..typing import Selection, Times, Tokens
from .base import Denoiser, WrappedDenoiser


class NeighbourPenalty(WrappedDenoiser):
    r"""Subtracts a number from the logit of the token that now precedes each position.

    $$\ell_i(v) - \lambda\, [v = z_{i-1}]$$

    It keeps decoders that fill many positions at once from writing one token twice. With `block_size` the first
    position of each block is left alone, as in decoders that see the logits of one block only. After a mask nothing
    changes, since no sampler takes one.

    **Arguments:**

    - `inner`: the denoiser to wrap.
    - `penalty`: $\lambda$, a finite number.
    - `block_size`: the size of blocks counted from position 0; by default only position 0 is left alone.

    **Raises:** `ValueError` for a penalty or size out of range, or a denoiser that predicts scores.

    **Source:** SGLang's `joint_threshold` (2026), `penalty_lambda`, for LLaDA2.1.

    **Example:**

    ```python
    import torch
    import noiselab as nl

    class Flat(nl.Denoiser):
        def forward(self, z, t):
            return torch.zeros(*z.shape, 3)

    logits = nl.denoisers.NeighbourPenalty(Flat(), 1.5)(torch.tensor([[0, 1]]), torch.ones(1))
    assert logits.tolist() == [[[0, 0, 0], [-1.5, 0, 0]]]
    ```
    """

    accepts_scores = False

    def __init__(self, inner: Denoiser, penalty: float | int, *, block_size: int | None = None):
        super().__init__(inner)
        self.penalty = require_number("penalty", penalty)
        self.block_size = block_size if block_size is None else require_count("block_size", block_size)

    def forward(self, z: Tokens, t: Times, rows: Selection | None = None) -> Float[Tensor, "... state"]:
        """The inner denoiser's logits, with the penalty; at least float32."""
        logits = self.inner(z, t, rows)
        logits = logits.to(torch.promote_types(logits.dtype, torch.float32))
        position = torch.arange(z.shape[1], device=z.device).expand(z.shape)
        cost = torch.where(position % (self.block_size or z.shape[1]) > 0, self.penalty, 0.0).to(logits)
        before = z.roll(1, -1)
        if rows is not None:
            cost, before = cost[rows], before[rows]
        return logits.scatter_add(-1, before[..., None].long(), -cost[..., None])

    def extra_repr(self) -> str:
        """The settings, for `repr`."""
        return f"{self.penalty:g}" + (f", block_size={self.block_size}" if self.block_size else "")
