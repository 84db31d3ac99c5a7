"""Where the steps of a sampler go: times that fall from noise to data, N + 1 of them for N steps.

Rules for any process, and `adaptive_grid`, which measures where steps are needed. All run through the domain of the process;
hand them to `sample` as `times`.
"""

from collections.abc import Callable

import torch
from torch import Tensor, nn

from ..categorical import Randomness
from ..denoisers import Denoiser, as_leave_one_out
from ..numerics import bisect
from ..process import NoiseProcess
from ..typing import Grid, Tokens
from .grid_costs import outdating

HALVINGS = 64  # of the range of times: to 5e-20
FLOOR = 0.02  # of the mean density of points: what no time goes without
NOTHING = 1e-12  # nats a token that are rounding
WINDOWS = 16  # a cost is averaged over this fraction of the short steps to either side


def even_grid(process: NoiseProcess, steps: int) -> Grid:
    """Steps of one length: what samplers do by themselves.

    **Arguments:**

    - `process`: the noise, whose domain the times run through.
    - `steps`: their number, at least 1.

    **Raises:** `ValueError` for fewer.
    """
    return _over(process, _falling(steps))


def power_grid(process: NoiseProcess, steps: int, power: float | int = 2) -> Grid:
    r"""Steps that are even in u for $t = u^p$: finer near data for p > 1.

    Where noise goes as the square root of t (`gidd`, gamma = 1), p = 2 makes it go as u.

    **Arguments:**

    - `power`: p, positive.
    - Others as for `even_grid`.

    **Raises:** `ValueError` for fewer steps than 1, or another power.

    **Example:**

    ```python
    import torch
    import noiselab as nl

    grid = nl.samplers.power_grid(nl.gidd(vocab_size=5, mask_id=4, p_uniform=0.1), 4)
    assert torch.allclose(grid, torch.tensor([16, 9, 4, 1, 0]).double() / 16)
    ```
    """
    if not 0 < power < torch.inf:
        raise ValueError(f"power must be positive and finite; got {power}")
    return _over(process, _falling(steps) ** power)


def cosine_grid(process: NoiseProcess, steps: int) -> Grid:
    r"""Short steps first and long ones last, $t = \cos(\frac{\pi}{2} (1 - u))$ for even u.

    Of masked tokens, few are filled in while little is known.

    **Arguments:** and **Raises:** as for `even_grid`.

    **Source:** Chang et al. (2022), MaskGIT, arXiv 2202.04200; Shi et al. (2024), MD4, arXiv 2406.04329.
    """
    return _over(process, torch.sin(torch.pi / 2 * _falling(steps)))  # the sine is 0 at 0, exactly


def signal_grid(process: NoiseProcess, steps: int) -> Grid:
    """Equal rises of the signal alpha: in masking, equally many tokens a step, whatever the schedule.

    The times are found by halving, for processes written by hand too. Where the signal depends on the token, its mean over
    the data tokens is meant.

    **Arguments:** as for `even_grid`.

    **Raises:** `ValueError` for fewer steps than 1; for a process without alpha, or whose alpha jumps.

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
    r"""Equal rises of the log signal-to-noise ratio $\lambda = \log \frac{\alpha}{1 - \alpha}$, between -`limit` and `limit`.

    At the ends of most processes the ratio is infinite: even rises run between the limits, and the first and the last time
    are then moved to the ends of the domain. Where the ratio stays within the limits they change nothing.

    **Arguments:**

    - `limit`: positive, in nats. At 4 a token in 55 is noise, or signal. Wide limits waste steps on what happens rarely: in a
      known world of six tokens 4 is best for 8 to 32 steps, and 5 for 128.
    - Others, and **Raises:** as for `signal_grid`.

    **Source:** von Ruette et al. (2025), arXiv 2512.10858, for time as this ratio.
    """
    if not 0 < limit < torch.inf:
        raise ValueError(f"limit must be positive and finite; got {limit}")

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
    r"""Steps that all cost the same, for this network and these data: points in proportion to $\sqrt{c(t)}$.

    The cost $c(t)\, h^2$ of a step of length h is what the sampler loses by not asking the network in between: a prediction is
    out of date as soon as another token has moved. It is measured along pilot sequences that walk through `resolution` short
    steps, as the divergence of the step with the old prediction from the step with the new one. For the exact denoiser its mean
    is what longer steps add to the divergence of the sampled path from that of data; a network is believed.

    The pilots' times are half even and half by the angle of the signal. A fiftieth of the points is spread evenly over them, so
    that no time goes without. Made for `AncestralSampler`, and good for all samplers whose steps hold x_hat.

    **Arguments:**

    - `denoiser`: of any parametrisation; asked `resolution` times about each pilot sequence, where tokens are not settled.
    - `x`: clean sequences to make noisy for pilots; or
    - `length`: of pilots that an ancestral sampler draws, `sequences` of them. Some thousand tokens in all are enough: 64
      sequences of a text, more of a toy.
    - `resolution`: number of short steps, at least 2. The cost is smooth, so that 64 serve longer grids too.
    - `generator`: one, or one for each pilot.

    **Raises:** `ValueError` unless exactly one of `x` and `length` is given, `x` is of data tokens, and numbers are positive.

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
    if sequences < 1 or resolution < 2 or (length is not None and length < 1):
        raise ValueError(
            "sequences and length must be at least 1, and resolution at least 2; got "
            f"{sequences}, {length} and {resolution}"
        )
    u, denoiser = _falling(steps), as_leave_one_out(denoiser, process)
    fine = _at_clock(process, _falling(resolution))
    tensors = (*denoiser.parameters(), *denoiser.buffers(), *process.buffers())
    home = next((tensor.device for tensor in tensors), torch.device("cpu"))
    shape = (sequences, length or 0) if x is None else x.shape
    if x is not None and not torch.isin(x.to(home), process.data_tokens(home).nonzero()).all():
        raise ValueError("x must be clean sequences; got tokens that data cannot contain")
    cost = outdating(process, denoiser, fine.to(home), x, shape, generator).cpu()
    cost = torch.where(cost > NOTHING * shape[0] * shape[1], cost, 0)
    # Points per short step, which are even on the clock; the outermost steps have the cost of their one neighbour.
    root = _smooth(cost, resolution // WINDOWS).sqrt()
    density = torch.cat([root[:1], root]) + torch.cat([root, root[-1:]])
    density = density + FLOOR * density.mean() if density.sum() > 0 else density + 1
    passed = torch.cat([density.new_zeros(1), density.cumsum(0) / density.sum()])
    return _at_clock(process, 1 - _crossings(passed, 1 - u) / resolution)


def _falling(steps: int) -> Tensor:
    """Even numbers from 1 to 0."""
    if steps < 1:
        raise ValueError(f"steps must be at least 1; got {steps}")
    return torch.linspace(1, 0, steps + 1, dtype=torch.float64)


def _over(process: NoiseProcess, u: Tensor) -> Tensor:
    """The domain, for numbers from 1 to 0."""
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
        raise ValueError(f"the signal must fall, without jumps, for its times to be found; got {process}")
    return times


def _smooth(cost: Tensor, reach: int) -> Tensor:
    """Means over so many neighbours on either side, fewer at the ends."""
    ones, kernel = torch.ones_like(cost), cost.new_ones(1, 1, 2 * reach + 1)
    total, count = (nn.functional.conv1d(v[None, None], kernel, padding=reach)[0, 0] for v in (cost, ones))
    return total / count


def _crossings(rising: Tensor, value: Tensor) -> Tensor:
    """Where a function that is given at 0, 1, 2, ... and straight between has these values."""
    k = torch.searchsorted(rising, value, right=True).clamp(1, len(rising) - 1)
    return k - 1 + ((value - rising[k - 1]) / (rising[k] - rising[k - 1])).clamp(0, 1)
