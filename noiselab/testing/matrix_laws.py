"""A law of state-dependent corruption: with equal rows it agrees with state-independent corruption."""

import torch
from torch import Generator, Tensor

from ..elbo import nelbo
from ..process import InterpolatingProcess, TokenDependentProcess
from .tools import agree, logits, random_times, tokens


def equal_rows_are_an_interpolating_process(process: TokenDependentProcess) -> None:
    """If all rows of the mixing are equal, the bound is that of the `InterpolatingProcess` with this row."""
    t = random_times(process, 4)
    alpha, pi = process.alpha(t), process.mixing(t)
    if alpha.shape != t.shape or (pi - pi[:, :1]).abs().max() > 1e-9:
        return

    class OneRow(InterpolatingProcess):
        def alpha(self, t: Tensor) -> Tensor:
            return process.alpha(t)

        def mixing(self, t: Tensor) -> Tensor:
            return process.mixing(t)[..., 0, :]

    same = OneRow(process.support)
    same.domain = process.domain
    x, x_hat = tokens(process, 4, 4), logits(process, 4, 4)
    z = same.corrupt(x, t, generator=Generator().manual_seed(0))
    with torch.no_grad():
        what = "the bound differs from that of the interpolating process of its one row"
        got, want = nelbo(process, x_hat, x, z, t), nelbo(same, x_hat, x, z, t)
        agree(what, got, want, rtol=1e-6, x=x, z=z, t=t[:, None])
