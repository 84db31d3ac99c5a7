"""The ReMDM loop: remasking at constant time."""

from typing import ClassVar, Literal

import torch

from ..categorical import Randomness, uniforms
from ..denoisers import Denoiser
from ..numerics import UNIFORMS_PER_MOVE, require_number
from ..process import InterpolatingProcess, NoiseProcess, as_token_times
from ..samplers.remasking import remasking_move
from ..typing import Selection, Times, Tokens, Variants
from .base import Corrector, as_selection

Remasking = Literal["cap", "rescale", "confidence"]


class RemaskingCorrector(Corrector):
    r"""The ReMDM loop: at constant time, each token is resampled from $q_t(\cdot \mid x)$ with some probability.

    With probability $1 - \kappa = \sigma / (1 - \alpha_t)$ a token is replaced by a draw from $q_t(\cdot \mid x)$, with
    x from its posterior. For absorbing noise, visible tokens are masked with probability $\sigma$, and the same number
    of masks is filled on average. With one token at a time the distribution of noisy sequences is invariant; tokens
    drawn in the same step are drawn independently of each other, which is an approximation.

    **Arguments:**

    - `process`: a process with state-independent corruption.
    - `denoiser`: a denoiser of any prediction type.
    - `amount`: $\sigma$ in [0, 1], limited to $1 - \alpha_t$.

    **Raises:** `ValueError` if the amount is out of range, or the process has state-dependent corruption.

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
    known_as = "ReMDM loop"
    changes = "tokens that become noise and are predicted again"
    law = "exactly with one token at a time; not as ReMDM's loop"

    def __init__(self, process: NoiseProcess, denoiser: Denoiser, *, amount: float | int = 0.02):
        super().__init__(process, denoiser)
        self.amount = require_number("amount", amount, 0, 1)

    @torch.no_grad()
    def step(self, z: Tokens, t: Times, *, rows: Selection | None = None, generator: Randomness = None) -> Tokens:
        """One round over all tokens."""
        u = uniforms(*z.shape, UNIFORMS_PER_MOVE, generator=generator, device=z.device)
        t = as_token_times(t, z)
        noisy = self.process.noise(t).total()
        kappa = torch.where(noisy > 0, 1 - self.amount / torch.where(noisy > 0, noisy, 1), 1).clamp(min=0)
        kappa = kappa.expand(z.shape) if rows is None else torch.where(as_selection(rows, z), kappa, 1)
        plan = remasking_move(self.process, z, t, t, kappa).plan(self.process, z, u)
        return plan.apply(self.denoiser, z, t)

    def extra_repr(self) -> str:
        """The settings, for `repr`."""
        return f"amount={self.amount:g}"
