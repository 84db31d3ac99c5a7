"""Time grids for samplers: N + 1 decreasing times from noise to data for N steps.

Most grids follow a fixed rule; `adaptive_grid` measures at which times short steps are needed. All cover the domain of
the process; pass them to `sample` as `times`.
"""

from collections.abc import Callable

import torch
from torch import Tensor, nn

from ..categorical import Randomness
from ..denoisers import Denoiser, as_leave_one_out
from ..denoisers.checked import LogitChecks, checked
from ..numerics import bisect, require_count, require_number, require_sequences
from ..process import NoiseProcess
from ..typing import Grid, Tokens
from .grid_costs import outdating

HALVINGS = 64  # of the range of times: to 5e-20
FLOOR = 0.02  # minimum density of points, relative to the mean
NOTHING = 1e-12  # nats per token below which a cost is rounding error
WINDOWS = 16  # costs are averaged over 1 / WINDOWS of the short steps on either side


def even_grid(process: NoiseProcess, steps: int) -> Grid:
    """Steps of equal length, the default of samplers.

    **Arguments:**

    - `process`: the noise process, whose domain the times cover.
    - `steps`: the number of steps, at least 1.

    **Raises:** `ValueError` if `steps` is less than 1.
    """
    return _over(process, _falling(steps))


def power_grid(process: NoiseProcess, steps: int, power: float | int = 2) -> Grid:
    r"""Uniform steps in u for $t = u^p$: finer near data for p > 1.

    If noise grows as the square root of t (`gidd`, gamma = 1), it grows linearly in u for p = 2.

    **Arguments:**

    - `power`: the power p, positive.
    - Others as for `even_grid`.

    **Raises:** `ValueError` if `steps` is less than 1, or `power` is not positive.

    **Example:**

    ```python
    import torch
    import noiselab as nl

    grid = nl.samplers.power_grid(nl.gidd(vocab_size=5, mask_id=4, p_uniform=0.1), 4)
    assert torch.allclose(grid, torch.tensor([16, 9, 4, 1, 0]).double() / 16)
    ```
    """
    require_number("power", power, 0, above=True)
    return _over(process, _falling(steps) ** power)


def cosine_grid(process: NoiseProcess, steps: int) -> Grid:
    r"""Short steps first and long ones last, $t = \cos(\frac{\pi}{2} (1 - u))$ for uniform u.

    For absorbing noise, the first steps fill few tokens, because few tokens are known then.

    **Arguments:** and **Raises:** as for `even_grid`.

    **Source:** Chang et al. (2022), MaskGIT, arXiv 2202.04200; Shi et al. (2024), MD4, arXiv 2406.04329.
    """
    return _over(process, torch.sin(torch.pi / 2 * _falling(steps)))  # the sine, because it is exactly 0 at 0


def signal_grid(process: NoiseProcess, steps: int) -> Grid:
    """Equal increments of the signal alpha: for absorbing noise, the same number of tokens per step for any schedule.

    The times are found by bisection, also for user-defined processes. If the signal depends on the token, its mean over
    the data tokens is used.

    **Arguments:** as for `even_grid`.

    **Raises:** `ValueError` if `steps` is less than 1, or the signal jumps.

    **Example:**

    ```python
    import torch
    import noiselab as nl

    process = nl.masked(vocab_size=5, mask_id=4, signal=nl.schedules.cosine())
    alpha = process.alpha(nl.samplers.signal_grid(process, 4))
    assert torch.allclose(alpha, torch.tensor([0, 1, 2, 3, 4]).double() / 4)
    ```
    """
    u = _falling(steps)
    last, first = _signal(process, torch.tensor(process.domain, dtype=torch.float64))[0]
    return _inverse(process, lambda t: -_signal(process, t)[0], -(last + (first - last) * u))


def log_snr_grid(process: NoiseProcess, steps: int, limit: float | int = 4.0) -> Grid:
    r"""Equal increments of the log signal-to-noise ratio $\lambda = \log \frac{\alpha}{1 - \alpha}$, between -`limit`
    and `limit`.

    At the ends of most processes the ratio is infinite. Increments are therefore equal between the limits, and the
    first and last time are moved to the ends of the domain. Limits beyond the range of the ratio have no effect.

    **Arguments:**

    - `limit`: the limit in nats, positive. At 4, one token in 55 is noise, or signal. Wide limits waste steps on rare
      events: on data with a known distribution over six tokens, 4 is best for 8 to 32 steps, and 5 for 128.
    - Others, and **Raises:** as for `signal_grid`.

    **Source:** von Ruette et al. (2025), arXiv 2512.10858, for time as this ratio.
    """
    require_number("limit", limit, 0, above=True)

    def log_snr(t: Tensor) -> Tensor:
        alpha, noise = _signal(process, t)
        return alpha.log() - noise.log()

    u = _falling(steps)
    last, first = log_snr(torch.tensor(process.domain, dtype=torch.float64)).clamp(-limit, limit)
    return _inverse(process, lambda t: -log_snr(t), -(last + (first - last) * u))


@torch.no_grad()
def adaptive_grid(
    process: NoiseProcess,
    denoiser: Denoiser,
    steps: int,
    *,
    x: Tokens | None = None,
    length: int | None = None,
    sequences: int = 64,
    resolution: int = 64,
    generator: Randomness = None,
) -> Grid:
    r"""Steps of equal cost for a given network and data: the density of points is proportional to $\sqrt{c(t)}$.

    The cost $c(t)\, h^2$ of a step of length h is the loss from not evaluating the network within the step: a
    prediction is outdated as soon as another token has changed. It is measured along pilot sequences with `resolution`
    short steps, as the divergence of the step with the old prediction from the step with the new one. For the exact
    denoiser, its mean is the increase of the divergence of the sampled path from that of the data due to longer steps;
    for a network, its predictions are assumed to be correct.

    The times of the pilots are placed half uniformly and half by the angle of the signal. One fiftieth of the points is
    spread uniformly over them, as a minimum density. Designed for `AncestralSampler`, and useful for all samplers whose
    steps hold x_hat fixed.

    **Arguments:**

    - `denoiser`: a denoiser of any prediction type; evaluated `resolution` times on each pilot sequence, where tokens
      are not known to be clean.
    - `x`: clean sequences from which pilots are made by adding noise; or
    - `length`: the length of pilots generated by an ancestral sampler; `sequences` is their number. A few thousand
      tokens in total suffice: 64 sequences of text, more for a toy problem.
    - `resolution`: the number of short steps, at least 2. The cost is smooth, so that 64 also suffice for longer grids.
    - `generator`: one generator, or one for each pilot.

    **Raises:** `ValueError` unless exactly one of `x` and `length` is given, `x` consists of data tokens, numbers are
    positive, and logits are numbers.

    **Source:** Park et al. (2024), "Jump Your Steps", arXiv 2410.07761, for a cost of this kind; Sabour et al. (2024), arXiv
    2404.14507, for grids fitted to a model. Estimate and density are derived in `noiselab/samplers/grid_costs.py`.

    **Example:**

    ```python
    import torch
    import noiselab as nl

    process = nl.gidd(vocab_size=3, mask_id=2, p_uniform=0.2)
    oracle = nl.MarkovOracle(torch.tensor([0.5, 0.5]), torch.tensor([[0.9, 0.1], [0.2, 0.8]]), process)
    grid = nl.samplers.adaptive_grid(process, oracle, 8, length=6, generator=torch.Generator().manual_seed(0))
    x = nl.AncestralSampler(process, oracle).sample((4, 6), times=grid)
    ```
    """
    if (x is None) == (length is None):
        raise ValueError(f"exactly one of x and length must be given; got x={x}, length={length}")
    require_count("sequences", sequences)
    require_count("resolution", resolution, 2)
    if length is not None:
        require_count("length", length)
    u, denoiser = _falling(steps), checked(as_leave_one_out(denoiser, process), process)
    fine = _at_clock(process, _falling(resolution))
    tensors = (*denoiser.parameters(), *denoiser.buffers(), *process.buffers())
    home = next((tensor.device for tensor in tensors), torch.device("cpu"))
    shape = (sequences, length or 0) if x is None else x.shape
    if x is not None:
        require_sequences("x", x, process.vocab_size)
        x = x.long()
    if x is not None and not torch.isin(x.to(home), process.data_tokens(home).nonzero()).all():
        raise ValueError("x must be clean sequences; got tokens outside the support")
    with LogitChecks() as checks:
        cost = outdating(process, denoiser, fine.to(home), x, shape, generator).cpu()
    checks.read()
    cost = torch.where(cost > NOTHING * shape[0] * shape[1], cost, 0)
    # Points per short step, uniform on the clock; the outermost steps have the cost of their only neighbour.
    root = _smooth(cost, resolution // WINDOWS).sqrt()
    density = torch.cat([root[:1], root]) + torch.cat([root, root[-1:]])
    density = density + FLOOR * density.mean() if density.sum() > 0 else density + 1
    passed = torch.cat([density.new_zeros(1), density.cumsum(0) / density.sum()])
    return _at_clock(process, 1 - _crossings(passed, 1 - u) / resolution)


def _falling(steps: int) -> Tensor:
    """Uniformly spaced numbers from 1 to 0."""
    require_count("steps", steps)
    return torch.linspace(1, 0, steps + 1, dtype=torch.float64)


def _over(process: NoiseProcess, u: Tensor) -> Tensor:
    """Map numbers from 1 to 0 to the domain."""
    low, high = process.domain
    return low + (high - low) * u


@torch.no_grad()
def _signal(process: NoiseProcess, t: Tensor) -> tuple[Tensor, Tensor]:
    """The mean signal of the data tokens, and what is left to 1, to full precision where it can be had."""
    signal, rest = process.signal_share(t.to(process.device))
    return signal.clamp(min=0).to(t.device), rest.clamp(min=0).to(t.device)


def _at_clock(process: NoiseProcess, value: Tensor) -> Tensor:
    """The times at which the pilots' clock shows these numbers from 0 to 1: half time, half the angle of the signal.

    The angle spreads out what is nearly clean and what is nearly noise, and time what the signal does not show.
    """
    low, high = process.domain

    def angle(t: Tensor) -> Tensor:
        return process.signal_angle(t.to(process.device)).to(t.device)

    first, last = angle(torch.tensor([low, high], dtype=torch.float64))
    return _inverse(process, lambda t: (t - low) / (high - low) + (angle(t) - first) / (last - first), 2 * value)


def _inverse(process: NoiseProcess, rising: Callable[[Tensor], Tensor], value: Tensor) -> Tensor:
    """Where a function that rises over the domain has these falling values, by halving; the ends are those of the domain."""
    low, high = process.domain
    times = bisect(rising, value, low, high, halvings=HALVINGS)
    times[0], times[-1] = high, low
    if not (times[1:] < times[:-1]).all():
        raise ValueError(f"the signal must decrease without jumps; got {process}")
    return times


def _smooth(cost: Tensor, reach: int) -> Tensor:
    """Moving average over `reach` neighbours on either side, fewer at the ends."""
    ones, kernel = torch.ones_like(cost), cost.new_ones(1, 1, 2 * reach + 1)
    total, count = (nn.functional.conv1d(v[None, None], kernel, padding=reach)[0, 0] for v in (cost, ones))
    return total / count


def _crossings(rising: Tensor, value: Tensor) -> Tensor:
    """The positions at which a piecewise linear function with values at 0, 1, 2, ... has these values."""
    k = torch.searchsorted(rising, value, right=True).clamp(1, len(rising) - 1)
    return k - 1 + ((value - rising[k - 1]) / (rising[k] - rising[k - 1])).clamp(0, 1)
