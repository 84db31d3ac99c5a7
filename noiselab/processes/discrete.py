"""Discrete-time Markov chains in T steps, given by the noise that each step adds."""

import math

import torch
from torch import Tensor

from ..exact import Exact
from ..mixing import Mixing
from ..numerics import require_count, require_number, require_tensor
from ..process import Interpolation
from ..schedules import Schedule
from ..typing import Elementwise, Grid, TokenSet


class Steps(Exact, Schedule):
    r"""A schedule given by values at the times 0, 1/T, ..., 1, interpolated linearly.

    **Arguments:**

    - `values`: the T + 1 values.
    """

    values: Tensor

    def __init__(self, values: Grid):
        super().__init__()
        self.register_buffer("values", values.detach().double().clone())

    def forward(self, t: Elementwise) -> Elementwise:
        """The value at the times `t`."""
        steps, values = len(self.values) - 1, self.values.to(t.device)
        k = (t * steps).floor().clamp(0, steps - 1).long()
        return values[k] + (t * steps - k) * (values[k + 1] - values[k])

    def corners(self) -> list[float]:
        """The times at which one step ends and the next begins."""
        steps = len(self.values) - 1
        return [k / steps for k in range(1, steps)]

    def __repr__(self) -> str:
        return f"Steps({len(self.values) - 1}, {self.values[0].item():g} to {self.values[-1].item():g})"


def d3pm(noise: Mixing, betas: Grid, *, support: TokenSet | None = None) -> Interpolation:
    r"""D3PM: a Markov chain of T steps, in which step k replaces a token with probability $\beta_k$.

    $$q(z_k \mid z_{k-1}) = (1 - \beta_k)\, 1[z_k = z_{k-1}] + \beta_k\, \pi(z_k), \qquad
    \alpha_{k/T} = \prod_{j \le k} (1 - \beta_j)$$

    The process has these distributions at the times k/T and interpolates $\alpha$ linearly between them, so that the
    chain can be used like any process; the rate at k/T is that of the following step. Its bound is the discrete one
    (`discrete_bound`) on the grid `torch.linspace(1, 0, T + 1)`.

    **Arguments:**

    - `noise`: $\pi$, for example `Absorbing` or `Uniform`.
    - `betas`: $\beta_1, \dots, \beta_T$ in (0, 1); the last may be 1. Together they must remove the signal.
    - `support`: the tokens that occur in data, as for `Interpolation`.

    **Raises:** `ValueError` if betas are out of range or leave a signal above 0.001.

    **Source:** Austin et al. (2021), "Structured Denoising Diffusion Models in Discrete State-Spaces" (D3PM), arXiv
    2107.03006, section 3; their predicted chain $\sum_v q(z_{k-1}, z_k \mid v)\, \hat x_v$ is `process.posterior`.

    **Example:**

    ```python
    import torch
    import noiselab as nl

    process = nl.processes.d3pm(nl.Absorbing(4, 5), nl.processes.absorbing_betas(10))
    time = torch.linspace(0, 1, 11, dtype=torch.float64)
    torch.testing.assert_close(process.alpha(time), 1 - time)  # `masked` on a grid
    ```
    """
    betas = require_tensor("betas", betas, "T").detach().double()
    if not ((betas > 0) & (betas <= 1)).all() or (betas[:-1] == 1).any():
        shown = f"{betas.min().item():.4g} to {betas.max().item():.4g}"
        raise ValueError(f"betas must lie in (0, 1), except that the last may be 1; got {shown}")
    alpha = torch.cat([torch.ones_like(betas[:1]), (1 - betas).cumprod(0)])
    return Interpolation(Steps(alpha), {noise: Steps(1 - alpha)}, support=support)


def absorbing_betas(steps: int) -> Grid:
    r"""$\beta_k = 1 / (T - k + 1)$: each of T steps corrupts the same fraction of all tokens.

    **Arguments:**

    - `steps`: T.

    **Returns:** T numbers, float64, the last of which is 1.

    **Source:** Sohl-Dickstein et al. (2015), arXiv 1503.03585; Austin et al. (2021), arXiv 2107.03006, section 3.1.
    """
    return 1 / torch.arange(require_count("steps", steps), 0, -1, dtype=torch.float64)


def cosine_betas(steps: int, offset: float = 0.008, largest: float = 0.999) -> Grid:
    r"""The betas of a cosine signal, as used by D3PM for uniform noise.

    $$\beta_k = \min\Big(1 - \frac{g(k/T)}{g((k-1)/T)},\ 0.999\Big), \qquad
    g(t) = \cos\Big(\frac{t + 0.008}{1.008} \frac{\pi}{2}\Big)$$

    **Arguments:**

    - `steps`: T.
    - `offset`: the shift of the cosine at the start, at least 0.
    - `largest`: the maximum beta, in (0, 1].

    **Returns:** T numbers, float64.

    **Source:** Austin et al. (2021), arXiv 2107.03006, after Hoogeboom et al. (2021), arXiv 2102.05379.
    """
    steps, offset = require_count("steps", steps), require_number("offset", offset, 0)
    largest = require_number("largest", largest, 0, 1, above=True)
    time = torch.arange(steps + 1, dtype=torch.float64) / steps
    signal = torch.cos((time + offset) / (1 + offset) * math.pi / 2)
    return (1 - signal[1:] / signal[:-1]).clamp(max=largest)
