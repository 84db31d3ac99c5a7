"""Writing with backspaces."""

from collections.abc import Callable

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from ..typing import TokenProbs
from .backtracking import BacktrackingDecoder, Row
from .edits import EditProcess
from .likelihood import Semantics


class BackspaceSampler(BacktrackingDecoder):
    r"""Writes token by token with a model that can take back what it wrote.

    In a text of its full length, the model is asked once more: the text is done when the answer is no backspace. With
    `bias` $\lambda$ the logit of the backspace is $\lambda$ higher; $-\infty$ is the plain model.

    **Arguments:**

    - `network`: a causal model of transformers; without `cache` any that is called with `input_ids`.
    - `edits`: says what the backspace is and how far it reaches.
    - `start`: the token before each text.
    - `semantics`: "visible": mistakes and backspaces stay before the eyes of the model; "erasing": the model sees the
      text that is left, and keys and values of the rest are dropped.
    - `deep`: whether a backspace may follow a backspace. Without, each token is looked at once, and the law of the texts is
      known (`erasing_log_probability`).
    - `bias`: of the backspace; not plus infinity.
    - `budget`: backspaces of a text at most; then it is written without. None by default, for no limit.
    - `tabu`: whether a token that was taken back is not proposed again behind the same text. A greedy model that erases
      would otherwise propose it forever.
    - `temperature`: of all decisions; 0 takes the likeliest.
    - `edit`: what else is done to logits, the backspace among them; for example a truncation.
    - `cache`: whether keys and values are kept.

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
    written = sampler.sample(2, length=8, generator=torch.Generator().manual_seed(0))
    for text, stream in zip(written.texts, written.streams):
        assert torch.equal(edits.clean(stream), text) and len(text) == 8
    ```

    **Source:** erasing with dropped keys and values: Cundy and Ermon (2023), arXiv 2306.05426.
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
            raise ValueError(f"bias must be a number or minus infinity; got {bias}")
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
        """That of the edit process."""
        return self.edits.reach(text)

    def check(self, prompt: Int[Tensor, " _"]) -> None:
        """Whether there can be mistakes in a prompt.

        **Raises:** `ValueError` for a prompt with a backspace, or tokens that are none.
        """
        self.edits.check(prompt)

    def adjusted(self, rows: list[Row], logits: Float[Tensor, "row state"]) -> Float[Tensor, "row state"]:
        """With the bias, and without a second backspace where each token is looked at once."""
        if self.bias:
            logits[:, self.backspace] += self.bias
        if not self.deep and (again := [place for place, row in enumerate(rows) if row.again]):
            logits[again, self.backspace] = -torch.inf
        return logits
