"""Change of time of a process."""

from collections.abc import Callable
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from ..mixing import Mixing, NoiseMass
from ..numerics import TIME_EPS
from ..schedules import Schedule, ScheduleLike, as_schedule
from ..typing import Elementwise, ElementwiseProbs, PerToken, TokenProbs, Tokens, TokenSet, TokenTimes
from .interpolating import InterpolatingProcess
from .validation import interior_times

END_MISS = 1e-9  # tolerance of a clock at the ends of the domain


class ChangeOfTime(InterpolatingProcess):
    r"""A process under a change of time, $q_u(z \mid x) = q^{inner}_{g(u)}(z \mid x)$.

    Its bound is that of the inner process: the integrand of `nelbo` at u is $g'(u)$ times the inner one at $g(u)$, so
    that the integral is unchanged. Only the distribution of times in training and the variance of estimates change. A
    denoiser for this process receives u, not $g(u)$.

    **Arguments:**

    - `process`: the inner process, factored or written as two methods.
    - `clock`: $g$, increasing on [0, 1] from (at most) the lower end of the process's `domain` to (at least) its upper
      end. The clock that gives a process the signal `beta` is `nl.schedules.Function(process.alpha).inverse(beta)`.

    **Raises:** `ValueError` if the clock is not increasing, does not cover the domain, or does not define a process
    (`validate`), for instance because it jumps.

    **Source:** invariance of the bound: Kingma et al. (2021), arXiv 2107.00630, section 5; for discrete data Shi et al.
    (2024), arXiv 2406.04329.

    **Example:**

    ```python
    import torch
    import noiselab as nl
    from noiselab import t

    slow = nl.process.ChangeOfTime(nl.gidd(vocab_size=5, mask_id=4, p_uniform=0.1), t**2)
    half = torch.tensor([0.5], dtype=torch.float64)
    assert torch.isclose(slow.alpha(half), slow.process.alpha(half**2))
    assert repr(slow).endswith(", t ** 2)")
    ```
    """

    def __init__(self, process: InterpolatingProcess, clock: ScheduleLike):
        if not isinstance(process, InterpolatingProcess):
            raise ValueError(f"the process must be an InterpolatingProcess; got {type(process).__name__}")
        super().__init__(process.support)
        self.process, self.clock = process, as_schedule(clock)
        self.vocab_size = process.vocab_size
        self.domain = _inverse_image(process.domain, self.clock, process.device)
        self.validate()

    def inner_time(self, t: Elementwise) -> Elementwise:
        """The time g(t) of the inner process."""
        low, high = self.process.domain
        # By rounding, a clock that is flat near its end reaches the end too early, where rates are infinite.
        return torch.where(t < self.domain[1], self.clock(t).clamp(low, high - TIME_EPS), high)

    def alpha(self, t: Elementwise) -> Elementwise:
        """The signal at the inner time."""
        return self.process.alpha(self.inner_time(t))

    def mixing(self, t: Elementwise) -> Float[Tensor, "..."]:
        """The mixing at the inner time."""
        return self.process.mixing(self.inner_time(t))

    def corners(self) -> list[float]:
        """The corners of the inner process, in the outer time."""
        inner = torch.tensor(self.process.corners(), dtype=torch.float64, device=self.device)
        return self.clock.inverse(inner).tolist() if len(inner) else []

    def noise(self, t: TokenTimes) -> NoiseMass:
        """The factored noise at the inner time."""
        inner_time = self.inner_time(t)
        return _reclocked(self.process.noise(inner_time), t, inner_time, self.inner_time)

    def __repr__(self) -> str:
        return f"ChangeOfTime({self.process}, {self.clock})"


class _Reclocked(Mixing):
    """A part of the inner noise as a function of the outer time; created at each call, like the part itself."""

    def __init__(self, part: Any, t: Tensor, inner_time: Tensor, clock: Callable[[Tensor], Tensor]):
        super().__init__()
        self.part, self.known, self.clock = part, (t, inner_time), clock

    def probs(self, t: Elementwise) -> ElementwiseProbs:
        return self.part.probs(self._inner(t))

    def at(self, z: Tokens, t: TokenTimes) -> Float[Tensor, "batch ..."]:
        return self.part.at(z, self._inner(t))

    def choose(self, u: PerToken, t: TokenTimes) -> Tokens:
        return self.part.choose(u, self._inner(t))

    def profile(self, support: TokenSet) -> float | TokenProbs | None:
        return self.part.profile(support)

    def factors(self, t: TokenTimes) -> NoiseMass | None:
        inner_time = self._inner(t)
        inner = self.part.factors(inner_time) if isinstance(self.part, Mixing) else None
        return inner and _reclocked(inner, t, inner_time, self.clock)

    def _inner(self, t: Tensor) -> Tensor:
        # The inner time is cached, because evaluating a clock may be expensive.
        return self.known[1] if t is self.known[0] else self.clock(t)

    def __repr__(self) -> str:
        return f"{self.part}"


def _reclocked(inner: NoiseMass, t: Tensor, inner_time: Tensor, clock: Callable[[Tensor], Tensor]) -> NoiseMass:
    return NoiseMass(inner.weights, [_Reclocked(part, t, inner_time, clock) for part in inner.parts], t)


@torch.no_grad()
def _inverse_image(domain: tuple[float, float], clock: Schedule, home: torch.device) -> tuple[float, float]:
    """The outer times that correspond to the domain of the inner process."""
    times = interior_times((0.0, 1.0), 64).to(home)
    g = clock(torch.cat([times.new_zeros(1), times, times.new_ones(1)]))
    if not g.isfinite().all() or not (g.diff() > 0).all():
        raise ValueError(
            f"a clock must rise from t = 0 to t = 1; got {clock}, with {g[0].item():g} to {g[-1].item():g}"
        )
    low, high = domain
    if g[0].item() > low + END_MISS or g[-1].item() < high - END_MISS:
        raise ValueError(
            f"the clock must run through the domain of the process, {low:g} to {high:g}; "
            f"got {clock}, from {g[0].item():g} to {g[-1].item():g}"
        )
    first = 0.0 if g[0].item() >= low else clock.inverse(g.new_tensor(low)).item()
    last = 1.0 if g[-1].item() <= high else clock.inverse(g.new_tensor(high)).item()
    return first, last
