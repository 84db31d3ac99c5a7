"""Masked diffusion (MDLM): the plain ELBO with masking, the baseline that GIDD+ is compared with.

    python recipes/masked.py demo                                   # two CPU cores, a few minutes
    python recipes/masked.py demo --length 64 --output runs/short   # any field of any preset
    torchrun --nproc-per-node 8 recipes/masked.py small             # sizes as published
    python recipes/masked.py small --help                           # all fields

Run the command again to resume from the newest intact checkpoint. The finished model is in OUTPUT/final.
A smoke test: python recipes/masked.py demo --steps 4 --warmup 1 --output runs/smoke

Source: Sahoo et al. (2024), "Simple and Effective Masked Diffusion Language Models", arXiv 2406.07524; Shi et al. (2024),
arXiv 2406.04329. Unlike the published network, this one takes the time as an input.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from common import (
    DEMO,
    DEMO_HELP,
    DEMO_NETWORK,
    DEMO_TEXT,
    MEDIUM,
    MEDIUM_HELP,
    MEDIUM_NETWORK,
    MEDIUM_TEXT,
    DiffusionTraining,
    prepare,
    train_diffusion,
)
from noiselab.training import Trainer
from noiselab.training.options import Data, Optimization, Run, command_line, run_recipe


@dataclass(frozen=True)
class Masked(DiffusionTraining):
    """Masked diffusion with the plain ELBO."""

    dropout: float = 0.1
    """dropout probability, in [0, 1)"""


PRESETS = {
    "demo": (
        DEMO_HELP,
        Masked(
            DEMO,
            DEMO_TEXT,
            Run(Path("runs/masked_demo"), log_every=50, evaluate_every=400, save_every=400),
            **DEMO_NETWORK,
            dropout=0.0,
        ),
    ),
    "medium": (
        MEDIUM_HELP,
        Masked(
            MEDIUM,
            MEDIUM_TEXT,
            Run(Path("runs/masked_medium"), log_every=50, evaluate_every=500, save_every=3_000),
            **MEDIUM_NETWORK,
        ),
    ),
    "small": (
        "as published: 12 layers of width 768 on OpenWebText, 1024 tokens a sequence, a million steps",
        Masked(
            Optimization(
                steps=1_000_000,
                batch=512,
                micro_batch=16,
                learning_rate=3e-4,
                warmup=2_500,
                schedule="constant",
                betas=(0.9, 0.999),
                epsilon=1e-8,
                weight_decay=0.0,
                ema=0.9999,
                precision="bfloat16",
            ),
            Data(corpus="hub:Skylion007/openwebtext", tokenizer="gpt2", length=1024, validation=0.0125, stream=True),
            Run(Path("runs/masked_small"), save_every=5_000, evaluate_every=5_000),
        ),
    ),
}


def main(arguments: Sequence[str] | None = None) -> Trainer:
    """Train with masking noise, and write the finished model."""
    options = command_line(PRESETS, arguments)
    data = prepare(options)
    noise = {"family": "masked", "vocab_size": data.vocab_size, "mask_id": data.tokenizer.mask_token_id}
    return train_diffusion(options, data, noise)


if __name__ == "__main__":
    run_recipe(main)
