r"""What a denoiser predicts, and the way from one answer to the other.

The leave-one-out law is $p(x_i \mid z_{-i})$, everything but the token's own noisy value; the posterior is
$p(x_i \mid z)$. They are one step apart at each position:

$$p(x_i = v \mid z) \propto p(x_i = v \mid z_{-i})\; q_t(z_i \mid v)$$

and $q_t(z_i \mid v) = b(z_i)$ for every v but $v = z_i$, so that a single logit changes, by
$\log(1 + \alpha / b(z_i))$.
"""

from typing import Literal, TypeAlias

import torch
from jaxtyping import Float, Int
from torch import Tensor

from .process import InterpolatingProcess

Prediction: TypeAlias = Literal["leave_one_out", "posterior"]
"""What a denoiser says it predicts."""


def to_posterior(
    process: InterpolatingProcess,
    logits: Float[Tensor, "rows state"],
    z: Int[Tensor, " rows"],
    t: Float[Tensor, " rows"],
) -> Float[Tensor, "rows state"]:
    """Posterior logits from leave-one-out logits, per token.

    Where noise cannot have produced z, the answer is z, whatever the network says.

    **Arguments:**

    - `logits`, `z`, `t`: one row for each token: its leave-one-out logits, its noisy value and its time.

    **Source:** Bayes' rule; the distinction is Gourevitch et al. (2026), arXiv 2605.22765.
    """
    odds = _log_odds(process, z, t)
    certain = odds.isinf()
    only_z = torch.full_like(logits, -torch.inf).scatter(-1, z[..., None], 0)
    logits = torch.where(certain[..., None], only_z, logits)
    return _shift(logits, z, torch.where(certain, 0, odds))


def to_leave_one_out(
    process: InterpolatingProcess,
    logits: Float[Tensor, "rows state"],
    z: Int[Tensor, " rows"],
    t: Float[Tensor, " rows"],
) -> Float[Tensor, "rows state"]:
    """Leave-one-out logits from posterior logits, per token; the inverse of `to_posterior`.

    Where noise cannot have produced z, the posterior says nothing but z: there it is returned as it is, and no bound
    or sampler reads it.

    **Arguments:**

    - `logits`, `z`, `t`: one row for each token: its posterior logits, its noisy value and its time.
    """
    odds = _log_odds(process, z, t)
    return _shift(logits, z, -torch.where(odds.isinf(), 0, odds))


def _log_odds(process: InterpolatingProcess, z: Tensor, t: Tensor) -> Tensor:
    """log(1 + alpha / b(z)) for each row; infinite where noise cannot have produced z."""
    z, t = z[:, None], t[:, None].double()
    return torch.log1p(process.alpha(t) / process.noise(t).at(z))[:, 0]


def _shift(logits: Tensor, z: Tensor, by: Tensor) -> Tensor:
    return logits.scatter_add(-1, z[..., None], by[..., None].to(logits))
