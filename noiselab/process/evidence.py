"""The evidence of a noisy token about the clean one for factored noise: only one logit of each row changes.

All functions take one row for each token.
"""

from typing import TYPE_CHECKING

import torch
from torch import Tensor

from ..typing import PerRow, RowLogits, RowTokens

if TYPE_CHECKING:
    from .interpolating import InterpolatingProcess


def added(process: "InterpolatingProcess", logits: RowLogits, z: RowTokens, t: PerRow) -> RowLogits:
    r"""Posterior logits: leave-one-out logits plus $\log(1 + \alpha_t / b_t(z))$ at z, or one-hot at z if noise cannot
    have produced it.
    """
    odds = _log_odds(process, z, t)
    certain = odds.isinf()
    only_z = torch.full_like(logits, -torch.inf).scatter(-1, z[..., None], 0)
    logits = torch.where(certain[..., None], only_z, logits)
    return _shift(logits, z, torch.where(certain, 0, odds))


def removed(process: "InterpolatingProcess", logits: RowLogits, z: RowTokens, t: PerRow) -> RowLogits:
    """Leave-one-out logits from posterior logits; unchanged where noise cannot have produced z."""
    return _shift(logits, z, -evidence_of(process, z, t))


def evidence_of(process: "InterpolatingProcess", z: RowTokens, t: PerRow) -> PerRow:
    r"""What posterior logits have more at z than leave-one-out logits, $\log(1 + \alpha_t / b_t(z))$; 0 where noise cannot
    have produced z.
    """
    odds = _log_odds(process, z, t)
    return torch.where(odds.isinf(), 0, odds)


def log_marginal(process: "InterpolatingProcess", logits: RowLogits, t: PerRow) -> RowLogits:
    r"""$\log q_t(y \mid \hat x)$ for every token y, at least float32."""
    dtype = torch.promote_types(logits.dtype, torch.float32)
    alpha, noise = _signal_and_noise(process, t)
    # In logarithms, so that a probability below the range of its dtype is not lost where there is no noise.
    log_x, some = alpha.log().to(dtype) + logits.to(dtype).log_softmax(-1), noise > 0
    # Two infinities, at an impossible token, would give a NaN gradient.
    return torch.where(some, torch.logaddexp(log_x, torch.where(some, noise, 1).log().to(dtype)), log_x)


def solved(process: "InterpolatingProcess", log_scores: RowLogits, z: RowTokens, t: PerRow) -> RowLogits:
    """Leave-one-out logits from log-scores."""
    dtype = torch.promote_types(log_scores.dtype, torch.float32)
    # Kept finite, so that a row in which no token is left becomes uniform and not NaN.
    log_q = log_scores.to(dtype).scatter(-1, z[:, None], 0).log_softmax(-1).clamp(min=torch.finfo(dtype).min / 2)
    log_q = process.on_support(log_q)
    _, noise = _signal_and_noise(process, t)
    gap = noise.log().to(dtype) - log_q  # log(b / q): q - b = q (1 - exp(gap))
    left = gap < 0
    log_x = torch.where(left, log_q + torch.log(-torch.expm1(torch.where(left, gap, -1))), -torch.inf)
    return torch.where(left.any(-1, keepdim=True), log_x, log_q)


def _signal_and_noise(process: "InterpolatingProcess", t: Tensor) -> tuple[Tensor, Tensor]:
    """Alpha as a column and b as rows, float64."""
    t = t[:, None].double()
    return process.alpha(t).double(), process.noise(t).dense()[:, 0]


def _log_odds(process: "InterpolatingProcess", z: Tensor, t: Tensor) -> Tensor:
    """log(1 + alpha / b(z)) for each row; infinite where noise cannot have produced z."""
    z, t = z[:, None], t[:, None].double()
    b = process.noise(t).at(z)
    some = b > 0
    # Masked, because the derivative of log1p(alpha / 0) would be NaN.
    return torch.where(some, torch.log1p(process.alpha(t) / torch.where(some, b, 1)), torch.inf)[:, 0]


def _shift(logits: Tensor, z: Tensor, by: Tensor) -> Tensor:
    return logits.scatter_add(-1, z[..., None], by[..., None].to(logits))
