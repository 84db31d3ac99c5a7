"""Remasking of samples at their own time."""

from typing import ClassVar, Literal

import torch

from ..categorical import Randomness, uniforms
from ..denoisers import Denoiser
from ..process import InterpolatingProcess, NoiseProcess, as_token_times
from ..process.three_way import UNIFORMS_PER_MOVE
from ..samplers.remasking import remasking_move
from ..typing import Selection, Times, Tokens, Variants
from .base import Corrector

Remasking = Literal["cap", "rescale", "confidence"]


class RemaskingCorrector(Corrector):
    r"""ReMDM's loop: at a time that stands still, each token is drawn anew from $q_t(\cdot \mid x)$ by chance.

    With probability $1 - \kappa = \sigma / (1 - \alpha_t)$ a token is replaced by noise at t of a clean token from its
    posterior: for masking, a visible token is masked with probability $\sigma$, and as many masks are filled. One token at a
    time this leaves the law of noisy sequences alone; tokens drawn in the same step do not see each other's change.

    **Arguments:**

    - `process`: one whose noise forgets what it destroys.
    - `denoiser`: of any parametrisation.
    - `amount`: $\sigma$ in [0, 1], at most $1 - \alpha_t$.

    **Raises:** `ValueError` for another amount, or token-dependent noise.

    **Source:** Wang et al. (2025), ReMDM, arXiv 2503.00307, section 4 (loop).

    **Example:**

    ```python
    import torch
    import noiselab as nl

    process = nl.masked(vocab_size=3, mask_id=2)
    oracle = nl.MarkovOracle(torch.tensor([0.5, 0.5]), torch.tensor([[0.9, 0.1], [0.2, 0.8]]), process)
    loop = nl.correctors.RemaskingCorrector(process, oracle, amount=0.05)
    ancestral = nl.AncestralSampler(process, oracle)
    sampler = nl.PredictorCorrector(ancestral, loop, when=(0.4, 0.6), repeats=8)
    assert (sampler.sample((4, 8), steps=16) < 2).all()
    ```
    """

    kind = "remask"
    process: InterpolatingProcess
    takes = InterpolatingProcess
    variants: ClassVar[Variants] = {"remasking loop": {"amount": 0.05}}
    law = "exactly with one token at a time; not as ReMDM's loop"

    def __init__(self, process: NoiseProcess, denoiser: Denoiser, *, amount: float | int = 0.02):
        super().__init__(process, denoiser)
        if not 0 <= amount <= 1:
            raise ValueError(f"amount must lie in [0, 1]; got {amount}")
        self.amount = amount

    @torch.no_grad()
    def step(self, z: Tokens, t: Times, *, rows: Selection | None = None, generator: Randomness = None) -> Tokens:
        """One round over all tokens."""
        u = uniforms(*z.shape, UNIFORMS_PER_MOVE, generator=generator, device=z.device)
        t = as_token_times(t, z)
        noisy = self.process.noise(t).total()
        kappa = torch.where(noisy > 0, 1 - self.amount / torch.where(noisy > 0, noisy, 1), 1).clamp(0, 1)
        kappa = kappa.expand(z.shape) if rows is None else torch.where(rows, kappa, 1)
        plan = remasking_move(self.process, z, t, t, kappa).plan(self.process, z, u)
        return plan.apply(self.denoiser, z, t)

    def extra_repr(self) -> str:
        """What it is set to."""
        return f"amount={self.amount:g}"
