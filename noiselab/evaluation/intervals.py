"""95 % confidence intervals of means over seeds, of proportions, and of paired differences."""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch

from ..numerics import require_count


@dataclass(frozen=True)
class Interval:
    """A mean and the half-width of its 95 % confidence interval."""

    mean: float
    half: float

    def __str__(self) -> str:
        return f"{self.mean:+.4f} ± {self.half:.4f}"


def interval(values: list[float]) -> Interval:
    """The mean of independent values, at least two, and its 95 % confidence interval.

    **Raises:** `ValueError` for fewer values.
    """
    if len(values) < 2:
        raise ValueError(f"there must be at least two values for an interval; got {len(values)}")
    x = torch.tensor(values, dtype=torch.float64)
    return Interval(x.mean().item(), _student(len(x) - 1) * x.std().item() / len(x) ** 0.5)


def _student(freedom: int) -> float:
    """The 97.5 % quantile of Student's t: closed form for one or two degrees of freedom, else the Cornish-Fisher series
    (to 1e-3).
    """
    if freedom == 1:
        return math.tan(0.475 * math.pi)
    if freedom == 2:
        return 0.95 * math.sqrt(2 / (1 - 0.95**2))
    z = 1.959963984540054
    terms = (
        (z**3 + z) / 4,
        (5 * z**5 + 16 * z**3 + 3 * z) / 96,
        (3 * z**7 + 19 * z**5 + 17 * z**3 - 15 * z) / 384,
        (79 * z**9 + 776 * z**7 + 1482 * z**5 - 1920 * z**3 - 945 * z) / 92160,
    )
    return z + sum(term / freedom**k for k, term in enumerate(terms, 1))


def wilson(count: int, of: int) -> tuple[float, float]:
    r"""The Wilson interval of a proportion: all $p$ with $|c / n - p| \le 1.96 \sqrt{p (1 - p) / n}$.

    **Arguments:**

    - `count`: the number of positive cases $c$; `of`: the number of all cases $n$.

    **Raises:** `ValueError` unless 0 <= `count` <= `of` and `of` is positive.

    **Source:** Wilson (1927), Journal of the American Statistical Association 22.
    """
    count = require_count("count", count, 0, require_count("of, the number of all cases,", of))
    square = 1.959963984540054**2 / of
    middle = (count / of + square / 2) / (1 + square)
    half = math.sqrt(square * (count / of * (1 - count / of) + square / 4)) / (1 + square)
    return max(0.0, middle - half), min(1.0, middle + half)


def paired_difference(new: Sequence[bool], old: Sequence[bool]) -> Interval:
    """The difference of two proportions on the same cases, with its confidence interval.

    **Arguments:**

    - `new`, `old`: whether each case is right under each of two methods.

    **Returns:** the difference of the proportions, and the half-width from the variance of the differences (as in
    McNemar's test).

    **Raises:** `ValueError` unless both have the same number of cases, at least two.

    **Example:**

    ```python
    from noiselab.evaluation import paired_difference

    assert paired_difference([True, True, False, True], [True, False, False, False]).mean == 0.5
    ```
    """
    if len(new) != len(old) or len(new) < 2:
        raise ValueError(f"both must have the same number of cases, at least two; got {len(new)} and {len(old)}")
    differences = torch.tensor(new, dtype=torch.float64) - torch.tensor(old, dtype=torch.float64)
    return Interval(differences.mean().item(), 1.959963984540054 * differences.std().item() / len(new) ** 0.5)
