"""What sampling costs, in evaluations of the network."""

from jaxtyping import Float
from torch import Tensor

from ..typing import Selection, Times, Tokens
from .base import Denoiser, in_a_line


class CallCounter(Denoiser):
    """A denoiser that counts how often it is asked.

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
        super().__init__()
        self.inner, self.predicts = inner, inner.predicts
        self.calls, self.sequences, self.rows = 0, 0, 0

    def forward(self, z: Tokens, t: Times, rows: Selection | None = None) -> Float[Tensor, "... state"]:
        """What the inner denoiser answers: one call more, and so many sequences and tokens."""
        self.calls += 1
        self.sequences += len(z)
        self.rows += z.numel() if rows is None else int(rows.sum())
        return self.inner(z, t, rows)

    def reset(self) -> None:
        """Count from 0 again."""
        self.calls, self.sequences, self.rows = 0, 0, 0

    def __repr__(self) -> str:
        return f"Counting({in_a_line(self.inner)})"
