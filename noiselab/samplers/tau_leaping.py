r"""Steps of the continuous-time reverse Markov chain with rates that are held fixed during a step.

$$R_t(z \to y) = r_t(z)\, \frac{q_t(y \mid \hat x)}{q_t(z \mid \hat x)}, \qquad y \ne z, \qquad
R_t(z) = \sum_{y \ne z} R_t(z \to y) = r_t(z) \Big( \frac{1}{q_t(z \mid \hat x)} - 1 \Big)$$

The reverse transition of `AncestralSampler` holds only $\hat x$ fixed and is otherwise exact; these samplers also hold
the rates fixed. (The "analytic" step of SEDD is the ancestral step, written with scores.)
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from ..categorical import Randomness, choose, replace_tokens, uniforms
from ..denoisers import Denoiser
from ..numerics import UNIFORMS_PER_MOVE
from ..process import InterpolatingProcess, NoiseProcess, as_token_times
from ..process.plans import ReversePlan
from ..typing import PerToken, RowLogits, Times, Tokens, TokenTimes, Variants
from .base import Sampler


class EulerSampler(Sampler):
    r"""Euler steps of the reverse chain: a token jumps to y != z with probability $(t - s) R_t(z \to y)$, and
    otherwise stays.

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

    def jump_probability(self, expected: Tensor) -> Tensor:
        """The probability that a token jumps in a step, from h R, the number of jumps that the rates let expect."""
        return expected.clamp(max=1)

    def step(self, z: Tokens, t: Times, s: Times, *, generator: Randomness = None) -> Tokens:
        """One step; the network is evaluated only at tokens that may jump."""
        u = uniforms(*z.shape, UNIFORMS_PER_MOVE, generator=generator, device=z.device)
        s, t = (as_token_times(time, z).expand(z.shape) for time in (s, t))
        last = (s <= self.process.domain[0]) & (s < t)
        jumps = self._plan(z, torch.where(last, t, s), t, u)
        if not last.any():
            return jumps.apply(self.denoiser, z, t)
        final = self.process.plan_reverse(z, torch.where(last, s, t), t, u)
        return _BothPlans(torch.where(last, final.z, z), final.rows | jumps.rows, final, jumps).apply(
            self.denoiser, z, t
        )

    def _plan(self, z: Tokens, s: TokenTimes, t: TokenTimes, u: Tensor) -> "JumpPlan":
        inside = self.process.interior(t, z)
        at_z = self.process.noise(inside).at(z).expand(z.shape)
        flow = ((t - s) * self.process.rate_into(z, inside).clamp(min=0)).expand(z.shape)
        # q(z) is least where the prediction has no mass on z; a number that keeps the token then, keeps it always.
        rows = u[..., 0] < self.jump_probability(expected_jumps(flow, at_z))
        return JumpPlan(z, rows, self.process, self.jump_probability, inside.expand(z.shape), flow, at_z, u)


@dataclass(frozen=True, eq=False)
class JumpPlan(ReversePlan):
    """Jumps along fixed rates; tensors of shape [batch, length], `u` with five numbers for each token."""

    process: InterpolatingProcess
    probability: Callable[[Tensor], Tensor]  # of a jump, from the number of jumps to expect
    t: TokenTimes
    flow: PerToken  # h r(z)
    noise_at_z: PerToken
    u: Tensor

    def resolve(self, logits: RowLogits) -> Tokens:
        """Tokens that jump go to y != z with probability R(z -> y) / R(z)."""
        process, z, t, u = self.process, self.z[self.rows], self.t[self.rows], self.u[self.rows]
        logits = logits.to(torch.promote_types(logits.dtype, torch.float32))
        x_hat, there = process.on_support(logits).softmax(-1), z[:, None]
        alpha, b_z, x_hat_z = (
            process.alpha(t).double(),
            self.noise_at_z[self.rows],
            x_hat.gather(-1, there)[:, 0].double(),
        )
        moves = u[:, 0] < self.probability(expected_jumps(self.flow[self.rows], alpha * x_hat_z + b_z))
        # q(y) without z is a mixture of the prediction and the noise, each without z.
        clean, noise = alpha * (1 - x_hat_z), (1 - alpha) - b_z
        from_noise = moves & (u[:, 1] * (clean + noise) >= clean)
        new = torch.where(moves, choose(x_hat.scatter(-1, there, 0), u[:, 4]), z)
        if from_noise.any():
            law = process.noise(t[from_noise, None]).dense()[:, 0].scatter(-1, there[from_noise], 0)
            new = new.masked_scatter(from_noise, choose(law, u[from_noise, 2]))
        return replace_tokens(self.z, self.rows, new)


@dataclass(frozen=True, eq=False)
class _BothPlans(ReversePlan):
    """Tokens that end in this step, beside tokens that jump; the network is evaluated once for both."""

    final: ReversePlan
    jumps: ReversePlan

    def resolve(self, logits: RowLogits) -> Tokens:
        """The tokens of both plans."""
        z = self.z
        for plan in (self.final, self.jumps):
            if plan.rows.any():
                z = torch.where(plan.rows, plan.resolve(logits[plan.rows[self.rows]]), z)
        return z


def expected_jumps(flow: Tensor, q_z: Tensor) -> Tensor:
    """The number of jumps to expect, h r(z) (1 / q(z) - 1): 0 without a rate, infinite where z is impossible."""
    return torch.where(flow > 0, flow * (1 / q_z - 1).clamp(min=0), 0.0)


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

    def jump_probability(self, expected: Tensor) -> Tensor:
        """1 - exp(-h R)."""
        return -torch.expm1(-expected)
