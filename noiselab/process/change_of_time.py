"""A process by another clock."""

from typing import cast

import torch
from jaxtyping import Float
from torch import Tensor

from ..mixing import Mass, Mixing
from ..schedules import Schedule, ScheduleLike, as_schedule
from .interpolating import InterpolatingProcess
from .validation import interior_times

ROUNDING = 1e-9  # how far a clock may miss an end of the domain


class ChangeOfTime(InterpolatingProcess):
    r"""The same process by another clock, $q_u(z \mid x) = q^{inner}_{g(u)}(z \mid x)$.

    Its bound is the inner one, each time visited for longer or shorter: the integrand of `nelbo` at u is
    $g'(u)$ times the inner one at $g(u)$, so that the integral stays. Training sees other times more often; the variance
    of the estimate changes. A denoiser for it is told u, not $g(u)$.

    **Arguments:**

    - `process`: factored or written in two methods.
    - `clock`: $g$, rising in [0, 1] from (at most) the lower end of the process's `domain` to (at least) its upper end.
      The clock by which a process gets the signal `beta` is `nl.Function(process.alpha).inverse(beta)`.

    **Raises:** `ValueError` for a clock that does not rise throughout or leaves out part of the domain, or whose process
    is none (`validate`): a clock may not jump.

    **Source:** invariance of the bound: Kingma et al. (2021), arXiv 2107.00630, section 5; for discrete data Shi et al.
    (2024), arXiv 2406.04329.

    **Example:**

    ```python
    import torch
    import noiselab as nl
    from noiselab import t

    slow = nl.ChangeOfTime(nl.gidd(vocab_size=5, mask_id=4, p_uniform=0.1), t**2)
    half = torch.tensor([0.5], dtype=torch.float64)
    assert torch.isclose(slow.alpha(half), slow.process.alpha(half**2))
    assert repr(slow).endswith(", t ** 2)")
    ```
    """

    def __init__(self, process: InterpolatingProcess, clock: ScheduleLike):
        super().__init__(process.support)
        self.process, self.clock = process, as_schedule(clock)
        self.vocab_size = process.vocab_size
        self.domain = _inverse_image(process.domain, self.clock, process._home())
        self.validate()

    def inner_time(self, t: Float[Tensor, "*batch"]) -> Float[Tensor, "*batch"]:
        """The time g(t) of the inner process."""
        low, high = self.process.domain
        return self.clock(t).clamp(low, high)  # beyond the ends by rounding only

    def alpha(self, t: Float[Tensor, "*batch"]) -> Float[Tensor, "*batch"]:
        """The signal at the inner time."""
        return self.process.alpha(self.inner_time(t))

    def mixing(self, t: Float[Tensor, "*batch"]) -> Float[Tensor, "..."]:
        """The mixing at the inner time."""
        return self.process.mixing(self.inner_time(t))

    def noise(self, t: Float[Tensor, "batch time"]) -> Mass:
        """The noise at the inner time, factored as there."""
        inner = self.process.noise(self.inner_time(t))
        return Mass(inner.weights, [cast(Mixing, _Reclocked(part, self)) for part in inner.parts], t)

    def __repr__(self) -> str:
        return f"ChangeOfTime({self.process}, {self.clock})"


class _Reclocked:
    """A part of the inner noise, told the outer time. No module: it is made anew at each call."""

    def __init__(self, part: Mixing, process: ChangeOfTime):
        self.part, self.process = part, process
        self.profile = part.profile

    def probs(self, t: Tensor) -> Tensor:
        return self.part.probs(self.process.inner_time(t))

    def at(self, z: Tensor, t: Tensor) -> Tensor:
        return self.part.at(z, self.process.inner_time(t))

    def choose(self, u: Tensor, t: Tensor) -> Tensor:
        return self.part.choose(u, self.process.inner_time(t))

    def __repr__(self) -> str:
        return f"{self.part}"


@torch.no_grad()
def _inverse_image(domain: tuple[float, float], clock: Schedule, home: torch.device) -> tuple[float, float]:
    """The times at which the clock shows the domain."""
    times = interior_times((0.0, 1.0), 64).to(home)
    g = clock(torch.cat([times.new_zeros(1), times, times.new_ones(1)]))
    if not g.isfinite().all() or not (g.diff() > 0).all():
        raise ValueError(f"a clock must rise from t = 0 to t = 1; got {clock}, with {g[0].item():g} to {g[-1].item():g}")
    low, high = domain
    if g[0].item() > low + ROUNDING or g[-1].item() < high - ROUNDING:
        raise ValueError(
            f"the clock must run through the domain of the process, {low:g} to {high:g}; "
            f"got {clock}, from {g[0].item():g} to {g[-1].item():g}"
        )
    ends = clock.inverse(g.new_tensor([low, high]).clamp(g[0], g[-1]))
    return ends[0].item(), ends[1].item()
