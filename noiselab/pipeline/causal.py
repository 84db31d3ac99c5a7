"""Autoregressive models as a pipeline."""

import contextlib
from collections.abc import Iterator, Sequence
from typing import Any

import torch
from transformers import GenerationConfig

from ..denoisers.checked import LogitCheck, LogitChecks
from ..networks.lengths import generated_length
from ..numerics import require_count
from .base import Pipeline
from .drawing import Truncation


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
        generator: torch.Generator | None = None,
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
        - `generator`: the source of randomness, on the CPU; by default torch's global generator.
        - `dtype`: the dtype of the network's arithmetic; by default that of the weights.

        **Raises:** `ValueError` if a setting is out of range or a prompt is too long.
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
            do_sample=True,
            temperature=float(chosen.temperature),
            top_k=chosen.top_k or 0,
            top_p=1.0 if chosen.top_p is None else float(chosen.top_p),
            min_p=None if chosen.min_p is None else float(chosen.min_p),
            max_length=longest,
            eos_token_id=self.tokenizer.eos_token_id if stop else None,
            pad_token_id=self.tokenizer.pad_token_id,
            bos_token_id=begin,
        )
        texts, network = [], self.network
        with torch.random.fork_rng(), self._computing(dtype), _without_defaults(network):
            if generator is not None:
                torch.manual_seed(int(torch.randint(2**62, (), generator=generator)))
            for start in starts:
                ids = torch.tensor([start] * num_samples, device=self.device)
                call: Any = network.generate
                with LogitChecks() as checks:
                    tokens = call(
                        ids,
                        attention_mask=torch.ones_like(ids),
                        generation_config=settings,
                        logits_processor=[lambda _, logits: LogitCheck()(logits, None, network)],
                        use_cache=True,
                    )
                checks.read()
                texts += self.decode(tokens)
        return texts


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
