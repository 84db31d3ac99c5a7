r"""Steps of the continuous-time reverse Markov chain with rates that are held fixed during a step.

$$R_t(z \to y) = r_t(z)\, \frac{q_t(y \mid \hat x)}{q_t(z \mid \hat x)}, \qquad y \ne z$$

The reverse transition of `AncestralSampler` holds only $\hat x$ fixed and is otherwise exact; these samplers also hold
the rates fixed. (The "analytic" step of SEDD is the ancestral step, written with scores.)
"""

from typing import ClassVar

import torch

from ..categorical import Randomness, uniforms
from ..denoisers import Denoiser
from ..numerics import UNIFORMS_PER_MOVE
from ..process import InterpolatingProcess, NoiseProcess, as_token_times
from ..process.three_way import Move, reverse_move
from ..typing import PerToken, Times, Tokens, Variants
from .base import Sampler


class EulerSampler(Sampler):
    r"""Euler steps of the reverse chain: a token jumps to y with probability $(t - s) R_t(z \to y)$, and otherwise
    stays.

    If these probabilities sum to more than 1, the token always jumps. The last step, to the lower end of the domain, is
    the jump to clean tokens, because an Euler step can leave noise. The error decreases as 1/N, but is larger than that
    of the ancestral step.

    **Arguments:**

    - `process`: a process with state-independent corruption.
    - `denoiser`: a denoiser of any prediction type.

    **Raises:** `ValueError` for state-dependent corruption.

    **Source:** Campbell et al. (2022), arXiv 2205.14987; Lou et al. (2024), arXiv 2310.16834, section 4.1.

    **Example:**

    ```python
    import torch
    import noiselab as nl

    process = nl.uniform(vocab_size=2)
    oracle = nl.MarkovOracle(torch.tensor([0.5, 0.5]), torch.tensor([[0.9, 0.1], [0.2, 0.8]]), process)
    x = nl.samplers.EulerSampler(process, oracle).sample((4, 8), steps=16)
    ```
    """

    process: InterpolatingProcess
    takes = InterpolatingProcess
    converges = True
    variants: ClassVar[Variants] = {"Euler": {}}
    law = "falls with N, but larger"

    def __init__(self, process: NoiseProcess, denoiser: Denoiser):
        super().__init__(process, denoiser)

    def odds(self, u: PerToken) -> PerToken:
        """The factor by which expected jumps are compared with q(z): a token jumps if u < h R for one uniform number."""
        return 1 / u.clamp(min=2**-54)

    def step(self, z: Tokens, t: Times, s: Times, *, generator: Randomness = None) -> Tokens:
        """One step; the network is evaluated only at tokens that may jump."""
        process = self.process
        u = uniforms(*z.shape, UNIFORMS_PER_MOVE, generator=generator, device=z.device)
        s, t = as_token_times(s, z), as_token_times(t, z)
        inside = process.interior(t, z)
        alpha, noise = process.alpha(inside).double(), process.noise(inside)
        jumps = (t - s) * process.rate_into(z, inside).clamp(min=0)
        move = Move(alpha * jumps, (1 - alpha) * jumps, noise.at(z), alpha, noise.choose)
        odds = self.odds(u[..., 0])
        last = (s <= process.domain[0]) & (s < t)
        if last.any():
            final, odds = reverse_move(process, z, s, t), torch.where(last, 1 / u[..., 0].clamp(min=2**-54) - 1, odds)
            move = Move(
                data=torch.where(last, final.data, move.data),
                noise=torch.where(last, final.noise, move.noise),
                stay=torch.where(last, final.stay, move.stay),
                stay_slope=torch.where(last, final.stay_slope, move.stay_slope),
                draw=lambda u, which: torch.where(last, final.draw(u, which), noise.choose(u, which)),
            )
        plan = move.plan(process, z, u, odds)
        return plan.apply(self.denoiser, z, t)


class TauLeapingSampler(EulerSampler):
    r"""Tau-leaping: a token does not change with probability $e^{-(t - s) R_t(z)}$; otherwise it takes its first jump.

    With fixed rates, jumps are a Poisson process; a token that would jump more than once takes only the first jump.
    Probabilities never exceed 1. Otherwise it equals `EulerSampler`.

    **Arguments:** as for `EulerSampler`.

    **Source:** Gillespie (2001); Campbell et al. (2022), arXiv 2205.14987, who also reject further jumps.

    **Example:**

    ```python
    import torch
    import noiselab as nl

    process = nl.masked(vocab_size=3, mask_id=2)
    oracle = nl.MarkovOracle(torch.tensor([0.5, 0.5]), torch.tensor([[0.9, 0.1], [0.2, 0.8]]), process)
    x = nl.samplers.TauLeapingSampler(process, oracle).sample((4, 8), steps=16)
    assert (x < 2).all()
    ```
    """

    variants: ClassVar[Variants] = {"tau-leaping": {}}

    def odds(self, u: PerToken) -> PerToken:
        """The factor for 1 - exp(-h R): h R is compared with an exponential variable."""
        return 1 / -torch.log1p(-u).clamp(max=-(2**-54))
