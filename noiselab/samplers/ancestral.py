r"""The reverse step as an exact three-way choice: keep, a token of x_hat, a token of the noise.

The reverse transition $q(z_s \mid z_t, \hat x)$ is a mixture of three moves, whose masses add up to
$q_t(z_t \mid \hat x)$:

    keep z_t            keep (a_s x_hat_z + b_s(z))       keep  = alpha_{t|s}
    draw from x_hat     fresh a_s                         fresh = b_{t|s}(z_t)
    draw from noise     fresh (1 - a_s)

Whether a token moves depends on the network only through x_hat_z >= 0, and where it moves to, not at all. So `plan` asks
first whether it moves even if x_hat_z = 0: a uniform number that keeps it then settles it, and `finish` needs the
network's output at the few remaining rows only.
"""

from typing import NamedTuple

import torch
from jaxtyping import Float, Int
from torch import Tensor

from ..categorical import Randomness, choose, uniforms
from ..denoisers import Denoiser
from ..elbo.tokens import outside
from ..process import InterpolatingProcess, NoiseProcess, lift
from .base import Sampler

DRAWS = 5  # uniform numbers per position and step


class Plan(NamedTuple):
    """All of a reverse step that needs no network; tensors of shape [batch, length]."""

    z: Tensor  # the result so far: kept tokens, and draws from the noise that are settled
    rows: Tensor  # Bool: where x_hat is needed
    slack: Tensor  # a row of these moves if and only if x_hat_z < slack
    to_data: Tensor  # Bool: it moves to a token of x_hat, not of the noise
    noise: Tensor  # the token it takes from the noise otherwise
    u: Tensor  # the uniform number that draws from x_hat


def plan(
    process: InterpolatingProcess,
    z: Int[Tensor, "batch length"],
    s: Float[Tensor, "..."],
    t: Float[Tensor, "..."],
    u: Float[Tensor, "batch length draws"],
) -> Plan:
    """Decide what can be decided without the network.

    **Arguments:**

    - `z`: tokens at time t.
    - `s`, `t`: s < t.
    - `u`: five uniform numbers a position, float64.
    """
    s, t = lift(s, z), lift(t, z)
    a_s, b_s = process.alpha(s), process.noise(s)
    keep, fresh = process.jump(z, s, t)
    # move  <=>  u (fresh + keep (a_s x_hat_z + b_s(z))) < fresh  <=>  x_hat_z < slack
    slack = (fresh * (1 / u[..., 0].clamp(min=2**-54) - 1) / keep - b_s.at(z)) / a_s
    slack = torch.where(fresh > 0, torch.where(keep > 0, slack, torch.inf), -torch.inf)
    may_move, in_data = slack > 0, process.data_tokens(z.device)[z]
    to_data = u[..., 1] >= 1 - a_s
    noise = torch.where(may_move & ~to_data, b_s.choose(u[..., 2], u[..., 3]), z)
    # Off the support x_hat_z is zero, so that a token which may move does.
    settled = may_move & ~to_data & ~in_data
    return Plan(torch.where(settled, noise, z), may_move & ~settled, slack, to_data, noise, u[..., 4])


def finish(plan: Plan, logits: Float[Tensor, "rows state"], off: Tensor | None = None) -> Int[Tensor, "batch length"]:
    """The tokens at time s, from the leave-one-out logits of `plan.rows` in row-major order.

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
    drawn = choose(probs, plan.u[plan.rows])
    new = torch.where(move, torch.where(to_data, drawn, plan.noise[plan.rows]), z)
    return plan.z.masked_scatter(plan.rows, new)


def dense_step(
    process: NoiseProcess,
    denoiser: Denoiser,
    z: Int[Tensor, "batch length"],
    s: Float[Tensor, "..."],
    t: Float[Tensor, "..."],
    *,
    generator: Randomness = None,
) -> Int[Tensor, "batch length"]:
    """One reverse transition of any process, drawn from its dense posterior; revealed tokens need no network."""
    s, t = (lift(time, z).expand(z.shape) for time in (s, t))
    u = uniforms(*z.shape, generator=generator, device=z.device)
    rows = ~process.reveals(z, t) & (s < t)
    if not rows.any():
        return z
    logits = denoiser(z, t, rows)
    if process.support is not None:
        logits = logits.masked_fill(~process.support, -torch.inf)
    x_hat = logits.double().softmax(-1)[:, None]
    law = process.posterior(z[rows][:, None], x_hat, s[rows], t[rows])[:, 0]
    return z.masked_scatter(rows, choose(law, u[rows]))


class AncestralSampler(Sampler):
    r"""Draws from the reverse transition $q(z_s \mid z_t, \hat x)$ exactly.

    N steps are N transitions, from the prior at t = 1 to data at t = 0: no mask and no other noise is left at the end. (A
    process that has some noise even at t = 0, such as `log_snr_hybrid`, is left by one more jump, `clean`.)

    **Source:** Austin et al. (2021), arXiv 2107.03006, for the plug-in reverse transition; the three-way form is
    derived on the theory page.

    **Example:**

    ```python
    import torch
    import noiselab as nl

    process = nl.gidd(vocab_size=3, mask_id=2, p_uniform=0.1)
    oracle = nl.MarkovOracle(torch.tensor([0.5, 0.5]), torch.tensor([[0.9, 0.1], [0.2, 0.8]]), process)
    sampler = nl.AncestralSampler(process, oracle)
    x = sampler.sample((4, 8), steps=16, generator=torch.Generator().manual_seed(0))
    assert (x < 2).all()
    ```
    """

    def step(
        self,
        z: Int[Tensor, "batch length"],
        t: Float[Tensor, "..."],
        s: Float[Tensor, "..."],
        *,
        generator: Randomness = None,
    ) -> Int[Tensor, "batch length"]:
        """One reverse transition; the network is not called where no token needs it."""
        if not isinstance(self.process, InterpolatingProcess):
            return dense_step(self.process, self.denoiser, z, s, t, generator=generator)
        u = uniforms(*z.shape, DRAWS, generator=generator, device=z.device)
        plan_ = plan(self.process, z, s, t, u)
        if not plan_.rows.any():
            return plan_.z
        return finish(plan_, self.denoiser(z, t, plan_.rows), outside(self.process))
