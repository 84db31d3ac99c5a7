"""Autoregressive models as a pipeline."""

import contextlib
from collections.abc import Iterator, Sequence
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor
from transformers import GenerationConfig, LogitsProcessor
from transformers.generation import (
    MinPLogitsWarper,
    TemperatureLogitsWarper,
    TopKLogitsWarper,
    TopPLogitsWarper,
)

from ..categorical import Randomness, choose, uniforms
from ..denoisers.checked import LogitCheck, LogitChecks
from ..networks.lengths import generated_length
from ..numerics import require_count
from .base import Pipeline
from .drawing import Truncation
from .settings import GenerationSettings


class AutoregressivePipeline(Pipeline, loads=("autoregressive",)):
    """An autoregressive language model; `generate` uses transformers."""

    tag = "autoregressive"

    def generate(
        self,
        num_samples: int = 1,
        *,
        prompts: Sequence[str] | None = None,
        length: int | None = None,
        temperature: float | int | None = None,
        top_k: int | None = None,
        top_p: float | int | None = None,
        min_p: float | int | None = None,
        stop: bool = False,
        generator: Randomness = None,
        dtype: torch.dtype | None = None,
    ) -> list[str]:
        """Generate texts token by token, starting from the end-of-text token or from prompts.

        **Arguments:**

        - `num_samples`: the number of texts, for each prompt if prompts are given.
        - `prompts`: the beginnings of the texts.
        - `length`: the number of tokens of a text, including the prompt; by default the whole context, or
          1,024 tokens if it is longer or has no limit.
        - `temperature`, `top_k`, `top_p`, `min_p`: temperature and truncation of the predicted distribution.
        - `stop`: whether a text ends at its first end-of-text token. Models trained on packed texts continue after it.
        - `generator`: the source of randomness: one generator, or one for each text. With one for each, a text is the
          same alone and in any batch.
        - `dtype`: the dtype of the network's arithmetic; by default that of the weights.

        **Raises:** `ValueError` if a setting is out of range, a prompt is too long, or the generators are not one for each
        text.
        """
        begin = self.tokenizer.bos_token_id
        begin = self.tokenizer.eos_token_id if begin is None else begin
        if begin is None and prompts is None:
            raise ValueError("prompts must be given if the tokenizer has no token that starts or ends a text; got none")
        starts = [[begin]] if prompts is None else self.encode(prompts)
        longest = generated_length(length, self.length)
        require_count("num_samples", num_samples)
        if max(map(len, starts)) >= longest + (prompts is None):
            raise ValueError(f"prompts must be shorter than {longest} tokens; got one of {max(map(len, starts))}")
        chosen = Truncation(temperature, top_k, top_p, min_p).over(self.generation)
        settings = GenerationConfig(
            do_sample=False,  # the last of the processors draws
            max_length=longest,
            eos_token_id=self.tokenizer.eos_token_id if stop else None,
            pad_token_id=self.tokenizer.pad_token_id,
            bos_token_id=begin,
        )
        if isinstance(generator, Sequence) and len(generator) != num_samples * len(starts):
            raise ValueError(
                f"one generator for each of {num_samples * len(starts)} texts is needed; got {len(generator)}"
            )
        texts, network, filters = [], self.network, _filters(chosen)
        with self._computing(dtype), _without_defaults(network):
            for row, start in enumerate(starts):
                mine = slice(row * num_samples, (row + 1) * num_samples)
                random = generator[mine] if isinstance(generator, Sequence) else generator
                ids = torch.tensor([start] * num_samples, device=self.device)
                call: Any = network.generate
                with LogitChecks() as checks:
                    tokens = call(
                        ids,
                        attention_mask=torch.ones_like(ids),
                        generation_config=settings,
                        logits_processor=[
                            lambda _, logits: LogitCheck()(logits, None, network),
                            *filters,
                            _Draw(random),
                        ],
                        use_cache=True,
                    )
                checks.read()
                texts += self.decode(tokens)
        return texts


def _filters(chosen: GenerationSettings) -> list[LogitsProcessor]:
    """Temperature and truncation of the prediction, in the order of transformers."""
    made: list[LogitsProcessor] = []
    if chosen.temperature != 1:
        made.append(TemperatureLogitsWarper(float(chosen.temperature)))
    if chosen.top_k is not None:
        made.append(TopKLogitsWarper(chosen.top_k))
    if chosen.top_p is not None and chosen.top_p < 1:
        made.append(TopPLogitsWarper(float(chosen.top_p)))
    if chosen.min_p is not None:
        made.append(MinPLogitsWarper(float(chosen.min_p)))
    return made


class _Draw(LogitsProcessor):
    """Draws the next token of each text, and leaves transformers, which would draw for the batch, no other."""

    def __init__(self, generator: Randomness) -> None:
        self.generator = generator

    def __call__(
        self, input_ids: Int[Tensor, "text length"], scores: Float[Tensor, "text state"]
    ) -> Float[Tensor, "text state"]:
        """0 at the drawn tokens, -inf at all others."""
        u = uniforms(len(scores), generator=self.generator, device=scores.device)
        drawn = choose(scores.float().softmax(-1), u)
        return torch.full_like(scores, -torch.inf).scatter(-1, drawn[:, None], 0)


@contextlib.contextmanager
def _without_defaults(network: Any) -> Iterator[None]:
    """Context manager: generate without the model's own settings, which transformers uses where a setting is `None`: an
    end of text, penalties for repetition.
    """
    own = network.generation_config
    network.generation_config = GenerationConfig()
    try:
        yield
    finally:
        network.generation_config = own
