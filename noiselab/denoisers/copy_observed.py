"""Carry-over unmasking: tokens that noise cannot have produced are predicted with certainty."""

import torch
from torch import Tensor

from ..process import InterpolatingProcess
from ..typing import PerRow, RowLogits, RowTokens
from .base import Denoiser, Transform


class CopyObserved(Transform):
    """A leave-one-out prediction that copies tokens known to be clean: all probability is on the token itself.

    It models a network for masked text, which copies visible tokens by construction (SUBS of MDLM) or was never trained
    on them (no loss there), and in either case has no leave-one-out prediction for them. Predictions at masks are
    unchanged. For processes with noise on data tokens nothing changes, because such a network has learned that visible
    tokens may be wrong.

    **Arguments:**

    - `inner`: the denoiser to wrap; predicts leave-one-out.
    - `process`: the process; tokens that it marks as clean (`is_clean`) in the middle of time are copied.
    """

    believed: Tensor

    def __init__(self, inner: Denoiser, process: InterpolatingProcess):
        super().__init__(inner)
        tokens, middle = torch.arange(process.vocab_size)[None], torch.full((1,), sum(process.domain) / 2)
        self.register_buffer("believed", process.is_clean(tokens, middle)[0])

    def edit(self, logits: RowLogits, z: RowTokens, t: PerRow) -> RowLogits:
        """One-hot of the token itself where it is known to be clean."""
        copied = torch.full_like(logits, -torch.inf).scatter(-1, z[:, None], 0.0)
        return torch.where(self.believed[z][:, None], copied, logits)
