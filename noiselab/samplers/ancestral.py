r"""The reverse step as an exact three-way choice: keep, a token of x_hat, a token of the noise.

The reverse transition $q(z_s \mid z_t, \hat x)$ is a mixture of three moves, whose masses add up to
$q_t(z_t \mid \hat x)$:

    keep z_t            keep (a_s x_hat_z + b_s(z))       keep  = alpha_{t|s}
    draw from x_hat     fresh a_s                         fresh = b_{t|s}(z_t)
    draw from noise     fresh (1 - a_s)

`moves.py` decides as much of it as can be without the network.
"""

import torch
from jaxtyping import Float
from torch import Tensor

from ..categorical import Randomness, choose, uniforms
from ..denoisers import Denoiser
from ..process import InterpolatingProcess, NoiseProcess, as_token_times
from ..typing import Times, Tokens
from .base import Sampler
from .three_way import DRAWS, Move, Plan, carry_out, decide


def plan(process: InterpolatingProcess, z: Tokens, s: Times, t: Times, u: Float[Tensor, "batch length draws"]) -> Plan:
    """Decide what can be decided without the network.

    **Arguments:**

    - `z`: tokens at time t.
    - `s`, `t`: s < t.
    - `u`: five uniform numbers a position, float64.
    """
    return decide(reverse_move(process, z, s, t), z, u, process.data_tokens(z.device)[z])


def reverse_move(process: InterpolatingProcess, z: Tokens, s: Times, t: Times) -> Move:
    """The masses of the reverse transition from t to s < t; arguments as for `plan`."""
    s, t = as_token_times(s, z), as_token_times(t, z)
    a_s, b_s = process.alpha(s).double(), process.noise(s)
    keep, fresh = process.transition(z, s, t)
    return Move(
        data=fresh * a_s, noise=fresh * (1 - a_s), stay=keep * b_s.at(z), stay_slope=keep * a_s, draw=b_s.choose
    )


def dense_step(
    process: NoiseProcess, denoiser: Denoiser, z: Tokens, s: Times, t: Times, *, generator: Randomness = None
) -> Tokens:
    """One reverse transition of any process, drawn from its dense posterior; revealed tokens need no network."""
    s, t = (as_token_times(time, z).expand(z.shape) for time in (s, t))
    u = uniforms(*z.shape, generator=generator, device=z.device)
    rows = ~process.is_clean(z, t) & (s < t)
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

    converges = True

    def step(self, z: Tokens, t: Times, s: Times, *, generator: Randomness = None) -> Tokens:
        """One reverse transition; the network is not called where no token needs it."""
        if not isinstance(self.process, InterpolatingProcess):
            return dense_step(self.process, self.denoiser, z, s, t, generator=generator)
        u = uniforms(*z.shape, DRAWS, generator=generator, device=z.device)
        plan_ = plan(self.process, z, s, t, u)
        return carry_out(plan_, self.process, self.denoiser, z, t)
