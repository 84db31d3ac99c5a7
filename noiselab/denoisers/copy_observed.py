"""Carry-over unmasking: a token that noise cannot have made is predicted with certainty."""

import torch
from torch import Tensor

from ..process import InterpolatingProcess
from ..typing import PerRow, RowLogits, RowTokens
from .base import Denoiser, Transform


class CopyObserved(Transform):
    """A leave-one-out prediction that believes the tokens which noise cannot make: all mass is on the token itself.

    What is modelled is a network for masked text. It copies visible tokens by construction (SUBS of MDLM) or was never
    trained on them (no loss is taken there), and in either case does not know their leave-one-out law. Masks are predicted as
    before. For noise that falls on data tokens nothing changes: such a network has learned to doubt what it sees.

    **Arguments:**

    - `inner`: the denoiser to wrap; predicts leave-one-out.
    - `process`: tokens that it reveals in the middle of time are believed.
    """

    believed: Tensor

    def __init__(self, inner: Denoiser, process: InterpolatingProcess):
        super().__init__(inner)
        tokens, middle = torch.arange(process.vocab_size)[None], torch.full((1,), sum(process.domain) / 2)
        self.register_buffer("believed", process.is_clean(tokens, middle)[0])

    def edit(self, logits: RowLogits, z: RowTokens, t: PerRow) -> RowLogits:
        """One-hot of the token itself where it is believed."""
        copied = torch.full_like(logits, -torch.inf).scatter(-1, z[:, None], 0.0)
        return torch.where(self.believed[z][:, None], copied, logits)
