"""Small networks that are trained once, for comparisons of many arms."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
import transformers

from noiselab.training import Trainer


def small_llama(
    vocab_size: int,
    *,
    layers: int,
    width: int,
    heads: int,
    length: int,
    start: int,
    end: int | None = None,
    padding: int | None = None,
    dropout: float = 0.0,
) -> transformers.LlamaForCausalLM:
    """A Llama with weights at random, from torch's own generator.

    **Arguments:**

    - `vocab_size`: tokens.
    - `layers`, `width`, `heads`: blocks, size of the residual stream, attention heads. The hidden layer of a block is 8/3
      times as wide as the stream, a multiple of 8.
    - `length`: the longest sequence.
    - `start`, `end`, `padding`: the special tokens; the end is the start if not given.
    - `dropout`: of attention weights, in [0, 1).

    **Example:**

    ```python
    from common import small_llama

    network = small_llama(100, layers=2, width=32, heads=2, length=64, start=0)
    ```
    """
    return transformers.LlamaForCausalLM(
        transformers.LlamaConfig(
            vocab_size=vocab_size,
            hidden_size=width,
            intermediate_size=4 * width * 2 // 3 // 8 * 8,
            num_hidden_layers=layers,
            num_attention_heads=heads,
            max_position_embeddings=length,
            attention_dropout=dropout,
            bos_token_id=start,
            eos_token_id=start if end is None else end,
            pad_token_id=padding,
            use_cache=False,
        )
    )


def trained_once(
    folder: Path,
    build: Callable[[], Trainer],
    *,
    averaged: bool,
    resume: str = "auto",
    cpu: bool = False,
    settings: dict[str, Any] | None = None,
    kind: Any = transformers.LlamaForCausalLM,
) -> Any:
    """The finished network of a folder; it is trained now if there is none.

    **Arguments:**

    - `folder`: of the run. The network is in `final`, and its average in `final/ema`.
    - `build`: makes the trainer, with the folder as its output; not called for a run that is finished.
    - `averaged`: whether the average of the weights is wanted.
    - `resume`: "auto" goes on from the newest intact checkpoint, "never" does not.
    - `cpu`: do not move it to a GPU.
    - `settings`: kept beside the weights.
    - `kind`: the class of the network, of transformers.

    **Raises:** as `Trainer.train`.
    """
    weights = folder / "final" / "ema" if averaged else folder / "final"
    if not weights.is_dir():
        trainer = build()
        trainer.train(resume_from_checkpoint=None if resume == "never" else resume)
        trainer.save_final(folder / "final", settings=settings)
    network = kind.from_pretrained(weights).eval()
    on_cpu = cpu or not torch.accelerator.is_available()
    return network if on_cpu else network.to(torch.accelerator.current_accelerator())
