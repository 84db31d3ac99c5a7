"""Credit for tokens that a network has predicted in earlier steps."""

import torch
from jaxtyping import Float
from torch import Tensor

from ..numerics import require_number
from ..typing import Selection, Times, Tokens
from .base import Denoiser, WrappedDenoiser
from .self_conditioning import SelfConditioned


class Credit(WrappedDenoiser, SelfConditioned):
    r"""Raises the logits of tokens that were the most probable ones in earlier steps of a walk.

    $$\ell_i(v) + \alpha \log(1 + C_i(v)), \qquad
    C_i(v) \leftarrow \beta\, C_i(v) + \left[v = \arg\max \hat x_i\right] \hat x_i(v)^\gamma$$

    C is 0 at first and updated before each prediction. Predictions that stay the same become confident sooner, so that a
    threshold accepts them earlier (`ThresholdSampler`). C belongs to the walk of a sampler, anew in each block of a
    `BlockSampler`, as other predictions that are carried from step to step (`SelfConditioned`); outside of a walk it begins
    with 0. It has the size of the logits of whole sequences: with 126,000 tokens and a length of 1,024 half a gigabyte in
    float32 for each sequence. Predictions count only where a sampler asks for them, so that steps have no static shapes
    (`Sampler.with_shapes`).

    The result is no longer the prediction of the network given the tokens: samplers that draw from it are biased, also with
    an exact denoiser.

    **Arguments:**

    - `inner`: the denoiser to wrap, which predicts logits.
    - `weight`: $\alpha$, non-negative.
    - `decay`: $\beta$, in [0, 1].
    - `power`: $\gamma$, non-negative; below 1 it raises small confidences.

    **Raises:** `ValueError` for numbers out of range, or a denoiser that predicts scores.

    **Source:** dInfer (inclusionAI/dInfer), there `credit_alpha`, `decay_beta` and `boost_gamma`.

    **Example:**

    ```python
    import torch
    import noiselab as nl

    process = nl.masked(vocab_size=3, mask_id=2)
    oracle = nl.MarkovOracle(torch.tensor([0.5, 0.5]), torch.tensor([[0.9, 0.1], [0.2, 0.8]]), process)
    sampler = nl.samplers.ThresholdSampler(process, nl.denoisers.Credit(oracle))
    assert (sampler.sample((2, 8), steps=8) < 2).all()
    ```
    """

    accepts_scores = False

    def __init__(
        self, inner: Denoiser, weight: float | int = 0.7, *, decay: float | int = 0.8, power: float | int = 0.2
    ):
        super().__init__(inner)
        self.weight = require_number("weight", weight, 0)
        self.decay = require_number("decay", decay, 0, 1)
        self.power = require_number("power", power, 0)

    def forward(self, z: Tokens, t: Times, rows: Selection | None = None) -> Float[Tensor, "... state"]:
        """The inner denoiser's logits, raised by their credit; at least float32."""
        logits = self.inner(z, t, rows)
        logits = logits.to(torch.promote_types(logits.dtype, torch.float32))
        flat, before = logits.reshape(-1, logits.shape[-1]), self.previous(0, z)
        at = torch.ones_like(z, dtype=torch.bool) if rows is None else rows
        credit = flat.new_zeros(*z.shape, flat.shape[-1])
        if before is not None:
            credit = torch.where(before.known[:, None, None], self.decay * before.logits.to(credit), credit)
        sure, token = flat.softmax(-1).max(-1, keepdim=True)
        earned = credit[at].scatter_add(-1, token, sure**self.power)
        self.keep(0, credit.masked_scatter(at[..., None], earned))
        return (flat + self.weight * earned.log1p()).view_as(logits)

    def extra_repr(self) -> str:
        """The settings, for `repr`."""
        return f"{self.weight:g}, decay={self.decay:g}, power={self.power:g}"
