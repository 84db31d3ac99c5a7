"""The exact reverse transition: a three-way choice for factored noise, otherwise a draw from the dense posterior."""

from typing import ClassVar

from jaxtyping import Float
from torch import Tensor

from ..categorical import Randomness, uniforms
from ..typing import Times, Tokens, Variants
from .base import Sampler
from .shapes import Moved, finish, tops_of
from .tables import known_weights


class AncestralSampler(Sampler):
    r"""Draws from the reverse transition $q(z_s \mid z_t, \hat x)$ exactly.

    N steps are N transitions, from the prior at t = 1 to data at t = 0, where no noise is left. (For a process with
    noise at t = 0, such as `log_snr_hybrid`, one more jump, `clean`, removes it.)

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
    keeps_clean = True
    has_static = True
    variants: ClassVar[Variants] = {"ancestral": {}}
    law = "falls as 1/N in the number of steps N"

    def step(self, z: Tokens, t: Times, s: Times, *, generator: Randomness = None) -> Tokens:
        """One reverse transition; the network is evaluated only if some token needs it."""
        u = uniforms(*z.shape, self.process.reverse_draws, generator=generator, device=z.device)
        if self.is_static(z):
            return finish(self.move(z, t, s, u, known_weights(self.process, t, s)), t, self.denoiser)
        return self.process.plan_reverse(z, s, t, u).apply(self.denoiser, z, t)

    def move(
        self,
        z: Tokens,
        t: Times,
        s: Times,
        u: Float[Tensor, "batch length draws"],
        weights: Float[Tensor, "batch times parts"] | None = None,
    ) -> Moved:
        """One reverse transition with static shapes, from `process.reverse_draws` uniform numbers per position."""
        logits = self.denoiser.everywhere(z, t)
        top = logits.amax(-1, keepdim=True)
        return self.process.draw_reverse(logits - top, z, s, t, u, weights), tops_of(top[..., 0])
