"""Estimates with standard errors."""

import math
from collections.abc import Callable
from typing import NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor

from ..numerics import require_count, require_tensor
from ..typing import Times


class Estimate(NamedTuple):
    """A mean with its standard error; prints as both, and formats each with the given format.

    **Arguments:**

    - `mean`: the mean of the replicates.
    - `error`: the standard error of that mean.

    **Example:**

    ```python
    import noiselab as nl

    assert f"{nl.likelihood.Estimate(1.2345, 0.0061):.2f}" == "1.23 +- 0.01"
    ```
    """

    mean: float
    error: float

    def __format__(self, spec: str) -> str:
        return f"{format(self.mean, spec)} +- {format(self.error, spec)}" if spec else str(self)

    def __str__(self) -> str:
        digits = 4
        if self.error > 0 and math.isfinite(self.error):
            digits = max(0, 1 - math.floor(math.log10(self.error)))  # two digits of the error
        return format(self, f".{digits}f")

    def distance(self, value: float | int) -> float:
        """The distance of the mean above a value, in standard errors."""
        return (self.mean - value) / self.error if self.error > 0 else math.copysign(math.inf, self.mean - value)


def estimate(replicates: Float[Tensor, " replicates"]) -> Estimate:
    r"""The mean of independent replicates, with the standard error $\mathrm{std} / \sqrt n$.

    **Raises:** `ValueError` for fewer than two.
    """
    values = require_tensor("replicates", replicates, "replicate").double()
    if len(values) < 2:
        raise ValueError(f"there must be at least two replicates for an error; got {len(values)}")
    return Estimate(values.mean().item(), (values.std() / len(values) ** 0.5).item())


def average(draw: Callable[[], Times], repeats: int) -> Estimate:
    """Repeat an estimate and compute its standard error from the repeats.

    Within one estimate, times may be stratified, z shared or values paired. Its values are then not independent, and
    their variance does not determine the error of their mean. Repeated estimates are independent.

    **Arguments:**

    - `draw`: a function that computes one estimate with new randomness; a tensor is averaged over all its entries.
    - `repeats`: the number of repeats, at least 2; with 20 the error is accurate to about 16 per cent.

    **Raises:** `ValueError` for fewer than two repeats.

    **Example:**

    ```python
    import torch
    import noiselab as nl

    generator = torch.Generator().manual_seed(0)
    # The integral of t^2. With stratified times the error is far below that of independent ones.
    found = nl.likelihood.average(lambda: nl.stratified_times(100, generator=generator) ** 2, 20)
    assert abs(found.distance(1 / 3)) < 3 and found.error < 0.001
    ```
    """
    require_count("repeats", repeats, 2)
    with torch.no_grad():
        return estimate(torch.stack([draw().double().mean() for _ in range(repeats)]))
