"""Rules that accept all tokens of which the model is sure enough, and the surest ones."""

from typing import ClassVar, Literal, get_args

from ...numerics import require_number
from ...typing import PerToken, Selection
from .base import Acceptance, Counts, Proposals, accept_at_least, require_counts

Confidence = Literal["largest", "proposed"]


class _Confident(Acceptance):
    """Base class of rules by confidence, which is that of the most probable or of the proposed token."""

    uses: ClassVar[tuple[str, ...]] = ("log_largest",)

    def __init__(self, confidence: Confidence):
        if confidence not in get_args(Confidence):
            raise ValueError(f"confidence must be 'largest' or 'proposed'; got {confidence!r}")
        self.confidence = confidence

    @property
    def blind(self) -> bool:
        """Whether it does not depend on what was drawn."""
        return self.confidence == "largest"

    def log_confidence(self, found: Proposals) -> PerToken:
        """The logarithm of the confidence."""
        return found.log_largest if self.blind else found.log_confidence

    def confidence_option(self) -> list[str]:
        """The kind of confidence for `repr`, unless it is the largest probability."""
        return [] if self.blind else ["confidence='proposed'"]


class ConfidenceThreshold(_Confident):
    r"""Accepts all tokens with a confidence of at least a threshold, and the most confident ones up to a minimum.

    $$\hat x_{(1)} \ge \tau$$

    With a `minimum` this is the larger one of two sets: the tokens above the threshold, and the most confident ones of the
    given number (the rule called "dynamic" by SDAR).

    **Arguments:**

    - `threshold`: $\tau$, in [0, 1]. At 1 only certain tokens are accepted beside the minimum.
    - `minimum`: the number of tokens that are accepted at least in each step, or one number for each step of a block
      (`even_quotas`).
    - `confidence`: "largest", the probability of the most probable token, or "proposed", that of the proposed one; they
      differ for drawn tokens. With "proposed" the drawn token affects when it is revealed, so that likely tokens become too
      likely.

    **Raises:** `ValueError` for a threshold outside [0, 1], or a minimum below 1.

    **Source:** Wu et al. (2025), "Fast-dLLM", arXiv 2505.22618, section 3.3; SDAR and the engines compare strictly (`>`).
    dInfer also accepts what is within 1e-5 of the largest confidence.

    **Example:**

    ```python
    import noiselab as nl

    fast = nl.samplers.ConfidenceThreshold(0.9)
    dynamic = nl.samplers.ConfidenceThreshold(0.9, minimum=nl.samplers.even_quotas(block_size=8, steps=4))
    ```
    """

    def __init__(self, threshold: float | int = 0.9, *, minimum: Counts = 1, confidence: Confidence = "largest"):
        super().__init__(confidence)
        self.threshold = require_number("threshold", threshold, 0, 1)
        self.minimum = require_counts("minimum", minimum)
        self.exact = self.threshold == 1 and set(self.minimum) == {1} and self.blind

    def __call__(self, found: Proposals) -> Selection:
        """The accepted positions."""
        score = self.log_confidence(found)
        return accept_at_least(found.rows & (score.exp() >= self.threshold), score, found, self.minimum)

    def options(self) -> list[str]:
        """The settings, for `repr`."""
        return [f"{self.threshold:g}", *self.minimum_option(), *self.confidence_option()]


class EntropyThreshold(Acceptance):
    r"""Accepts all tokens whose prediction has an entropy of at most a threshold, and those of least entropy up to a minimum.

    $$-\sum_v \hat x_v \log \hat x_v \le \tau$$

    **Arguments:**

    - `threshold`: $\tau$ in nats, non-negative.
    - `minimum`: as for `ConfidenceThreshold`.

    **Raises:** `ValueError` for a negative threshold, or a minimum below 1.

    **Source:** the decoder of d3LLM (hao-ai-lab/d3LLM), there `entropy_threshold`.

    **Example:**

    ```python
    import noiselab as nl

    rule = nl.samplers.EntropyThreshold(0.5)
    ```
    """

    uses = ("entropy",)

    def __init__(self, threshold: float | int = 0.5, *, minimum: Counts = 1):
        self.threshold = require_number("threshold", threshold, 0, infinite=True)
        self.minimum = require_counts("minimum", minimum)
        self.exact = self.threshold == 0 and set(self.minimum) == {1}

    def __call__(self, found: Proposals) -> Selection:
        """The accepted positions."""
        return accept_at_least(found.rows & (found.entropy <= self.threshold), -found.entropy, found, self.minimum)

    def options(self) -> list[str]:
        """The settings, for `repr`."""
        return [f"{self.threshold:g}", *self.minimum_option()]
