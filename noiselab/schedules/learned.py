"""Learned schedules: a monotone curve from 1 to 0, and a positive constant."""

import math

import torch
from torch import Tensor, nn

from ..exact import Exact
from ..numerics import require_count, require_number
from ..typing import Elementwise
from .base import Schedule

MAX_STEEPNESS = 256.0  # of a step: a learned jump between two evaluated times would falsify the bound


class MonotoneNetwork(Exact, Schedule):
    r"""A learned monotone curve, by default a signal from exactly 1 at t = 0 to exactly 0 at t = 1.

    One hidden layer with positive weights, normalised unit by unit: a mixture of t and of logistic steps, each restricted
    to [0, 1] and rescaled to range from 0 to 1.

    $$1 - \alpha_t = p_0 t + \sum_k p_k \frac{\sigma(c_k (t - m_k)) - \sigma(-c_k m_k)}{\sigma(c_k (1 - m_k)) - \sigma(-c_k m_k)},
    \qquad 0 < c_k < 256,\ m_k \in (0, 1),\ p = \mathrm{softmax}$$

    Both $\alpha_t$ and $1 - \alpha_t$ have full relative precision at their ends, slopes are positive and finite
    everywhere, and with enough units any monotone curve of bounded steepness can be approximated. The initial curve is
    within 0.01 of the straight line. Parameters are float64 and stay so when the model is converted to another dtype.

    **Arguments:**

    - `width`: the number of steps, at least 1.
    - `rising`: whether the curve rises from 0 to 1, for a change of time or a noise weight.

    **Raises:** `ValueError` if `width` is less than 1.

    **Source:** networks with positive weights are Sill (1998), "Monotonic Networks"; for noise schedules, normalised at
    both ends, Kingma et al. (2021), "Variational Diffusion Models", arXiv 2107.00630. This form, which needs no
    subtraction at either end, is new here. Train it with `learned_nelbo`.

    **Example:**

    ```python
    import torch
    import noiselab as nl

    alpha = nl.schedules.MonotoneNetwork(8)
    process = nl.Interpolation(alpha, {nl.Absorbing(4, 5): 1 - alpha})
    ends = alpha(torch.tensor([0.0, 1.0], dtype=torch.float64))
    assert torch.allclose(ends, torch.tensor([1.0, 0.0], dtype=torch.float64))
    ```
    """  # noqa: E501

    def __init__(self, width: int = 16, *, rising: bool = False):
        super().__init__()
        width = require_count("width", width)
        self.rising = rising
        middles = (torch.arange(width, dtype=torch.float64) + 0.5) / width
        # A tenth of the mixture: close to the straight line, with a gradient in every step.
        shares = torch.cat([middles.new_tensor([0.9]), torch.full_like(middles, 0.1 / width)])
        self.middles = nn.Parameter(torch.logit(middles))
        steepness = min(2.0 * width + 2, MAX_STEEPNESS / 2) / MAX_STEEPNESS
        self.steepness = nn.Parameter(torch.logit(torch.full_like(middles, steepness)))
        self.shares = nn.Parameter(shares.log())

    def forward(self, t: Elementwise) -> Elementwise:
        """The curve, float64."""
        return self._curve(t, self.rising)

    def complement(self, t: Elementwise) -> Elementwise:
        """1 minus the curve, without cancellation."""
        return self._curve(t, not self.rising)

    def _curve(self, t: Tensor, rising: bool) -> Tensor:
        t = t.double()[..., None]
        steepness, middles = MAX_STEEPNESS * self.steepness.double().sigmoid(), self.middles.double().sigmoid()
        here, low, high = (steepness * (u - middles) for u in (t, 0, 1))
        # sigmoid(a) - sigmoid(b) = -sigmoid(a) sigmoid(-b) expm1(b - a), without cancellation.
        risen = -here.sigmoid() * (-low).sigmoid() * torch.expm1(-steepness * t)
        rest = -high.sigmoid() * (-here).sigmoid() * torch.expm1(-steepness * (1 - t))
        steps = (risen if rising else rest) / (risen + rest)
        units = torch.cat([t if rising else 1 - t, steps], -1)
        return (units * self.shares.double().softmax(-1)).sum(-1)

    def __repr__(self) -> str:
        return f"MonotoneNetwork({len(self.middles)}{', rising=True' if self.rising else ''})"


class LearnedConstant(Exact, Schedule):
    r"""A learned positive number, $e^\theta$: for instance the weight of one noise among several, or a power of time.

    **Arguments:**

    - `value`: the initial value, positive.

    **Raises:** `ValueError` if it is not positive.

    **Example:**

    ```python
    import noiselab as nl
    from noiselab import t

    share = nl.schedules.LearnedConstant(0.5)
    process = nl.Interpolation(1 - t, {nl.Absorbing(4, 5): t, nl.Uniform(5): share * t})
    assert repr(process) == "Interpolation(1 - t, {Absorbing(4): t, Uniform(5): LearnedConstant(0.5) * t})"
    ```
    """

    def __init__(self, value: float | int):
        super().__init__()
        value = require_number("a learned weight", value, 0, above=True)
        self.log_value = nn.Parameter(torch.tensor(math.log(value), dtype=torch.float64))

    def forward(self, t: Elementwise) -> Elementwise:
        """The number, in the shape of `t`."""
        return self.log_value.exp().expand(t.shape)

    def _by(self, clock: Schedule) -> Schedule:
        return self

    def __repr__(self) -> str:
        return f"LearnedConstant({self.log_value.exp().item():.6g})"
