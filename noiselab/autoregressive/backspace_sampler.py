"""Decoding with backspaces."""

from collections.abc import Callable

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from ..typing import TokenProbs
from .backtracking import BacktrackingDecoder, Row
from .edits import EditProcess
from .likelihood import Semantics


class BackspaceSampler(BacktrackingDecoder):
    r"""Generates text with a model that writes tokens and backspaces; a backspace deletes the end of the text.

    A text of full length is done when the model's next entry is not a backspace. `bias` adds $\lambda$ to the logit of the
    backspace; $-\infty$ is the plain model.

    **Arguments:**

    - `network`: a causal model of transformers; without `cache` any that is called with `input_ids`.
    - `edits`: defines the backspace and how far it reaches.
    - `start`: the token before each text.
    - `semantics`: "visible": mistakes and backspaces stay in the context of the model; "erasing": the model reads the current
      text only, and the KV cache is rolled back to before the deleted tokens.
    - `deep`: whether a backspace can follow a backspace. If not, each token is examined once, and the distribution of
      the texts has a closed form (`erasing_log_probability`).
    - `bias`: $\lambda$, added to the logit of the backspace; below infinity.
    - `budget`: the largest number of backspaces in a text, after which none is written; unlimited by default.
    - `tabu`: whether a deleted token is not proposed again after the same text. A greedy erasing model would otherwise propose
      it forever.
    - `temperature`: the temperature of all draws; 0 takes the most probable token.
    - `edit`: a function applied to the logits before each draw, the backspace included; for example a truncation.
    - `cache`: whether the KV cache is used.

    **Raises:** `ValueError` for settings out of range.

    **Example:**

    ```python
    import torch
    from transformers import LlamaConfig, LlamaForCausalLM
    from noiselab.autoregressive import BackspaceSampler, RandomTokenBackspace, UniformTokens

    sizes = {"hidden_size": 16, "intermediate_size": 32, "num_hidden_layers": 1, "num_attention_heads": 2}
    network = LlamaForCausalLM(LlamaConfig(vocab_size=11, **sizes)).eval()
    edits = RandomTokenBackspace(vocab_size=11, backspace=10, rate=0.1, wrong=UniformTokens(10))
    sampler = BackspaceSampler(network, edits, start=0, semantics="erasing", deep=False)
    generation = sampler.sample(2, length=8, generator=torch.Generator().manual_seed(0))
    for text, stream in zip(generation.texts, generation.streams):
        assert torch.equal(edits.clean(stream), text) and len(text) == 8
    ```

    **Source:** backspaces that roll back the KV cache: Cundy and Ermon (2023), arXiv 2306.05426.
    """

    def __init__(
        self,
        network: nn.Module,
        edits: EditProcess,
        *,
        start: int,
        semantics: Semantics = "visible",
        deep: bool = True,
        bias: float | int = 0.0,
        budget: int | None = None,
        tabu: bool = False,
        temperature: float | int = 1.0,
        edit: Callable[[TokenProbs], TokenProbs] | None = None,
        cache: bool = True,
    ) -> None:
        if not bias < float("inf"):
            raise ValueError(f"bias must be below infinity; got {bias}")
        super().__init__(
            network,
            vocab_size=edits.vocab_size,
            backspace=edits.backspace,
            start=start,
            semantics=semantics,
            budget=budget,
            tabu=tabu,
            temperature=temperature,
            edit=edit,
            cache=cache,
        )
        self.edits, self.deep, self.bias = edits, deep, float(bias)

    def reach(self, text: list[int]) -> int:
        """As the edit process defines it."""
        return self.edits.reach(text)

    def check_prompt(self, prompt: Int[Tensor, " _"]) -> None:
        """Check that a prompt is a text of the edit process.

        **Raises:** `ValueError` for a prompt with a backspace, or tokens out of range.
        """
        self.edits.check_text(prompt)

    def adjust_logits(self, rows: list[Row], logits: Float[Tensor, "row state"]) -> Float[Tensor, "row state"]:
        """Add the bias, and forbid a second backspace where each token is examined once."""
        if self.bias:
            logits[:, self.backspace] += self.bias
        if not self.deep and (again := [place for place, row in enumerate(rows) if row.again]):
            logits[again, self.backspace] = -torch.inf
        return logits
