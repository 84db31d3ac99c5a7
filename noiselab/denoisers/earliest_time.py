"""Evaluating a denoiser at no earlier time than it was trained at."""

from jaxtyping import Float
from torch import Tensor

from ..numerics import require_number
from ..typing import Selection, Times, Tokens
from .base import Denoiser, WrappedDenoiser


class EarliestTime(WrappedDenoiser):
    r"""Evaluates a denoiser at $\max(t, \text{time})$.

    A network is trained on times from some $t_0 > 0$ on. A corrector of finished sequences works at t = 0, where it draws
    tokens without noise; with this wrapper it asks the network for its prediction at $t_0$ instead, as GIDD's
    self-correction does.

    **Arguments:**

    - `inner`: a denoiser that predicts leave-one-out; convert others before (`as_leave_one_out`), because the conversion
      depends on the time.
    - `time`: the earliest time, in [0, 1].

    **Raises:** `ValueError` for a time out of range, or a denoiser that predicts anything else.

    **Example:**

    ```python
    import torch
    import noiselab as nl

    process = nl.gidd(vocab_size=3, mask_id=2, p_uniform=0.2)
    oracle = nl.MarkovOracle(torch.tensor([0.5, 0.5]), torch.tensor([[0.9, 0.1], [0.2, 0.8]]), process)
    careful, z = nl.denoisers.EarliestTime(oracle, 0.01), torch.tensor([[0, 1, 1]])
    assert torch.equal(careful(z, torch.zeros(1)), oracle(z, torch.tensor([0.01], dtype=torch.float64)))
    ```
    """

    accepts_scores = False

    def __init__(self, inner: Denoiser, time: float | int):
        super().__init__(inner)
        if inner.predicts != "leave_one_out":
            raise ValueError(
                f"inner must predict leave-one-out (noiselab.denoisers.as_leave_one_out converts); got {inner.predicts!r}"
            )
        self.time = require_number("time", time, 0, 1)

    def forward(self, z: Tokens, t: Times, rows: Selection | None = None) -> Float[Tensor, "... state"]:
        """The outputs of the inner denoiser at times that are not earlier."""
        return self.inner(z, t.double().clamp(min=self.time), rows)

    def extra_repr(self) -> str:
        """The settings, for `repr`."""
        return f"time={self.time:g}"
