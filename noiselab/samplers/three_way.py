r"""The reverse step as an exact three-way choice, of which all is decided that can be before the network is asked.

Every predictor whose law is a mixture of "stay", "take a token of x_hat" and "take a token of the noise" has masses that
are linear in x_hat_z, the prediction at the token that is there:

    stay                stay + stay_slope x_hat_z
    draw from x_hat     data
    draw from noise     noise + noise_slope x_hat_z

Whether a token moves depends on the network only through x_hat_z >= 0, and where it moves to, not at all. So `decide` asks
first whether it moves even if x_hat_z = 0: a uniform number that keeps it then settles it, and `finish` needs the
network's output at the few remaining rows only.
"""

from collections.abc import Callable
from typing import NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor

from ..categorical import choose
from ..denoisers import Denoiser
from ..elbo.tokens import outside
from ..process import InterpolatingProcess
from ..typing import RowLogits, Times, Tokens

DRAWS = 5  # uniform numbers per position and step


class Move(NamedTuple):
    """The masses of the three choices, float64 of a shape that broadcasts to [batch, length].

    The share of the moves, (data + noise) / (all of it), must not rise with x_hat_z.
    """

    data: Tensor  # draw from x_hat
    noise: Tensor  # draw from the noise
    stay: Tensor
    stay_slope: Tensor  # what x_hat_z = 1 adds to it
    draw: Callable[[Tensor, Tensor], Tensor]  # a token of the noise, from two uniform numbers [batch, length]
    noise_slope: Tensor | None = None  # what x_hat_z = 1 adds to it; nothing by default


class Plan(NamedTuple):
    """All of a reverse step that needs no network; tensors of shape [batch, length]."""

    z: Tensor  # the result so far: kept tokens, and draws from the noise that are settled
    rows: Tensor  # Bool: where x_hat is needed
    slack: Tensor  # a row of these moves if and only if x_hat_z < slack
    to_data: Tensor  # Bool: it moves to a token of x_hat, not of the noise
    noise: Tensor  # the token it takes from the noise otherwise
    u: Tensor  # the uniform number that draws from x_hat
    limit: Tensor | None = None  # to_data holds only while x_hat_z <= limit; always by default


def decide(
    move: Move, z: Tokens, u: Float[Tensor, "batch length draws"], in_data: Tensor, odds: Tensor | None = None
) -> Plan:
    """Decide what can be decided without the network.

    **Arguments:**

    - `move`: the masses.
    - `z`: the tokens that are there.
    - `u`: five uniform numbers a position, float64.
    - `in_data`: Bool [batch, length], where z can be a clean token. Elsewhere x_hat_z is zero.
    - `odds`: a token moves where its mass of moves times `odds` exceeds that of staying; by default 1 / u - 1 with the
      first uniform number, which makes the masses shares.
    """
    odds = 1 / u[..., 0].clamp(min=2**-54) - 1 if odds is None else odds
    lead = odds * (move.data + move.noise) - move.stay
    slope = move.stay_slope if move.noise_slope is None else move.stay_slope - odds * move.noise_slope
    settled = torch.where(lead > 0, torch.inf, -torch.inf)
    slack = torch.where(slope > 0, lead / torch.where(slope > 0, slope, 1), settled)
    may_move = slack > 0
    # u_1 >= (noise + noise_slope x_hat_z) / (data + noise + noise_slope x_hat_z)
    spare = u[..., 1] * move.data - (1 - u[..., 1]) * move.noise
    to_data, limit = (spare >= 0) & (move.data > 0), None
    if move.noise_slope is not None:
        taken = (1 - u[..., 1]) * move.noise_slope
        limit = torch.where(taken > 0, spare / torch.where(taken > 0, taken, 1), torch.inf)
    noise = torch.where(may_move if limit is not None else may_move & ~to_data, move.draw(u[..., 2], u[..., 3]), z)
    # Off the support x_hat_z is zero, so that a token which may move does.
    settled = may_move & ~to_data & (~in_data | (slack == torch.inf))
    return Plan(torch.where(settled, noise, z), may_move & ~settled, slack, to_data, noise, u[..., 4], limit)


def finish(plan: Plan, logits: RowLogits, off: Tensor | None = None) -> Tokens:
    """The tokens after the step, from the leave-one-out logits of `plan.rows` in row-major order.

    **Arguments:**

    - `off`: tokens that no data contain, as indices.
    """
    z, slack, to_data = plan.z[plan.rows], plan.slack[plan.rows], plan.to_data[plan.rows]
    logits = logits.to(torch.promote_types(logits.dtype, torch.float32))
    if off is not None:
        logits = logits.index_fill(-1, off, -torch.inf)
    probs = (logits - logits.amax(-1, keepdim=True)).exp_()
    x_hat_z = (probs.gather(-1, z[:, None])[:, 0] / probs.sum(-1)).double()
    move = x_hat_z < slack
    if plan.limit is not None:
        to_data = to_data & (x_hat_z <= plan.limit[plan.rows])
    drawn = choose(probs, plan.u[plan.rows])
    new = torch.where(move, torch.where(to_data, drawn, plan.noise[plan.rows]), z)
    return plan.z.masked_scatter(plan.rows, new)


def carry_out(plan: Plan, process: InterpolatingProcess, denoiser: Denoiser, z: Tokens, t: Times) -> Tokens:
    """The tokens after the step; the network is asked about `plan.rows`, and not at all if there are none."""
    return finish(plan, denoiser(z, t, plan.rows), outside(process)) if plan.rows.any() else plan.z
