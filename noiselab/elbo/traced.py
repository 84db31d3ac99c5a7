"""The sums of the bound as plain differentiable operations, for `torch.compile` to trace and fuse."""

from typing import TYPE_CHECKING

import torch
from torch import Tensor

from .tokens import TokenTerms

if TYPE_CHECKING:
    from ..process import InterpolatingProcess


def traced(process: "InterpolatingProcess", logits: Tensor, tokens: TokenTerms, z: Tensor, t: Tensor) -> Tensor:
    """The integrand [batch, length], from the scalars of the tokens: no buffers, no branches on values."""
    dtype = torch.promote_types(logits.dtype, torch.float32)
    data = process.data_tokens(logits.device)
    flat = torch.where(data, logits, -torch.inf).flatten(0, 1).to(dtype)
    log_sum = flat.logsumexp(-1, keepdim=True)
    b = process.noise(process.interior(t, z)).dense().expand(*z.shape, -1).flatten(0, 1).to(dtype)
    # Clamped, so that nothing is divided by zero; terms of tokens without noise are 0.
    b = torch.where(data, b, 0).clamp(min=torch.finfo(dtype).tiny)
    kl_sum = (b * torch.log1p((flat - log_sum).exp() * tokens.a[:, None].to(dtype) / b)).sum(-1).double()
    return tokens.value(tokens.ends(flat), log_sum[:, 0].double(), kl_sum).view(z.shape).to(dtype)
