"""Validation of time ranges and grids."""

from jaxtyping import Float
from torch import Tensor

from ..numerics import require_number
from ..process import NoiseProcess
from ..typing import Grid

LOW = 1e-4  # default lower end of the time range


def time_range(
    process: NoiseProcess, low: float | int | None = None, high: float | int | None = None
) -> tuple[float, float]:
    """Validate a time range and fill in its defaults.

    **Raises:** `ValueError` unless it rises within the domain of the process.
    """
    first, last = process.domain
    start = max(LOW, first) if low is None else require_number("low", low)
    stop = last if high is None else require_number("high", high)
    if not first <= start < stop <= last:
        raise ValueError(f"times must rise within the domain {process.domain} of the process; got {start} to {stop}")
    return start, stop


def falling(process: NoiseProcess, times: Grid) -> Grid:
    """Validate a grid of times and convert it to float64.

    **Raises:** `ValueError` unless it falls within the domain of the process.
    """
    if not isinstance(times, Tensor):
        raise ValueError(f"times must be a grid, such as torch.linspace(1, 0, 17) for 16 steps; got {times!r}")
    times, (low, high) = times.double(), process.domain
    if times.dim() != 1 or len(times) < 2 or not (times[1:] < times[:-1]).all():
        raise ValueError(f"times must fall from noise to data; got {times.tolist()}")
    # A float32 grid may miss the ends by rounding.
    if times[0] > high + 1e-6 or times[-1] < low - 1e-6:
        raise ValueError(f"times must lie in [{low}, {high}]; got {times[0].item()} to {times[-1].item()}")
    return times.clamp(low, high)


def require_range(t: Float[Tensor, "batch ..."], weight: Float[Tensor, "batch ..."], low: float, high: float) -> None:
    """Check that drawn times lie in the range and that their weights have mean high - low.

    **Raises:** `ValueError` if a time is outside, or the mean of the weights differs by more than a quarter and five
    standard errors, which indicates weights of another range, for which the mean is not a bound.
    """
    if t.shape != weight.shape:
        raise ValueError(f"times and weights must have one shape; got {list(t.shape)} and {list(weight.shape)}")
    first, last = t.min().item(), t.max().item()
    if not (first >= low - 1e-6 and last <= high + 1e-6):  # nor NaN
        raise ValueError(f"times must lie in [{low:g}, {high:g}], the range of the bound; got {first:g} to {last:g}")
    each, span = weight.double().flatten(1).mean(1) if weight.dim() > 1 else weight.double(), high - low
    if len(each) >= 8:
        mean, error = each.mean().item(), (each.std() / len(each) ** 0.5).item()
        if abs(mean - span) > 0.25 * span + 5 * error:
            raise ValueError(
                f"times must run over the range of the bound, [{low:g}, {high:g}], with weights of mean {span:g}; got "
                f"{mean:.3g} +- {error:.1g} (pass the same low and high to both)"
            )
