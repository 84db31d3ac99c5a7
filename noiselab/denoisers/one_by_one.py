"""Leave-one-out predictions from a network trained on masks only: each token is masked while it is predicted."""

import torch
from jaxtyping import Float
from torch import Tensor

from ..numerics import require_count
from ..typing import Selection, Times, Tokens
from .base import Denoiser, WrappedDenoiser


class OneByOne(WrappedDenoiser):
    """Predicts each token with the inner denoiser while that token is masked, in several passes.

    The prediction of a masked language model at a *visible* token was never trained. At a masked token it is the
    leave-one-out distribution given the unmasked tokens. If the number of passes equals the number of tokens, each
    token is masked alone and the result is exact. With fewer passes, every `passes`-th token is masked in the same
    pass, and these tokens do not condition on each other, which is an approximation. The time is passed to the inner
    denoiser.

    **Arguments:**

    - `inner`: a denoiser trained on masks.
    - `mask_id`: the id of the mask token.
    - `passes`: the number of evaluations for one prediction, at least 1; 1 masks all tokens at once.

    **Raises:** `ValueError` if `passes` is less than 1, `mask_id` is negative, or the denoiser predicts scores.

    **Source:** pseudo-likelihoods of masked language models: Salazar et al. (2020), arXiv 1910.14659.

    **Example:**

    ```python
    import torch
    import noiselab as nl
    from noiselab.denoisers.one_by_one import OneByOne

    process = nl.masked(vocab_size=3, mask_id=2)
    oracle = nl.MarkovOracle(torch.tensor([0.5, 0.5]), torch.tensor([[0.9, 0.1], [0.1, 0.9]]), process)
    z = torch.tensor([[0, 0, 1, 0]])
    probs = OneByOne(oracle, mask_id=2, passes=4)(z, torch.full((1,), 0.1)).softmax(-1)
    assert probs[0, 2, 1] < 0.02  # between two zeros a one is unlikely; the oracle itself would believe what it sees
    ```
    """

    accepts_scores = False

    def __init__(self, inner: Denoiser, mask_id: int, passes: int):
        super().__init__(inner)
        self.mask_id, self.passes = require_count("mask_id", mask_id, 0), require_count("passes", passes)
        self.predicts = "leave_one_out"

    def forward(self, z: Tokens, t: Times, rows: Selection | None = None) -> Float[Tensor, "... state"]:
        """Logits of each token, or of the selected ones, with it masked."""
        wanted = torch.ones_like(z, dtype=torch.bool) if rows is None else rows
        place = torch.arange(z.shape[1], device=z.device)
        found: Tensor | None = None
        # The index of each selected token in the result.
        order = torch.cumsum(wanted.flatten().long(), 0).view_as(z) - 1
        for k in range(min(self.passes, z.shape[1])):
            hidden = (place % self.passes == k).expand(z.shape)
            asked = hidden & wanted
            if not asked.any():
                continue
            logits = self.inner(z.masked_fill(hidden, self.mask_id), t, asked)
            if found is None:
                found = logits.new_empty(int(wanted.sum()), logits.shape[-1])
            found = found.index_copy(0, order[asked], logits)
        if found is None:
            return self.inner(z, t, wanted)
        return found.view(*z.shape, -1) if rows is None else found

    def extra_repr(self) -> str:
        """The settings, for `repr`."""
        return f"mask_id={self.mask_id}, passes={self.passes}"
