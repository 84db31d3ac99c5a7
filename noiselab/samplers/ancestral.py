"""The reverse transition, drawn exactly: three-way where the noise has factors, from the dense posterior elsewhere."""

import torch

from ..categorical import Randomness, choose, uniforms
from ..denoisers import Denoiser
from ..process import InterpolatingProcess, NoiseProcess, as_token_times
from ..typing import Times, Tokens
from .base import Sampler
from .three_way import UNIFORMS_PER_MOVE, reverse_move


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
        u = uniforms(*z.shape, UNIFORMS_PER_MOVE, generator=generator, device=z.device)
        plan = reverse_move(self.process, z, s, t).plan(self.process, z, u)
        return plan.apply(self.process, self.denoiser, z, t)
