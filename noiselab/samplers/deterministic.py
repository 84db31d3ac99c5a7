r"""DDIM for tokens: steps with as little randomness as the marginals allow.

$$\sigma\, 1[z_s = z_t] + (\alpha_s - \sigma \alpha_t)\, 1[z_s = x] + (b_s - \sigma b_t)(z_s)$$

has the marginal $q_s(\cdot \mid x)$ for every x and $\sigma$. With a prediction for x this is a three-way choice with
masses that are linear in x_hat_z (`three_way.py`).
"""

from typing import ClassVar

import torch

from ..categorical import Randomness, uniforms
from ..denoisers import Denoiser
from ..numerics import UNIFORMS_PER_MOVE, require_number
from ..process import InterpolatingProcess, NoiseProcess, as_token_times
from ..process.three_way import Move
from ..typing import Times, Tokens, Variants
from .base import Sampler


class DeterministicSampler(Sampler):
    r"""Each token keeps its value or takes one from the prediction, with as little new noise as possible.

    $$\sigma\, 1[z_s = z_t] + (\alpha_s - \sigma \alpha_t)\, \hat p(z_s) + (b_s - \sigma b_t)(z_s), \qquad
    \sigma = \text{share} \cdot \min\Big(\frac{1 - \alpha_s}{1 - \alpha_t}, \frac{\alpha_s}{\alpha_t}\Big)$$

    $\hat p$ is the posterior. With `share` 1 no noise is drawn: a token keeps its value or takes one from the
    prediction. The step is defined for time-constant mixings. For absorbing noise, share 1 is the ancestral step; for
    uniform noise it draws no new noise, unlike the ancestral step. With share 1 the distribution converges to that of
    the data. With a smaller share it does not, because every token is resampled with some probability at every step,
    however short.

    **Arguments:**

    - `process`: a process with a time-constant mixing.
    - `denoiser`: a denoiser of any prediction type.
    - `share`: the fraction of the maximal $\sigma$, in [0, 1].

    **Raises:** `ValueError` if the mixing depends on time, the share is out of range, or the process has
    state-dependent corruption.

    **Source:** Song et al. (2021), DDIM, arXiv 2010.02502, appendix A.

    **Example:**

    ```python
    import torch
    import noiselab as nl

    process = nl.uniform(vocab_size=2)
    oracle = nl.MarkovOracle(torch.tensor([0.5, 0.5]), torch.tensor([[0.9, 0.1], [0.2, 0.8]]), process)
    x = nl.samplers.DeterministicSampler(process, oracle).sample((4, 8), steps=16)
    ```
    """

    process: InterpolatingProcess
    takes = InterpolatingProcess
    variants: ClassVar[Variants] = {"deterministic": {}, "deterministic, half": {"share": 0.5}}
    known_as = "DDIM"
    law = "falls with N; does not for `share` < 1"

    def __init__(self, process: NoiseProcess, denoiser: Denoiser, *, share: float | int = 1.0):
        super().__init__(process, denoiser)
        require_number("share", share, 0, 1)
        low, high = process.domain
        middle = low + (high - low) * torch.tensor([[0.1], [0.4], [0.9]], dtype=torch.float64, device=self.device)
        noise = self.process.noise(middle)
        row = noise.dense() / noise.total()[..., None]
        if (row - row[:1]).abs().max() > 1e-6:
            raise ValueError(f"DeterministicSampler needs a time-constant mixing; that of {process} depends on time")
        self.share, self.converges = share, share == 1

    def step(self, z: Tokens, t: Times, s: Times, *, generator: Randomness = None) -> Tokens:
        """One step."""
        process = self.process
        u = uniforms(*z.shape, UNIFORMS_PER_MOVE, generator=generator, device=z.device)
        s, t = as_token_times(s, z), as_token_times(t, z)
        a_s, b_s, a_t, b_t = process.alpha(s).double(), process.noise(s), process.alpha(t).double(), process.noise(t)
        total = b_t.total()
        stick = torch.minimum(
            b_s.total() / torch.where(total > 0, total, 1), a_s / torch.where(a_t > 0, a_t, 1).clamp(min=1e-300)
        )
        stick = torch.where(s < t, self.share * stick, 1)
        gain = torch.where(s < t, (a_s - stick * a_t).clamp(min=0), 0)
        drawn = b_s.total() - stick * total
        drawn = torch.where((s < t) & (drawn > 1e-14), drawn, 0)  # rounding error of a difference of equal numbers
        b = b_t.at(z)
        seen = b == 0  # x_hat_z is 1 for tokens known to be clean
        move = Move(
            data=gain * b,
            noise=torch.where(seen, drawn, drawn * b),
            stay=torch.where(seen, stick + gain, stick * b),
            stay_slope=torch.where(seen, 0, (stick + gain) * a_t),
            draw=b_s.choose,
            noise_slope=torch.where(seen, 0, drawn * a_t),
        )
        plan = move.plan(process, z, u)
        return plan.apply(self.denoiser, z, t)

    def extra_repr(self) -> str:
        """The settings, for `repr`."""
        return f"share={self.share:g}"
