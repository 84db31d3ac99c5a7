"""What a training loss adds to the bound: times to draw, weights of the tokens, the mean."""

from collections.abc import Callable
from typing import TypeAlias

import torch
from jaxtyping import Bool, Float, Int
from torch import Generator, Tensor

from .elbo import nelbo
from .process import InterpolatingProcess, lift

Objective: TypeAlias = Callable[[InterpolatingProcess, Tensor, Tensor, Tensor], Tensor]
"""(process, x, z, t) -> the weight of each token's divergence KL + IS, float64 [batch, length]."""


def elbo(
    process: InterpolatingProcess,
    x: Int[Tensor, "batch length"],
    z: Int[Tensor, "batch length"],
    t: Float[Tensor, "..."],
) -> Float[Tensor, "batch length"]:
    r"""The weight of the plain negative ELBO, $w_t(z, x) = r_t(z) / q_t(z \mid x)$."""
    return process.elbo_weight(x, z, t)


class Clipped:
    r"""The ELBO's weight, cut off: $\min(w_t(z, x), w_{max})$.

    **Arguments:**

    - `max_weight`: positive; 1 in the paper's ablation, 2 in the released settings.

    **Source:** von Ruette et al. (2025), arXiv 2503.04482, section 4.
    """

    def __init__(self, max_weight: float | int = 1.0):
        if not max_weight > 0:
            raise ValueError(f"max_weight must be positive; got {max_weight}")
        self.max_weight = max_weight

    def __call__(self, process: InterpolatingProcess, x: Tensor, z: Tensor, t: Tensor) -> Tensor:
        """The weight of each token."""
        return process.elbo_weight(x, z, t).clamp(max=self.max_weight)

    def __repr__(self) -> str:
        return f"Clipped({self.max_weight:g})"


class Dynamic:
    r"""GIDD's dynamic weights, as in the paper and in release v1.0.0: 2 for a mask, 1 for a wrong token, and

    $$\mathrm{scale} \cdot e^{-\gamma \lambda_t / 2}, \qquad \lambda_t = \log\frac{\alpha_t}{1 - \alpha_t}$$

    for a clean one, all cut off at `max_weight`. A mask is a token outside the process's support. To first order the
    weight of a clean token is the ELBO's, relative to that of a wrong one.

    **Arguments:**

    - `scale`: weight of a clean token where signal and noise are equal; `Dynamic.gidd` computes the published one.
    - `gamma`: as in the process.
    - `max_weight`: positive; 2 as released.

    **Source:** von Ruette et al. (2025), arXiv 2503.04482, section 4; release v1.0.0.
    """

    def __init__(self, scale: float | int, gamma: float | int = 1.0, max_weight: float | int = 2.0):
        if not (scale >= 0 and max_weight > 0):
            raise ValueError(f"scale must be non-negative and max_weight positive; got {scale} and {max_weight}")
        self.scale, self.gamma, self.max_weight = scale, gamma, max_weight

    @classmethod
    def gidd(
        cls, *, vocab_size: int, p_uniform: float | int, gamma: float | int = 1.0, max_weight: float | int = 2.0
    ) -> "Dynamic":
        """The published scale B / vocab_size for the process `noiselab.gidd` of these arguments."""
        return cls(2**gamma * p_uniform / (1 - p_uniform) / vocab_size, gamma, max_weight)

    def __call__(self, process: InterpolatingProcess, x: Tensor, z: Tensor, t: Tensor) -> Tensor:
        """The weight of each token."""
        exponent = -self.gamma / 2 * self.snr(process, lift(t, z))
        clean = self.scale * exponent.exp().expand(z.shape)
        noisy = torch.where(process.data_tokens(z.device)[z], 1.0, 2.0).to(clean)
        return torch.where(z == x, clean, noisy).clamp(max=self.max_weight)

    @staticmethod
    def snr(process: InterpolatingProcess, t: Tensor) -> Tensor:
        """The log signal-to-noise ratio, cut off at -20 and 20 as published."""
        return torch.logit(process.alpha(t)).clamp(-20, 20)

    def __repr__(self) -> str:
        return f"{type(self).__name__}(scale={self.scale:.4g}, gamma={self.gamma:g}, max_weight={self.max_weight:g})"


class DynamicV11(Dynamic):
    r"""GIDD's dynamic weights as in release v1.1.0, where $-\mathrm{sigmoid}(-t)$ stands in place of $\lambda_t$.

    Offered to reproduce that release: the weight of a clean token is nearly flat in time there, which is not the
    paper's formula.

    **Arguments:** as for `Dynamic`.

    **Source:** github.com/dvruette/gidd, release v1.1.0.
    """

    @staticmethod
    def snr(process: InterpolatingProcess, t: Tensor) -> Tensor:
        """What the release uses for the log signal-to-noise ratio."""
        return -torch.sigmoid(-t)


def objective_loss(
    process: InterpolatingProcess,
    logits: Float[Tensor, "batch length state"],
    x: Int[Tensor, "batch length"],
    z: Int[Tensor, "batch length"],
    t: Float[Tensor, "..."],
    objective: Objective = elbo,
) -> Float[Tensor, "batch length"]:
    r"""The loss of each token: its objective's weight times $KL + IS$ (see `nelbo`)."""
    return nelbo(process, logits, x, z, t, weight=objective(process, x, z, t))


def mean_over_tokens(
    loss: Float[Tensor, "batch length"],
    attention_mask: Bool[Tensor, "batch length"] | Int[Tensor, "batch length"] | None,
) -> Float[Tensor, ""]:
    """The mean over real tokens (padding does not count), or over all without a mask.

    **Arguments:**

    - `loss`: per token.
    - `attention_mask`: 1 or True for real tokens.
    """
    if attention_mask is None:
        return loss.mean()
    real = attention_mask.bool()
    return torch.where(real, loss, 0).sum() / real.sum()


def stratified_times(
    count: int,
    *,
    shift: float | int | Float[Tensor, ""] | None = None,
    first: int = 0,
    total: int | None = None,
    low: float | int = 0.0,
    high: float | int = 1.0,
    generator: Generator | None = None,
) -> Float[Tensor, " batch"]:
    r"""Low-discrepancy times: $t_i = low + (high - low)\,((u + i / n) \bmod 1)$, one in each of n equal intervals.

    **Arguments:**

    - `count`: how many times are wanted here.
    - `shift`: the common u in [0, 1); drawn from `generator` by default.
    - `first`, `total`: the number of the first of them, and n, where the set is shared with other processes or
      micro-steps (which then need the same `shift`).
    - `low`, `high`: the time range.

    **Returns:** float64. For reporting a bound, even times have heavy tails where noise goes as a square root at the ends;
    `noiselab.evaluation.validation_bound` changes the clock.

    **Source:** Kingma et al. (2021), "Variational Diffusion Models", arXiv 2107.00630, appendix I.1.
    """
    if shift is None:
        home = None if generator is None else generator.device
        shift = torch.rand((), dtype=torch.float64, generator=generator, device=home).cpu()
    index = first + torch.arange(count, dtype=torch.float64)
    return low + (high - low) * ((shift + index / (total or count)) % 1)
