"""The corrector of discrete flow matching: forward and backward jumps at the same time."""

from typing import ClassVar

import torch
from torch import Tensor

from ..categorical import Randomness, choose, uniforms
from ..denoisers import Denoiser
from ..numerics import UNIFORMS_PER_MOVE, require_number
from ..process import InterpolatingProcess, NoiseProcess
from ..samplers.tau_leaping import JumpPlan, expected_jumps
from ..typing import Selection, Times, Tokens, Variants
from .base import Corrector, as_selection


class DFMCorrector(Corrector):
    r"""One Euler step of the chain with the sum of the forward and backward rates at time t.

    $$z \to y \;\text{ at rate }\; r_t(y) + r_t(z)\, \frac{q_t(y \mid \hat x)}{q_t(z \mid \hat x)}, \qquad h = \text{size} \cdot (1 - \alpha_t) / R_t$$

    This chain leaves the distribution at t invariant, and satisfies detailed balance for a single token.
    $R_t = -\alpha_t'/\alpha_t$ is the sum of all forward rates, so that a step corrupts each token with probability
    size $(1 - \alpha_t)$, independently of the schedule: a fraction `size` of the number of tokens that are noise at t.
    The same number is restored on average.

    The method is of first order: all tokens of a step jump simultaneously, from the same predictions, so that the bias
    decreases with the size but does not vanish, and `converges` is False. The distribution of a single token is exactly
    invariant, unless its jump probabilities sum to more than 1: never for absorbing noise, not up to size 1/2 for
    uniform noise. Backward jumps then have the probability that the forward ones leave.

    **Arguments:**

    - `process`: a process with state-independent corruption (`InterpolatingProcess`).
    - `denoiser`: a denoiser of any prediction type.
    - `size`: the size of a step, in (0, 1].

    **Raises:** `ValueError` if the size is out of range, or the process has state-dependent corruption.

    **Source:** Campbell et al. (2022), arXiv 2205.14987, for the sum of both rates; Gat et al. (2024), arXiv 2407.15595,
    and Campbell et al. (2024), arXiv 2402.04997, who add it to the steps of a sampler. The unit of `size` is new here.

    **Example:**

    ```python
    import torch
    import noiselab as nl

    process = nl.gidd(vocab_size=3, mask_id=2, p_uniform=0.1)
    oracle = nl.MarkovOracle(torch.tensor([0.5, 0.5]), torch.tensor([[0.9, 0.1], [0.2, 0.8]]), process)
    corrector, t = nl.correctors.DFMCorrector(process, oracle, size=0.2), torch.tensor([0.5])
    z = process.prior(1, 8)
    for _ in range(10):
        z = corrector.step(z, t)
    ```
    """  # noqa: E501

    kind = "dfm"
    process: InterpolatingProcess
    takes = InterpolatingProcess
    variants: ClassVar[Variants] = {"DFM corrector": {}}
    changes = "tokens that jump by the forward or the backward rates, simultaneously"
    law = "to first order in `size`"

    def __init__(self, process: NoiseProcess, denoiser: Denoiser, size: float | int = 0.1):
        require_number("size", size, 0, 1, above=True)
        super().__init__(process, denoiser)
        self.size = size

    def step(self, z: Tokens, t: Times, *, rows: Selection | None = None, generator: Randomness = None) -> Tokens:
        """The tokens after the jumps of one step; the network is evaluated only at tokens that may jump back."""
        process, rows, time = self.process, as_selection(rows, z), self.process.interior(t, z)
        u = uniforms(*z.shape, 2 + UNIFORMS_PER_MOVE, generator=generator, device=z.device)
        noise, rate = process.noise(time), _total_rate(process, time)
        # Without forward jumps there are no backward jumps.
        up = torch.where(rate > 0, self.size * noise.total(), 0)
        into_z = torch.where(rate > 0, up / rate * process.rate_into(z, time).clamp(min=0), 0)  # h r(z)
        # Neither a forward nor a backward jump leads from z to itself.
        noised, left = rows & (u[..., 0] < up - into_z), 1 - up + into_z
        flow, at_z = torch.where(into_z > 0, into_z / left, 0).expand(z.shape), noise.at(z).expand(z.shape)
        moving = rows & ~noised & (u[..., 2] < _at_most_one(expected_jumps(flow, at_z)))
        time = time.expand(z.shape)
        new = JumpPlan(z, moving, process, _at_most_one, time, flow, at_z, u[..., 2:]).apply(self.denoiser, z, t)
        if not noised.any():
            return new
        at, there = time[noised][:, None], z[noised][:, None]
        tokens = torch.arange(process.vocab_size, device=z.device).expand(len(at), -1)
        rates = process.rate_into(tokens, at).clamp(min=0).scatter(-1, there, 0)
        return new.masked_scatter(noised, choose(rates, u[..., 1][noised]))

    def extra_repr(self) -> str:
        """The settings, for `repr`."""
        return f"size={self.size:g}"


def _at_most_one(expected: Tensor) -> Tensor:
    """The probability of a jump in an Euler step."""
    return expected.clamp(max=1)


def _total_rate(process: InterpolatingProcess, t: Tensor) -> Tensor:
    """The rate at which a token is replaced by noise, including itself: the sum of the forward rates, -alpha' / alpha."""
    alpha, slope, *_ = torch.func.jvp(lambda t: process.alpha(t).double(), (t,), (torch.ones_like(t),))
    return -slope / alpha
