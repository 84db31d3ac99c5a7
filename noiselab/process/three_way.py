r"""The reverse step as an exact three-way choice, decided as far as possible before the network is evaluated.

Every predictor whose law is a mixture of "stay", "take a token of x_hat" and "take a token of the noise" has masses that
are linear in x_hat_z, the prediction at the token that is there:

    stay                stay + stay_slope x_hat_z
    draw from x_hat     data
    draw from noise     noise + noise_slope x_hat_z

Whether a token moves depends on the network only through x_hat_z >= 0, and where it moves to, not at all. So `Move.plan` asks
first whether it moves even if x_hat_z = 0: a uniform number that keeps it then settles it, and `Plan.resolve` needs the
network's output at the few remaining rows only.

`reverse_move` has the masses of the reverse transition; other samplers have others.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor

from ..categorical import choose, replace_tokens
from ..mixing import NoiseMass
from ..numerics import as_token_times
from ..typing import PerToken, RowLogits, Times, Tokens, TokenTimes
from .plans import ReversePlan

if TYPE_CHECKING:
    from .base import NoiseProcess
    from .interpolating import InterpolatingProcess


class Move(NamedTuple):
    """The masses of the three choices, float64 of a shape that broadcasts to [batch, length].

    The probability of a move, (data + noise) / (sum of all masses), must not increase with x_hat_z.
    """

    data: Tensor  # draw from x_hat
    noise: Tensor  # draw from the noise
    stay: Tensor
    stay_slope: Tensor  # added to it at x_hat_z = 1
    draw: Callable[[Tensor, Tensor], Tensor]  # a token of the noise, from two uniform numbers [batch, length]
    noise_slope: Tensor | None = None  # added to it at x_hat_z = 1; 0 by default

    def plan(
        self,
        process: "NoiseProcess",
        z: Tokens,
        u: Float[Tensor, "batch length draws"],
        odds: Float[Tensor, "batch length"] | None = None,
    ) -> "Plan":
        """Determine all that does not depend on the network.

        **Arguments:**

        - `process`: the noise process, whose support determines where x_hat_z may be non-zero.
        - `z`: the current tokens.
        - `u`: five uniform numbers per position, float64.
        - `odds`: a token moves if its mass of moves times `odds` exceeds that of staying; by default 1 / u - 1 with the
          first uniform number, so that tokens move with the probability given by the masses.
        """
        odds = 1 / u[..., 0].clamp(min=2**-54) - 1 if odds is None else odds
        lead = odds * (self.data + self.noise) - self.stay
        slope = self.stay_slope if self.noise_slope is None else self.stay_slope - odds * self.noise_slope
        settled = torch.where(lead > 0, torch.inf, -torch.inf)
        slack = torch.where(slope > 0, lead / torch.where(slope > 0, slope, 1), settled)
        may_move = slack > 0
        # u_1 >= (noise + noise_slope x_hat_z) / (data + noise + noise_slope x_hat_z)
        spare = u[..., 1] * self.data - (1 - u[..., 1]) * self.noise
        to_data, limit = (spare >= 0) & (self.data > 0), None
        if self.noise_slope is not None:
            taken = (1 - u[..., 1]) * self.noise_slope
            limit = torch.where(taken > 0, spare / torch.where(taken > 0, taken, 1), torch.inf)
        noise = torch.where(may_move if limit is not None else may_move & ~to_data, self.draw(u[..., 2], u[..., 3]), z)
        # Outside the support x_hat_z is zero, so that a token that may move does move.
        settled = may_move & ~to_data & (~process.data_tokens(z.device)[z] | (slack == torch.inf))
        z, rows, off = torch.where(settled, noise, z), may_move & ~settled, process.off_support()
        return Plan(z, rows, slack, to_data, noise, u[..., 4], limit, off)


@dataclass(frozen=True, eq=False)
class Plan(ReversePlan):
    """The part of a three-way step that does not need the network; tensors of shape [batch, length]."""

    slack: Tensor  # a row of these moves if and only if x_hat_z < slack
    to_data: Tensor  # Bool: it moves to a token of x_hat, not of the noise
    noise: Tensor  # otherwise the token drawn from the noise
    u: Tensor  # the uniform number that draws from x_hat
    limit: Tensor | None = None  # to_data holds only while x_hat_z <= limit; always by default
    off: Tensor | None = None  # indices of tokens outside the support

    def resolve(self, logits: RowLogits) -> Tokens:
        """The tokens after the step, from the leave-one-out logits of `rows` in row-major order."""
        z, slack, to_data = self.z[self.rows], self.slack[self.rows], self.to_data[self.rows]
        logits = logits.to(torch.promote_types(logits.dtype, torch.float32))
        if self.off is not None:
            logits = logits.index_fill(-1, self.off, -torch.inf)
        probs = (logits - logits.amax(-1, keepdim=True)).exp_()
        x_hat_z = (probs.gather(-1, z[:, None])[:, 0] / probs.sum(-1)).double()
        move = x_hat_z < slack
        if self.limit is not None:
            to_data = to_data & (x_hat_z <= self.limit[self.rows])
        drawn = choose(probs, self.u[self.rows])
        new = torch.where(move, torch.where(to_data, drawn, self.noise[self.rows]), z)
        return replace_tokens(self.z, self.rows, new)


def reverse_move(process: "InterpolatingProcess", z: Tokens, s: Times, t: Times) -> Move:
    r"""The masses of the reverse transition $q(z_s \mid z_t, \hat x)$, which add up to $q_t(z_t \mid \hat x)$.

        stay                keep (a_s x_hat_z + b_s(z))       keep  = alpha_{t|s}
        draw from x_hat     fresh a_s                         fresh = b_{t|s}(z_t)
        draw from noise     fresh (1 - a_s)

    **Arguments:**

    - `z`: tokens at time t.
    - `s`, `t`: s < t.
    """
    s, t = as_token_times(s, z), as_token_times(t, z)
    a_s, b_s = process.alpha(s).double(), process.noise(s)
    keep, fresh = process.factored_transition(z, s, t)
    return Move(
        data=fresh * a_s, noise=fresh * (1 - a_s), stay=keep * b_s.at(z), stay_slope=keep * a_s, draw=b_s.choose
    )


def draw_three_way(
    process: "InterpolatingProcess",
    logits: Float[Tensor, "batch length width"],
    z: Tokens,
    s: Times,
    t: Times,
    u: Float[Tensor, "batch length draws"],
    weights: Float[Tensor, "batch times parts"] | None = None,
) -> Tokens:
    r"""The reverse transition at all positions, from all logits: `reverse_move` with few operations and static shapes.

    A token moves with probability $b_{t|s}(z_t) / q_t(z_t \mid \hat x)$, to a token of x_hat with probability
    $\alpha_s$, otherwise to one of the noise; from the same uniform numbers as in `Move.plan`.

    **Arguments:** as for `NoiseProcess.draw_reverse`.
    """
    both, n = join_times(s, t, z)
    signal, noise = process.signal_and_noise(both, weights)
    (a_s, a_t), earlier = signal.split(n, 1), noise.between(0, n)
    b_s, b_t = masses_at(noise, z)
    fresh = torch.addcmul(b_t, a_t / a_s, b_s, value=-1).clamp(min=0)
    probs, at_z = logits.exp(), z.long()[..., None]
    x_hat_z = probs.gather(-1, at_z)[..., 0] / probs.sum(-1)
    moves = u[..., 0] * torch.addcmul(b_t, a_t, x_hat_z.double()) < fresh
    drawn = torch.where(1 - u[..., 1] <= a_s, choose(probs, u[..., 4]), earlier.choose(u[..., 2], u[..., 3]))
    return torch.where(moves, drawn.to(z.dtype), z)


def join_times(s: Times, t: Times, z: Tokens) -> tuple[TokenTimes, int]:
    """The times of a step side by side, s first, and the number of columns of each.

    Functions of both are evaluated at once, because an operation on an accelerator takes as long for a few numbers as for
    many.
    """
    s, t = as_token_times(s, z), as_token_times(t, z)
    s, t = (s, t) if s.shape == t.shape else torch.broadcast_tensors(s, t)
    return torch.cat([s, t], 1), s.shape[1]


def masses_at(noise: NoiseMass, z: Tokens) -> tuple[PerToken, PerToken]:
    """The masses of the tokens z at the two times of a step (`join_times`)."""
    n = noise.t.shape[1] // 2
    sides = [noise.t[:, :n], noise.t[:, n:]]
    fixed = all(getattr(part, "fixed", False) for part in noise.parts)
    at = torch.stack(
        [
            torch.stack([part.at(z, t).expand(z.shape) for part in noise.parts], -1)
            for t in (sides[:1] if fixed else sides)
        ],
        1,
    )
    earlier, later = (noise.weights.unflatten(1, (2, n)) * at).sum(-1).unbind(1)
    return earlier, later


def mass_at(noise: NoiseMass, z: Tokens) -> PerToken:
    """The mass of the tokens z, as `noise.at`, with fewer operations."""
    (weight, part), *others = zip(noise.weights.unbind(-1), noise.parts, strict=True)
    only = getattr(part, "only", None)
    if only is not None and len(others) == 1 and getattr(others[0][1], "missing", None) == only:
        each: float = getattr(others[0][1], "each")  # noqa: B009
        return torch.where(z == only, weight, others[0][0] * each)
    mass = weight * (part.at(z, noise.t) if only is None else z == only)
    for weight, part in others:
        mass = torch.addcmul(mass, weight, part.at(z, noise.t))
    return mass
