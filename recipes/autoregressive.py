"""An autoregressive baseline with the same data and trainer; it also serves as the judge of generated text.

    python recipes/autoregressive.py demo                        # two CPU cores, a few minutes
    torchrun --nproc-per-node 8 recipes/autoregressive.py small
    python recipes/autoregressive.py demo --help                 # all fields

Run the command again to resume from the newest intact checkpoint. The finished model is in OUTPUT/final, for
`transformers.AutoModelForCausalLM`.
A smoke test: python recipes/autoregressive.py demo --steps 4 --warmup 1 --output runs/smoke
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import torch

from common import (
    BASE_NETWORK,
    DEMO,
    DEMO_HELP,
    DEMO_NETWORK,
    DEMO_TEXT,
    MEDIUM,
    MEDIUM_HELP,
    MEDIUM_NETWORK,
    MEDIUM_TEXT,
    OPENWEBTEXT,
    PUBLISHED,
    Training,
    build_llama,
    prepare,
    train_model,
)
from noiselab.pipeline import ModelSettings
from noiselab.training import Trainer, causal_loss, predicted_tokens
from noiselab.training.options import Run, command_line, run_recipe


@dataclass(frozen=True)
class Autoregressive(Training):
    """A small Llama, from its configuration."""

    inner: int | None = None
    """width of the hidden layer of a block; by default 8/3 of that of the residual stream"""


PUBLISHED_BASELINE = replace(PUBLISHED, steps=1_000_000)
TEXT = replace(OPENWEBTEXT, learn_padding=False)  # the published loss leaves padding out


PRESETS = {
    "demo": (
        DEMO_HELP,
        Autoregressive(
            replace(DEMO, steps=1_000, warmup=50),
            DEMO_TEXT,
            Run(Path("runs/autoregressive_demo"), log_every=50, evaluate_every=200, save_every=500),
            **DEMO_NETWORK,
        ),
    ),
    "medium": (
        MEDIUM_HELP,
        Autoregressive(
            replace(MEDIUM, steps=1_500),
            MEDIUM_TEXT,
            Run(Path("runs/autoregressive_medium"), log_every=50, evaluate_every=500, save_every=3_000),
            **MEDIUM_NETWORK,
        ),
    ),
    "small": (
        "GIDD's autoregressive baseline, ar.yaml of its published code, differences in docs/reference/published.md: 12 layers "
        "of width 768 on OpenWebText, 262 billion tokens",
        Autoregressive(
            PUBLISHED_BASELINE,
            TEXT,
            Run(Path("runs/autoregressive_small"), save_every=5_000, evaluate_every=5_000),
            inner=3072,
        ),
    ),
    "base": (
        "the same with 24 layers of width 1024",
        Autoregressive(
            PUBLISHED_BASELINE,
            TEXT,
            Run(Path("runs/autoregressive_base"), save_every=5_000, evaluate_every=5_000),
            **BASE_NETWORK,
            inner=4096,
        ),
    ),
}


def main(arguments: Sequence[str] | None = None) -> Trainer:
    """Train, and write the finished model."""
    options = command_line(PRESETS, arguments)
    data = prepare(options)
    with torch.device("meta"):  # the trainer draws the weights from the seed of the run
        model = build_llama(
            data.vocab_size,
            layers=options.layers,
            width=options.width,
            heads=options.heads,
            length=options.data.length,
            dropout=options.dropout,
            inner=options.inner,
            start=data.tokenizer.bos_token_id,
            end=data.tokenizer.eos_token_id,
            padding=data.tokenizer.pad_token_id,
        )
    return train_model(options, data, model, ModelSettings(), loss=causal_loss, count=predicted_tokens)


if __name__ == "__main__":
    run_recipe(main)
