"""Counting network evaluations."""

from jaxtyping import Float
from torch import Tensor

from ..typing import Selection, Times, Tokens
from .base import Denoiser, WrappedDenoiser


class CallCounter(WrappedDenoiser):
    """Counts the evaluations of a denoiser (number of function evaluations, NFE).

    `calls` counts calls, `sequences` and `rows` the sequences and tokens in them, and `active` the sequences with a
    selected row, which is the cost of each sequence alone. `CallCounter(ActiveOnly(inner))` evaluates no others.

    **Arguments:**

    - `inner`: the denoiser to wrap.

    **Example:**

    ```python
    import torch
    import noiselab as nl

    process = nl.masked(vocab_size=3, mask_id=2)
    oracle = nl.MarkovOracle(torch.tensor([0.5, 0.5]), torch.tensor([[0.9, 0.1], [0.2, 0.8]]), process)
    counting = nl.denoisers.CallCounter(oracle)
    nl.AncestralSampler(process, counting).sample((4, 8), steps=16)
    assert counting.calls <= 16 and counting.sequences <= 64
    ```
    """

    def __init__(self, inner: Denoiser):
        super().__init__(inner)
        self.reset()

    def forward(self, z: Tokens, t: Times, rows: Selection | None = None) -> Float[Tensor, "... state"]:
        """The outputs of the inner denoiser, counted."""
        self.calls += 1
        self.sequences += len(z)
        self.active += len(z) if rows is None else int(rows.any(-1).sum())
        self.rows += z.numel() if rows is None else int(rows.sum())
        return self.inner(z, t, rows)

    def reset(self) -> None:
        """Reset all counts to 0."""
        self.calls, self.sequences, self.active, self.rows = 0, 0, 0, 0
