"""Rules that accept a number of tokens that depends on their order or on their neighbours."""

from typing import ClassVar, Literal, get_args

import torch
from torch.nn.functional import pad

from ...numerics import require_number
from ...typing import Selection
from ..positions import rank_positions, select_best, select_within
from .base import Acceptance, Counts, Proposals, accept_at_least, count_in_step, require_counts
from .thresholds import Confidence, _Confident

Order = Literal["confidence", "proposed", "entropy", "position"]


class Quota(Acceptance):
    """Accepts a given number of tokens in each step: the most confident ones, those of least entropy, or the first ones.

    **Arguments:**

    - `counts`: the number in each step, or one for each step of a block (`even_quotas`).
    - `order`: "confidence", the largest probability; "proposed", that of the proposed token; "entropy"; or "position", from
      left to right.

    **Raises:** `ValueError` for a number below 1, or another order.

    **Source:** Nie et al. (2025), LLaDA, arXiv 2502.09992 ("low-confidence remasking"); SDAR for "position" (there
    "sequential"; "static" is the first).

    **Example:**

    ```python
    import noiselab as nl

    rule = nl.samplers.Quota(nl.samplers.even_quotas(block_size=32, steps=8))
    ```
    """

    def __init__(self, counts: Counts = 1, *, order: Order = "confidence"):
        if order not in get_args(Order):
            raise ValueError(f"order must be one of {', '.join(get_args(Order))}; got {order!r}")
        self.minimum, self.order = require_counts("counts", counts), order
        self.exact = set(self.minimum) == {1} and order != "proposed"

    def __call__(self, found: Proposals) -> Selection:
        """The accepted positions."""
        if self.order == "position":
            score = torch.zeros_like(found.log_confidence)  # ties are broken from left to right
        elif self.order == "entropy":
            score = -found.entropy
        else:
            score = found.log_largest if self.order == "confidence" else found.log_confidence
        return select_best(score, found.rows, count_in_step(self.minimum, found.step))

    def options(self) -> list[str]:
        """The settings, for `repr`."""
        counts = self.minimum[0] if len(self.minimum) == 1 else list(self.minimum)
        return [f"{counts}"] + [f"order={self.order!r}"] * (self.order != "confidence")


class EntropyBound(Acceptance):
    r"""Accepts tokens in the order of their entropies as long as the sum of those already accepted is within a bound.

    $$\sum_{l \in U} H_l - \max_{l \in U} H_l \le \gamma$$

    The token that crosses the bound is still accepted. This is the rule of `EntropyBoundedSampler` with its default score, and
    that of SGLang.

    **Arguments:**

    - `bound`: $\gamma$ in nats, non-negative.

    **Raises:** `ValueError` for a negative bound.

    **Source:** Ben-Hamu et al. (2025), arXiv 2505.24857; SGLang's `eb_sampling`, there `gamma`.

    **Example:**

    ```python
    import noiselab as nl

    rule = nl.samplers.EntropyBound(0.1)
    ```
    """

    uses = ("entropy",)

    def __init__(self, bound: float | int = 0.1):
        self.bound = require_number("bound", bound, 0, infinite=True)
        self.exact = self.bound == 0

    def __call__(self, found: Proposals) -> Selection:
        """The accepted positions."""
        return select_within(-found.entropy, found.entropy, found.rows, self.bound)

    def options(self) -> list[str]:
        """The settings, for `repr`."""
        return [f"{self.bound:g}"]


class Factor(_Confident):
    r"""Accepts the longest beginning of the order by confidence in which each token is sure enough for its rank.

    $$c_{(r)} \ge 1 - \frac{f}{r + 1}, \qquad r = 1, 2, \dots$$

    The more tokens are accepted together, the more confident the last one must be; the first is always accepted.

    **Arguments:**

    - `factor`: f, non-negative.
    - `confidence`: as for `ConfidenceThreshold`.

    **Raises:** `ValueError` for a negative factor.

    **Source:** Wu et al. (2025), "Fast-dLLM", arXiv 2505.22618, there (n + 1)(1 - c) < f. The code of dInfer accepts all
    candidates where only the last one fails, which is not accepted here.

    **Example:**

    ```python
    import noiselab as nl

    rule = nl.samplers.Factor(1.0)
    ```
    """

    def __init__(self, factor: float | int = 1.0, *, confidence: Confidence = "largest"):
        super().__init__(confidence)
        self.factor = require_number("factor", factor, 0)
        self.exact = self.factor == 0 and self.blind

    def __call__(self, found: Proposals) -> Selection:
        """The accepted positions."""
        score = self.log_confidence(found)
        order = rank_positions(score, found.rows)
        rank = torch.arange(1, order.shape[1] + 1, dtype=torch.float64, device=order.device)
        sure = (score.gather(-1, order).exp() >= 1 - self.factor / (rank + 1)) & found.rows.gather(-1, order)
        return select_best(score, found.rows, sure.long().cumprod(-1).sum(-1).clamp(min=1))

    def options(self) -> list[str]:
        """The settings, for `repr`."""
        return [f"{self.factor:g}", *self.confidence_option()]


class LocalMaxima(_Confident):
    """Accepts the most confident token of each run of neighbouring masks, all above a threshold, and the most confident ones.

    Tokens that are accepted together are then mostly apart from each other, and depend on each other less.

    **Arguments:**

    - `low`: in [0, 1]; the best of a run is accepted if its confidence is above it.
    - `threshold`: in [0, 1]; all tokens with a confidence above it are accepted.
    - `minimum`, `confidence`: as for `ConfidenceThreshold`.

    **Raises:** `ValueError` for numbers out of range, or `low` above `threshold`.

    **Source:** the hierarchical decoder of dInfer (inclusionAI/dInfer), there `low_threshold`.

    **Example:**

    ```python
    import noiselab as nl

    rule = nl.samplers.LocalMaxima(0.6, 0.9)
    ```
    """

    uses: ClassVar[tuple[str, ...]] = ("log_largest",)

    def __init__(
        self,
        low: float | int = 0.6,
        threshold: float | int = 0.9,
        *,
        minimum: Counts = 1,
        confidence: Confidence = "largest",
    ):
        super().__init__(confidence)
        self.threshold = require_number("threshold", threshold, 0, 1)
        self.low = require_number("low", low, 0, 1)
        if self.low > self.threshold:
            raise ValueError(f"low must be at most the threshold, {self.threshold:g}; got {self.low:g}")
        self.minimum = require_counts("minimum", minimum)

    def __call__(self, found: Proposals) -> Selection:
        """The accepted positions."""
        score, rows = self.log_confidence(found), found.rows
        sure = score.exp()
        rank = rank_positions(score, rows).argsort(-1)
        number = (rows & ~pad(rows, (1, 0))[:, :-1]).long().cumsum(-1)  # of the run of masks
        length = rows.shape[1]
        best = torch.full((len(rows), length + 1), length, device=rows.device)
        best = best.scatter_reduce(1, number, torch.where(rows, rank, length), "amin")
        peak = rows & (rank == best.gather(1, number)) & (sure > self.low)
        return accept_at_least(peak | (rows & (sure > self.threshold)), score, found, self.minimum)

    def options(self) -> list[str]:
        """The settings, for `repr`."""
        return [f"{self.low:g}", f"{self.threshold:g}", *self.minimum_option(), *self.confidence_option()]
