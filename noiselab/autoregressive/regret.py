"""Going back when someone says that a step was wrong."""

from collections.abc import Callable
from typing import TypeAlias

import torch
from jaxtyping import Int
from torch import Tensor, nn

from ..typing import TokenProbs, TokenSequence
from .backtracking import BacktrackingDecoder, Row
from .streams import last_boundary

Detector: TypeAlias = Callable[[TokenSequence], float]
"""How sure someone is, in [0, 1], that the last step of a text is wrong. The text ends with the end of that step."""


class RetryUponRegret(BacktrackingDecoder):
    """Writes step by step with a plain model; a step that a detector thinks wrong is erased, and written again.

    After `retries` erased steps a text is written as it comes (`Generation.spent`), so that a detector that always fires does
    no more harm than that. Of a prompt whose last tokens may be taken back (`kept`) the detector is asked too, where it ends
    with a step; nothing is erased beyond its `kept` tokens.

    **Arguments:**

    - `network`: a causal model of transformers; without `cache` any that is called with `input_ids`.
    - `detector`: asked at the end of each step.
    - `vocab_size`: of the model's tokens; one more, `vocab_size`, stands for an erasure in `Generation.streams`.
    - `boundary`: the tokens that end a step.
    - `start`: the token before each text.
    - `threshold`: how sure the detector must be, in [0, 1).
    - `retries`: erased steps of a text at most.
    - `temperature`: of the first try of each step; `retry_temperature`: of the others. 0 takes the likeliest.
    - `edit`, `cache`: as for `BackspaceSampler`.

    **Raises:** `ValueError` for settings out of range.

    **Example:**

    ```python
    import torch
    from transformers import LlamaConfig, LlamaForCausalLM
    from noiselab.autoregressive import RetryUponRegret

    sizes = {"hidden_size": 16, "intermediate_size": 32, "num_hidden_layers": 1, "num_attention_heads": 2}
    network = LlamaForCausalLM(LlamaConfig(vocab_size=10, **sizes)).eval()
    no_seven = lambda text: float(7 in text.tolist())
    sampler = RetryUponRegret(network, no_seven, vocab_size=10, boundary=[9], start=0, retries=50)
    written = sampler.sample(2, length=12, generator=torch.Generator().manual_seed(0))
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
        if not 0 <= threshold < 1 or retries < 0 or not retry_temperature >= 0:
            raise ValueError(
                "threshold must lie in [0, 1), retries and retry_temperature not be negative; "
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
        self.detector, self.boundary, self.threshold = detector, frozenset(boundary), threshold
        self.retry_temperature = float(retry_temperature)

    def reach(self, text: list[int]) -> int:
        """Up to the last boundary; if that is the last token, the step that it ends is erased."""
        return last_boundary(text, self.boundary)

    def check(self, prompt: Int[Tensor, " _"]) -> None:
        """Whether a prompt is of tokens of the model.

        **Raises:** `ValueError` if not.
        """
        if len(prompt) and not 0 <= int(prompt.min()) <= int(prompt.max()) < self.vocab_size:
            came = f"{int(prompt.min())} to {int(prompt.max())}"
            raise ValueError(f"tokens must lie in [0, {self.vocab_size}); got {came}")

    def regrets(self, row: Row) -> bool:
        """Whether the detector is sure that the step that has just ended is wrong."""
        if row.text[-1] not in self.boundary:
            return False
        row.retrying = not self.spent(row) and self.detector(torch.tensor(row.text)) > self.threshold
        return row.retrying

    def temperature_of(self, row: Row) -> float:
        """That of retries until the erased step has been written again."""
        return self.retry_temperature if row.retrying else self.temperature
