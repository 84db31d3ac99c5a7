"""A rule that accepts tokens whose predictions have settled."""

from typing import ClassVar, Literal, get_args

import torch

from ...numerics import require_count, require_number
from ...typing import Selection
from ..positions import select_best
from .base import Counts, Proposals, accept_at_least, require_counts
from .thresholds import Confidence, _Confident

Pick = Literal["all", "most stable", "most confident"]


class StableConfidence(_Confident):
    r"""Accepts tokens whose prediction is confident and has not changed for some steps, or else a quota of the most confident.

    A position is ready if its confidence is above the threshold, and in each of the last `history` steps

    $$\mathrm{KL}(\hat x^{\text{now}} \,\|\, \hat x^{\text{before}}) < \kappa$$

    All ready ones are accepted; if there are none, the `minimum` of the step, the most confident first.

    The predictions of the step before belong to the walk: they are kept across the blocks of a `BlockSampler`, for which the
    network is also evaluated at the masks of later blocks, and there are none before the first step. In the first
    `history - 1` steps of a block no position is ready.

    **Arguments:**

    - `change`: $\kappa$ in nats, non-negative.
    - `threshold`: in [0, 1].
    - `history`: the number of steps, at least 1.
    - `minimum`: the number of tokens that are accepted if none is ready, or one number for each step of a block.
    - `pick`: "all", or only one ready position: the "most stable" (of least divergence) or the "most confident".
    - `confidence`: as for `ConfidenceThreshold`.

    **Raises:** `ValueError` for numbers out of range.

    **Source:** Kim et al. (2025), "KLASS", arXiv 2511.05664, there `kl_threshold`, `conf_threshold`, `history`; the published
    quota is `even_quotas`, and steps end with it even if masks are left, which are revealed here in the last step.

    **Example:**

    ```python
    import torch
    import noiselab as nl

    process = nl.masked(vocab_size=3, mask_id=2)
    oracle = nl.MarkovOracle(torch.tensor([0.5, 0.5]), torch.tensor([[0.9, 0.1], [0.2, 0.8]]), process)
    rule = nl.samplers.StableConfidence(change=0.01, threshold=0.6)
    blocks = nl.samplers.BlockSampler(nl.samplers.ThresholdSampler(process, oracle, rule), block_size=8)
    assert (blocks.sample((4, 16), steps=8) < 2).all()
    ```
    """

    uses: ClassVar[tuple[str, ...]] = ("log_largest", "change")

    def __init__(
        self,
        change: float | int = 0.01,
        threshold: float | int = 0.9,
        *,
        history: int = 2,
        minimum: Counts = 1,
        pick: Pick = "all",
        confidence: Confidence = "largest",
    ):
        super().__init__(confidence)
        if pick not in get_args(Pick):
            raise ValueError(f"pick must be one of {', '.join(get_args(Pick))}; got {pick!r}")
        self.change = require_number("change", change, 0, infinite=True)
        self.threshold = require_number("threshold", threshold, 0, 1)
        self.history, self.pick = require_count("history", history), pick
        self.minimum = require_counts("minimum", minimum)

    def __call__(self, found: Proposals) -> Selection:
        """The accepted positions."""
        live = found.rows.any(-1, keepdim=True)
        calm = found.kept.get("calm", torch.zeros_like(found.token))
        now = torch.where(found.change < self.change, calm + 1, 0)
        found.kept["calm"] = calm = torch.where(live, now, calm)
        score = self.log_confidence(found)
        ready = found.rows & (calm >= self.history) & (score.exp() > self.threshold)
        ready = ready & (found.step >= self.history - 1)[:, None]
        none = ~ready.any(-1, keepdim=True)
        if self.pick != "all":
            order = score if self.pick == "most confident" else -found.change
            ready = select_best(order, ready, torch.ones_like(found.step))
        quota = accept_at_least(torch.zeros_like(ready), score, found, self.minimum)
        return torch.where(none, quota, ready)

    def options(self) -> list[str]:
        """The settings, for `repr`."""
        return [
            f"{self.change:g}",
            f"{self.threshold:g}",
            f"history={self.history}",
            *self.minimum_option(),
            *[f"pick={self.pick!r}"] * (self.pick != "all"),
            *self.confidence_option(),
        ]
