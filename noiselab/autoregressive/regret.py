"""Regret: a step that a detector finds wrong is deleted and generated again (a retry)."""

import math
from collections.abc import Callable

import torch
from jaxtyping import Int
from torch import Tensor, nn

from ..revisions import Detector, require_detector
from ..typing import TokenProbs
from .backtracking import BacktrackingDecoder, Row
from .streams import last_boundary


class RetryUponRegret(BacktrackingDecoder):
    """Generates step by step with a plain model; a step that a detector finds wrong is deleted and generated again.

    After `retries` deleted steps the rest of a text is generated without the detector (`Generation.spent`), which bounds the
    harm of a detector that always fires. If the end of a prompt can be deleted (`kept`) and the prompt ends with a step, this
    step is scored too; nothing is deleted beyond its `kept` tokens.

    **Arguments:**

    - `network`: a causal model of transformers; without `cache` any that is called with `input_ids`.
    - `detector`: a `Detector` of unit "step", such as a `PooledDetector`; evaluated at the end of each step, on the text so
      far, without the start token.
    - `vocab_size`: the number of tokens of the model; one more, `vocab_size`, records a deletion in `Generation.streams`.
    - `boundary`: the tokens that end a step.
    - `start`: the token before each text.
    - `threshold`: a step is deleted if its score is larger. Its scale is that of the detector, for example nats.
    - `retries`: the largest number of deleted steps of a text.
    - `temperature`: the temperature of the first try of each step; `retry_temperature`: that of retries. 0 takes the
      most probable token.
    - `edit`, `cache`: as for `BackspaceSampler`.

    **Raises:** `ValueError` for settings out of range, or anything but a detector of steps.

    **Example:**

    ```python
    import torch
    from transformers import LlamaConfig, LlamaForCausalLM
    from noiselab.autoregressive import RetryUponRegret, StepDetector

    class NoSeven(StepDetector):
        def score_step(self, text):
            return float(7 in text.tolist())

    sizes = {"hidden_size": 16, "intermediate_size": 32, "num_hidden_layers": 1, "num_attention_heads": 2}
    network = LlamaForCausalLM(LlamaConfig(vocab_size=10, **sizes)).eval()
    sampler = RetryUponRegret(network, NoSeven(ends=[9]), vocab_size=10, boundary=[9], start=0, retries=50)
    generation = sampler.sample(2, length=12, generator=torch.Generator().manual_seed(0))
    ```

    **Source:** Ye et al. (2024), arXiv 2408.16293, section 3.
    """

    def __init__(
        self,
        network: nn.Module,
        detector: Detector,
        *,
        vocab_size: int,
        boundary: list[int] | tuple[int, ...],
        start: int,
        threshold: float = 0.5,
        retries: int = 10,
        temperature: float | int = 1.0,
        retry_temperature: float | int = 1.0,
        edit: Callable[[TokenProbs], TokenProbs] | None = None,
        cache: bool = True,
    ) -> None:
        if math.isnan(threshold) or retries < 0 or not retry_temperature >= 0:
            raise ValueError(
                "threshold must not be NaN, retries and retry_temperature not be negative; "
                f"got {threshold}, {retries}, {retry_temperature}"
            )
        if not boundary:
            raise ValueError(f"boundary must have tokens; got {boundary}")
        super().__init__(
            network,
            vocab_size=vocab_size,
            backspace=vocab_size,
            start=start,
            semantics="erasing",
            budget=retries,
            temperature=temperature,
            edit=edit,
            cache=cache,
        )
        self.detector, self.boundary = require_detector(detector, "step"), frozenset(boundary)
        self.threshold, self.retry_temperature = float(threshold), float(retry_temperature)

    def reach(self, text: list[int]) -> int:
        """Up to the last boundary; if that is the last token, the step that it ends is deleted."""
        return last_boundary(text, self.boundary)

    def check_prompt(self, prompt: Int[Tensor, " _"]) -> None:
        """Check that a prompt has tokens of the model only.

        **Raises:** `ValueError` if not.
        """
        if len(prompt) and not 0 <= int(prompt.min()) <= int(prompt.max()) < self.vocab_size:
            came = f"{int(prompt.min())} to {int(prompt.max())}"
            raise ValueError(f"tokens must lie in [0, {self.vocab_size}); got {came}")

    def regrets(self, row: Row) -> bool:
        """Whether the step that has just ended has a score above the threshold."""
        if row.text[-1] not in self.boundary:
            return False
        row.retrying = not self.has_spent(row) and self._score(row.text) > self.threshold
        return row.retrying

    def _score(self, text: list[int]) -> float:
        return float(self.detector.score_last(torch.tensor(text)[None])[0])

    def temperature_of(self, row: Row) -> float:
        """That of retries until the deleted step is complete again."""
        return self.retry_temperature if row.retrying else self.temperature
