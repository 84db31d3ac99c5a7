r"""Times at which a bound is evaluated, each with the weight that makes a mean, or a sum, the integral over time.

$$\int_{low}^{high} f(t)\, dt \;=\; \mathbb E\big[\, \text{weight} \cdot f(t)\, \big] \quad\text{(drawn times)}, \qquad
\int_{low}^{high} f(t)\, dt \;\approx\; \sum_k \text{weight}_k\, f(t_k) \quad\text{(\texttt{quadrature})}$$

A time belongs to a sequence or to a token. The bound holds along any rising path of per-token times (`path_times`,
`block_times`), with each term multiplied by dt_i. Independent times (`token_times`, `separate_block_times`) lie on no path.

To share one set of times between workers or micro-steps, pass `first` and `total`, and use the same `shift` or
equally seeded generators everywhere.
"""

from collections.abc import Callable

import torch
from jaxtyping import Float
from torch import Generator, Tensor

from .numerics import gauss_legendre, require_count, require_number
from .schedules import ScheduleLike, as_schedule
from .typing import PerSequence, PerToken, Scalar

CELLS = 4096  # of the piecewise constant density that `importance_times` draws from


def stratified_times(
    count: int,
    *,
    shift: float | int | Scalar | None = None,
    first: int = 0,
    total: int | None = None,
    low: float | int = 0.0,
    high: float | int = 1.0,
    generator: Generator | None = None,
) -> PerSequence:
    r"""Low-discrepancy times: $t_i = low + (high - low)\,((u + i / n) \bmod 1)$, one in each of n equal intervals.

    **Arguments:**

    - `count`: the number of times to return.
    - `shift`: the common u in [0, 1); drawn from `generator` by default.
    - `first`, `total`: the index of the first of them and the size n of the whole set, where the set is shared between
      workers or micro-steps (which then need the same `shift`).
    - `low`, `high`: the time range.

    **Raises:** `ValueError` unless 0 <= `first` and `first` + `count` <= `total`.

    **Returns:** float64. To report a bound, change the clock with `sine_clock`, as `noiselab.evaluation.validation_bound`
    does: where the noise behaves like a square root at the ends, the estimate from evenly spread times has heavy tails.

    **Source:** Kingma et al. (2021), "Variational Diffusion Models", arXiv 2107.00630, appendix I.1.
    """
    _rising(low, high)
    if shift is None:
        shift = _rand(generator)
    elif not isinstance(shift, Tensor):
        shift = require_number("shift", shift)
    elif shift.dim() or not shift.isfinite():
        raise ValueError(f"shift must be a finite number; got {shift}")
    total = _checked(count, first, total)
    index = first + torch.arange(count, dtype=torch.float64)
    return low + (high - low) * ((shift + index / max(1, total)) % 1)


def uniform_times(
    count: int,
    *,
    first: int = 0,
    total: int | None = None,
    low: float | int = 0.0,
    high: float | int = 1.0,
    generator: Generator | None = None,
) -> PerSequence:
    r"""Independent uniform times in [low, high).

    **Arguments:**

    - `count`: the number of times to return.
    - `first`, `total`: the index of the first of them and the size of the whole set, where the set is shared: every
      worker draws the whole set with an equally seeded generator and keeps its part.
    - `low`, `high`: the time range.

    **Returns:** float64. `stratified_times` has the same mean and less variance.
    """
    _rising(low, high)
    return low + (high - low) * _rand(generator, _checked(count, first, total))[first : first + count]


def importance_times(
    count: int,
    density: ScheduleLike,
    *,
    low: float | int = 0.0,
    high: float | int = 1.0,
    shift: float | int | Scalar | None = None,
    first: int = 0,
    total: int | None = None,
    cells: int = CELLS,
    generator: Generator | None = None,
) -> tuple[PerSequence, PerSequence]:
    r"""Stratified times from any positive density p, with weights 1 / p(t): the mean of weight * f(t) is the integral of f.

    The density is replaced by one that is constant on each of `cells` intervals. Times and weights both use the
    replacement, so the estimate is unbiased for any `cells`.

    **Arguments:**

    - `count`: the number of times to return.
    - `density`: a schedule, a function of time or a number; it need not be normalised. It is evaluated at the
      middle of each interval, so it may vanish or be infinite at the very ends. The variance is smallest for the root
      mean square of the integrand.
    - `low`, `high`: the time range.
    - `shift`, `first`, `total`: as for `stratified_times`.
    - `cells`: number of intervals, narrower towards both ends.

    **Returns:** times and weights, float64.

    **Raises:** `ValueError` where the density is not positive and finite.

    **Source:** inverse transform sampling; Nichol and Dhariwal (2021), arXiv 2102.09672, section 3.3, for importance
    sampling of time.

    **Example:**

    ```python
    import torch
    import noiselab as nl

    t, weight = nl.times.importance_times(1000, nl.t**-0.5, generator=torch.Generator().manual_seed(0))
    # The integral of 1 / sqrt(t) is 2, here nearly without variance.
    assert torch.isclose((weight * t**-0.5).mean(), torch.tensor(2.0).double(), atol=0.01)
    ```
    """
    u = stratified_times(count, shift=shift, first=first, total=total, generator=generator)
    return _from_density(u, density, low, high, cells)


def token_times(
    batch: int,
    length: int,
    *,
    share: float | int = 1.0,
    low: float | int = 0.0,
    high: float | int = 1.0,
    shift: float | int | Scalar | None = None,
    first: int = 0,
    total: int | None = None,
    generator: Generator | None = None,
) -> PerToken:
    r"""Independent uniform times for each token (diffusion forcing), for a fraction of the sequences.

    This is a training distribution and gives **no bound**: independent times lie on no path from noise to data, and the mean of
    $\sum_i \text{nelbo}_i$ over them is not the entropy H, even for the exact denoiser. Under masking, n equal tokens give
    $n\, 2^{1 - n} H$: H for two, 0.75 H for three. For a bound use `path_times`, `block_times`, or one time for
    each sequence.

    **Arguments:**

    - `batch`, `length`: the shape of the times to return.
    - `share`: in [0, 1]; the probability that a sequence has independent times. The others have one common time,
      stratified over the batch. Published: 0.5.
    - `low`, `high`: the time range.
    - `shift`, `first`, `total`: as for `stratified_times`; every worker draws the whole set with an equally seeded
      generator.

    **Returns:** float64.

    **Source:** Chen et al. (2024), "Diffusion Forcing", arXiv 2407.01392; the share of one half is from
    von Ruette et al. (2025), "Scaling Behavior of Discrete Diffusion Language Models", arXiv 2512.10858.
    """
    _rising(low, high)
    length, share = require_count("length", length), require_number("share", share, 0, 1)
    common = stratified_times(batch, shift=shift, first=first, total=total, generator=generator)[:, None]
    whole, here = _checked(batch, first, total), slice(first, first + batch)
    own, independent = _rand(generator, whole, length)[here], _rand(generator, whole, 1)[here] < share
    return low + (high - low) * torch.where(independent, own, common)


def block_times(
    batch: int,
    length: int,
    block: int,
    *,
    density: ScheduleLike = 1,
    low: float | int = 0.0,
    high: float | int = 1.0,
    shift: float | int | Scalar | None = None,
    first: int = 0,
    total: int | None = None,
    generator: Generator | None = None,
) -> tuple[PerToken, PerToken]:
    r"""Times for blocks that are generated one after another: one block in progress, earlier ones clean, later ones noise.

    One block of each sequence is active, at a time in [low, high]; the blocks before it are at `low`, those after it at
    `high`. The weight is the number of blocks times 1 / p(t) on the active block, and 0 elsewhere. This is a path of
    per-token times, so the mean of $\sum_i \text{weight}_i\, \text{nelbo}_i$ is a bound, and equals the entropy for the
    exact denoiser. `block = 1` is autoregressive; with `block = length` all tokens share one time.

    **Arguments:**

    - `batch`, `length`: the shape of the times to return.
    - `block`: the number of tokens in a block; the last may be shorter.
    - `density`: the density of the active block's time, as for `importance_times`; uniform by default.
    - `low`, `high`: the time range. Drop the terms of weight 0 instead of multiplying them by 0, as
      `noiselab.continuous_bound` does: at the very ends of time they may be infinite.
    - `shift`, `first`, `total`: as for `stratified_times`. The choice of the block is stratified too.

    **Returns:** times and weights, float64.

    **Source:** Arriola et al. (2025), "Block Diffusion", arXiv 2503.09573.

    **Example:**

    ```python
    import noiselab as nl

    t, weight = nl.times.block_times(1, 6, 2, shift=0.5)  # the middle of the second of three blocks
    assert t.tolist() == [[0, 0, 0.5, 0.5, 1, 1]] and weight.tolist() == [[0, 0, 3, 3, 0, 0]]
    ```
    """
    block, length = require_count("block", block), require_count("length", length)
    blocks = -(-length // block)
    place = blocks * stratified_times(batch, shift=shift, first=first, total=total, generator=generator)[:, None]
    active = place.floor().clamp(max=blocks - 1)
    t, weight = _from_density(place - active, density, low, high, CELLS)
    order = torch.arange(length) // block
    first, last = t.new_tensor([low, high])
    time = torch.where(order == active, t, torch.where(order < active, first, last))
    return time, torch.where(order == active, blocks * weight, 0)


def separate_block_times(
    batch: int,
    length: int,
    block: int,
    *,
    low: float | int = 0.0,
    high: float | int = 1.0,
    shift: float | int | Scalar | None = None,
    first: int = 0,
    total: int | None = None,
    generator: Generator | None = None,
) -> PerToken:
    r"""A time of its own for each block of each sequence, stratified over all blocks of all sequences.

    This is for denoisers whose blocks attend to *clean* earlier blocks, so that all blocks are noised and learned in one pass.
    There the mean of $\sum_i \text{nelbo}_i$ is the block bound, without weights. For
    other denoisers independent times lie on no path from noise to data: `block_times` gives a bound.

    **Arguments:**

    - `batch`, `length`: the shape of the times to return.
    - `block`: the number of tokens in a block; the last may be shorter.
    - `low`, `high`: the time range.
    - `shift`, `first`, `total`: as for `stratified_times`; every worker draws the whole set with an equally seeded
      generator. The intervals are dealt to the blocks at random.

    **Returns:** float64.

    **Source:** Arriola et al. (2025), "Block Diffusion", arXiv 2503.09573, section 3.2 and appendix B.

    **Example:**

    ```python
    import torch
    import noiselab as nl

    t = nl.times.separate_block_times(2, 5, 2, generator=torch.Generator().manual_seed(0))
    assert (t[:, 0] == t[:, 1]).all() and (t[:, 1] != t[:, 2]).all()
    assert (6 * t[:, ::2]).long().flatten().sort().values.tolist() == [0, 1, 2, 3, 4, 5]  # one in each sixth
    ```
    """
    _rising(low, high)
    block, length = require_count("block", block), require_count("length", length)
    whole, blocks = _checked(batch, first, total), -(-length // block)
    times = stratified_times(whole * blocks, shift=shift, low=low, high=high, generator=generator)
    dealt = times[_rand(generator, whole * blocks).argsort()].view(whole, blocks)[first : first + batch]
    return dealt[:, torch.arange(length) // block]


def path_times(tau: PerSequence, path: Callable[[Tensor], Tensor]) -> tuple[PerToken, PerToken]:
    r"""A clock for each token: times $t_i(\tau)$ with the weights $dt_i / d\tau$.

    If every clock runs from the lower to the upper end of the time range, the mean over uniform $\tau$ of
    $\sum_i \text{weight}_i\, \text{nelbo}_i$ is a bound, and equals the entropy for the exact denoiser.

    **Arguments:**

    - `tau`: in [0, 1], one for each sequence.
    - `path`: takes `tau` as [batch, 1] and returns the times of the tokens, [batch, length] or a shape that broadcasts to it;
      no clock may run backwards. Slopes come from forward-mode automatic differentiation.

    **Raises:** `ValueError` if a time leaves [0, 1], or a clock runs backwards.

    **Source:** derived on the theory page ("Change of time").

    **Example:**

    ```python
    import torch
    import noiselab as nl

    powers = torch.tensor([1.0, 2.0])
    t, weight = nl.times.path_times(torch.tensor([0.5]), lambda tau: tau**powers)
    assert t.tolist() == [[0.5, 0.25]] and weight.tolist() == [[1, 1]]
    ```
    """
    tau = tau.double()[:, None].contiguous()
    t, weight = torch.func.jvp(path, (tau,), (torch.ones_like(tau),))[:2]
    bad = ~((t >= 0) & (t <= 1) & (weight >= 0))
    if bad.any():
        row, token = bad.nonzero()[0].tolist()
        raise ValueError(
            f"times must rise within [0, 1]; got t = {t[row, token].item():.6g} with slope "
            f"{weight[row, token].item():.6g} at tau = {tau[row].item():.6g}"
        )
    return t, weight


def sine_clock(
    u: Float[Tensor, "..."], *, low: float | int = 0.0, high: float | int = 1.0
) -> tuple[Float[Tensor, "..."], Float[Tensor, "..."]]:
    r"""Times that are dense at both ends: $t = low + (high - low) \sin^2(\pi u / 2)$, with the weight $dt / du$.

    Hybrid and uniform noise make the bound's integrand infinite at the ends, like an inverse square root; on this clock
    it is nearly flat.

    **Arguments:**

    - `u`: in [0, 1]; evenly spread (`stratified_times`) or the nodes of a quadrature rule.
    - `low`, `high`: the time range.

    **Returns:** times within [low, high], at least 1e-12 of the range away from its ends, and weights.
    """
    _rising(require_number("low", low, 0, 1), require_number("high", high, 0, 1))
    if u.device.type == "cpu" and not ((u >= 0) & (u <= 1)).all():
        raise ValueError(f"u must lie in [0, 1]; got {u[~((u >= 0) & (u <= 1))][0].item():.6g}")
    span = high - low
    t = (low + span * torch.sin(torch.pi * u / 2) ** 2).clamp(max=high - 1e-12 * span, min=low + 1e-12 * span)
    return t, span * torch.pi / 2 * torch.sin(torch.pi * u)


def quadrature(
    nodes: int, *, low: float | int = 0.0, high: float | int = 1.0
) -> tuple[Float[Tensor, " nodes"], Float[Tensor, " nodes"]]:
    r"""Fixed times whose weighted **sum** is the integral over [low, high]: Gauss-Legendre on a clock flat at both ends.

    $$t = low + (high - low)\, u^4 (35 - 84 u + 70 u^2 - 20 u^3)$$

    The bound of hybrid noise behaves at the ends like $t^{-1/2} \log t$. After this change of time 16 nodes give four
    digits; a squared sine gives two, because it leaves a logarithm. For a process whose signal falls within a short time
    or has corners, use `noiselab.likelihood.process_quadrature`.

    **Arguments:**

    - `nodes`: their number.
    - `low`, `high`: the time range.

    **Returns:** times within [low, high], at least 1e-12 of the range away from its ends, and weights that sum to
    high - low (from 4 nodes on).

    **Source:** Golub and Welsch (1969) for the nodes; the clock is the smooth step of degree 7.

    **Example:**

    ```python
    import torch
    import noiselab as nl

    t, weight = nl.times.quadrature(16)
    assert torch.isclose((weight * (t * (1 - t)) ** -0.5).sum(), torch.tensor(torch.pi).double())
    ```
    """
    _rising(low, high)
    u, weight = gauss_legendre(require_count("nodes", nodes))
    span = high - low
    t = low + span * u**4 * (35 - 84 * u + 70 * u**2 - 20 * u**3)
    return t.clamp(low + 1e-12 * span, high - 1e-12 * span), 140 * span * weight * (u * (1 - u)) ** 3


def _checked(count: int, first: int, total: int | None) -> int:
    """The size of the shared set of times."""
    count = require_count("count", count, 0)
    total = count if total is None else require_count("total", total, 0)
    if not isinstance(first, int) or not 0 <= first <= total - count:
        raise ValueError(
            f"the requested times must lie within the shared set, 0 <= first and first + count <= total; "
            f"got first = {first}, count = {count}, total = {total}"
        )
    return total


def _rising(low: float, high: float) -> None:
    if not require_number("low", low) <= require_number("high", high):
        raise ValueError(f"times must rise from low to high; got {low} to {high}")


def _rand(generator: Generator | None, *shape: int) -> Tensor:
    """Uniform float64 numbers on the host, drawn on the device of the generator."""
    home = None if generator is None else generator.device
    return torch.rand(shape, dtype=torch.float64, generator=generator, device=home).cpu()


def _from_density(u: Tensor, density: ScheduleLike, low: float, high: float, cells: int) -> tuple[Tensor, Tensor]:
    """Times whose cumulative probability is u, and the reciprocal of the density that they are drawn from."""
    _rising(low, high)
    if low == high:
        raise ValueError(f"times must rise from low to high; got {low} to {high}")
    cells = require_count("cells", cells)
    # Cells are narrow at both ends, where densities such as an inverse square root change most.
    edges = low + (high - low) * torch.sin(torch.linspace(0, torch.pi / 2, cells + 1, dtype=torch.float64)) ** 2
    middle = (edges[1:] + edges[:-1]) / 2
    with torch.no_grad():
        p = as_schedule(density)(middle).double()
    bad = ~((p > 0) & p.isfinite())
    if bad.any():
        raise ValueError(
            f"the density must be positive and finite; got {p[bad][0].item():.4g} at t = {middle[bad][0].item():.6g}"
        )
    mass = (p * edges.diff()).cumsum(0)
    before = torch.cat([mass.new_zeros(1), mass[:-1]])
    target = u * mass[-1]
    cell = torch.searchsorted(mass, target, right=True).clamp(max=cells - 1)
    t = edges[cell] + (target - before[cell]) / p[cell]
    return torch.minimum(t, edges[cell + 1]), mass[-1] / p[cell]
