r"""Fixed quadrature times for a process, placed where its signal changes, however steep it is.

Nodes on a fixed clock (`quadrature`) miss rapid changes. Here the clock is derived from the process:

$$g(t) = r\, \frac{t - low}{high - low} + (1 - r)\, \frac{\theta_t - \theta_{low}}{\theta_{high} - \theta_{low}},
\qquad \cos^2 \theta_t = \alpha_t, \qquad g(t) = u^2 (3 - 2u)$$

The angle resolves times of nearly clean and nearly pure noise; the smooth step is flat at both ends, where hybrid noise
has an integrand like $t^{-1/2} \log t$. For state-independent corruption the law is constant while the signal is, and r
is 1/20; otherwise r is 1/2.
"""

import torch
from jaxtyping import Float
from torch import Tensor

from ..numerics import TIME_EPS, bisect, gauss_legendre, require_count, require_number
from ..process import NoiseProcess
from .ranges import time_range


@torch.no_grad()
def process_quadrature(
    process: NoiseProcess, nodes: int, *, low: float | int = 0.0, high: float | int | None = None
) -> tuple[Float[Tensor, " nodes"], Float[Tensor, " nodes"]]:
    r"""Fixed times for a process whose weighted **sum** is the integral of its bound: Gauss-Legendre on the process's
    clock.

    Used by `continuous_bound`, `expected_bound` and `validation_bound` for `nodes`. The clock advances with the signal
    (its mean over data tokens if it depends on them), so that steep schedules lose little accuracy. For a chain with
    corners (`d3pm`) the rule is composed of pieces, if there are at least two nodes for each step.

    **Arguments:**

    - `nodes`: the number of nodes. Measured on three tokens: 16 nodes give an error of at most 1e-4 nats for all
      processes of this library except chains, whose error is up to 3e-3 (with 3 T nodes 3e-5 for a chain of ten steps, and
      1e-6 for more), and `TokenRates` with powers below 0.2 (2e-2 for 0.1). Of single texts it is larger: up to 2e-3
      for powers from 0.2 to 5. For the steepest signal (`from_log_snr(100 - 200 * t)`) 16 nodes give 3e-3, 64
      nodes 1e-4. Corners of user-defined schedules are not detected: there 64 nodes give 1e-2.
    - `low`, `high`: the time range, by default the domain of the process; rates are evaluated 1e-12 away from its ends.

    **Returns:** increasing times and weights, float64.

    **Raises:** `ValueError` if `nodes` is less than 1, or the range is outside the domain.

    **Source:** Golub and Welsch (1969) for the nodes; the clock is derived here, and checked by the entropy identity.

    **Example:**

    ```python
    import torch
    import noiselab as nl

    steep = nl.uniform(vocab_size=3, signal=nl.schedules.from_log_snr(100 - 200 * nl.t))
    t, weight = nl.likelihood.process_quadrature(steep, 32)
    fall = torch.autograd.functional.jvp(steep.alpha, t, torch.ones_like(t))[1]
    assert torch.isclose((weight * fall).sum(), torch.tensor(-1.0).double(), atol=1e-4)
    ```
    """
    require_count("nodes", nodes)
    low, high = time_range(process, max(require_number("low", low), process.domain[0]), high)
    low, high = max(low, process.domain[0] + TIME_EPS), min(high, process.domain[1] - TIME_EPS)
    clock = _Clock(process, low, high)
    corners = torch.tensor([t for t in process.corners() if low < t < high], dtype=torch.float64)
    edges = torch.tensor([0.0, 1.0], dtype=torch.float64)
    if 2 * (len(corners) + 1) <= nodes:
        edges = torch.cat([edges[:1], bisect(_rest, clock.at(corners), 0.0, 1.0), edges[1:]])
    u, weight = _pieces(edges, nodes)
    t = bisect(clock.at, _rest(u), low, high)
    return t, 6 * weight * u * (1 - u) / clock.slope(t)


class _Clock:
    """The clock of a process between two times, from 0 to 1: mostly the angle of its signal, plus a fraction of time."""

    def __init__(self, process: NoiseProcess, low: float, high: float):
        self.process, self.low, self.span = process, low, high - low
        self.home = process.device
        self.share = process.clock_share
        start, stop = self._signal(torch.tensor([low, high], dtype=torch.float64))[1].tolist()
        self.start, self.turn = start, stop - start
        if not self.turn > 1e-9:  # constant signal: time only
            self.share, self.turn = 1.0, 1.0

    def at(self, t: Float[Tensor, " time"]) -> Float[Tensor, " time"]:
        angle = self._signal(t)[1]
        return self.share * (t - self.low) / self.span + (1 - self.share) * (angle - self.start) / self.turn

    def slope(self, t: Float[Tensor, " time"]) -> Float[Tensor, " time"]:
        (_, angle), slopes, *_ = torch.func.jvp(self._signal, (t,), (torch.ones_like(t),))
        turn = -slopes[0] / angle.mul(2).sin()
        # The angle is constant where noise or signal is below rounding.
        turn = torch.where(turn.isfinite(), turn, 0).clamp(min=0)
        return self.share / self.span + (1 - self.share) * turn / self.turn

    def _signal(self, t: Tensor) -> tuple[Tensor, Tensor]:
        """The mean signal of the data tokens, and its angle."""
        home = t.to(self.home)
        return self.process.signal_share(home)[0].to(t.device), self.process.signal_angle(home).to(t.device)


def _rest(u: Tensor) -> Tensor:
    """The smooth step of degree 3, which is flat at both ends."""
    return u * u * (3 - 2 * u)


def _pieces(edges: Tensor, nodes: int) -> tuple[Tensor, Tensor]:
    """Gauss-Legendre piece by piece; wider pieces have more nodes."""
    widths = edges.diff()
    counts = torch.ones_like(widths)
    for _ in range(nodes - len(counts)):
        counts[(widths / counts).argmax()] += 1
    parts = []
    for start, width, count in zip(edges[:-1], widths, counts.long().tolist(), strict=True):
        u, weight = gauss_legendre(count)
        parts.append((start + width * u, width * weight))
    u, weight = (torch.cat(part) for part in zip(*parts, strict=True))
    return u, weight
