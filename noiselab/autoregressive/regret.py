"""Going back when someone says that a step was wrong."""

from collections.abc import Callable
from typing import Any, TypeAlias

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from .backspace import StepBackspace
from .decoding import BackspaceSampler, _Row
from .wrong_tokens import UniformTokens

Detector: TypeAlias = Callable[[Int[Tensor, " length"]], float]
"""How sure someone is, in [0, 1], that the last step of a text is wrong. The text ends with the end of that step."""


class RetryUponRegret(BackspaceSampler):
    """Writes step by step with a plain model; a step that a detector thinks wrong is erased, and written again.

    After `retries` erased steps a text is written as it comes (`Written.spent`), so that a detector that always fires does
    no more harm than that.

    **Arguments:**

    - `network`: a causal model of transformers; without `cache` any that is called with `input_ids`.
    - `detector`: asked at the end of each step.
    - `vocab_size`: of the model's tokens; one more, `vocab_size`, stands for an erasure in `Written.streams`.
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
        edit: Callable[[Float[Tensor, " state"]], Float[Tensor, " state"]] | None = None,
        cache: bool = True,
    ) -> None:
        if not 0 <= threshold < 1 or retries < 0 or not retry_temperature >= 0:
            raise ValueError(
                "threshold must lie in [0, 1), retries and retry_temperature not be negative; "
                f"got {threshold}, {retries}, {retry_temperature}"
            )
        erase = StepBackspace(vocab_size + 1, vocab_size, 0, UniformTokens(vocab_size), boundary=boundary, size=1)
        super().__init__(
            Plain(network),
            erase,
            start=start,
            semantics="erasing",
            bias=-torch.inf,
            budget=retries,
            temperature=temperature,
            edit=edit,
            cache=cache,
        )
        self.detector, self.boundary, self.threshold = detector, frozenset(boundary), threshold
        self.retry_temperature = float(retry_temperature)

    def _regrets(self, row: _Row) -> bool:
        if row.text[-1] not in self.boundary:
            return False
        spent = self.budget is not None and row.backspaces >= self.budget
        regrets = not spent and self.detector(torch.tensor(row.text)) > self.threshold
        row.retrying = regrets
        return regrets

    def _temperature(self, row: _Row) -> float:
        return self.retry_temperature if row.retrying else self.temperature


class Plain(nn.Module):
    """A network with one token more, which is never written."""

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.network = network
        self.config: Any = getattr(network, "config", None)

    def forward(self, **inputs: Any) -> Any:
        """The network's answer, with a logit of minus infinity behind the others."""
        output: Any = self.network(**inputs)
        logits = output if isinstance(output, Tensor) else output.logits
        logits = nn.functional.pad(logits, (0, 1), value=-torch.inf)
        if isinstance(output, Tensor):
            return logits
        output.logits = logits
        return output
