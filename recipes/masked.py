"""Masked diffusion (MDLM): the plain ELBO with masking, the baseline that GIDD+ is compared with.

    python recipes/masked.py demo                                   # two CPU cores, a few minutes
    python recipes/masked.py demo --length 64 --output runs/short   # any field of any preset
    torchrun --nproc-per-node 8 recipes/masked.py small             # MDLM's own settings
    torchrun --nproc-per-node 8 recipes/masked.py gidd-small        # the baseline in GIDD's code
    python recipes/masked.py small --help                           # all fields

Run the command again to resume from the newest intact checkpoint. The finished model is in OUTPUT/final.
A smoke test: python recipes/masked.py demo --steps 4 --warmup 1 --output runs/smoke

Source: Sahoo et al. (2024), "Simple and Effective Masked Diffusion Language Models", arXiv 2406.07524; Shi et al. (2024),
arXiv 2406.04329. The presets `gidd-small` and `gidd-base` are the baseline of von Ruette et al. (2025), arXiv 2503.04482.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal

import transformers

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
    DiffusionTraining,
    build_dit,
    prepare,
    train_diffusion,
)
from noiselab.networks.published import MDLM, MDLMConfig, PublishedDenoiser
from noiselab.processes import process_from
from noiselab.training import Trainer
from noiselab.training.options import Data, Optimization, Run, command_line, run_recipe


@dataclass(frozen=True)
class Masked(DiffusionTraining):
    """Masked diffusion with the plain ELBO."""

    dropout: float = 0.1
    """dropout probability, in [0, 1)"""
    network: Literal["dit", "mdlm"] = "dit"
    """mdlm: the same network without the time as an input, as published by MDLM"""


BASELINE = replace(PUBLISHED, steps=1_000_000)
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
        "MDLM's published settings, differences in docs/reference/published.md: 12 layers of width 768 on OpenWebText, 1024 "
        "tokens a sequence, a million steps",
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
            Data(
                corpus="hub:Skylion007/openwebtext",
                tokenizer="gpt2",
                length=1024,
                held_out="last:100000",
                packing="wrap",
                stream=True,
            ),
            Run(Path("runs/masked_small"), save_every=5_000, evaluate_every=5_000),
            network="mdlm",
        ),
    ),
    "gidd-small": (
        "GIDD's baseline, mdlm.yaml of its published code, differences in docs/reference/published.md: 12 layers of width 768 "
        "on OpenWebText, 262 billion tokens",
        Masked(
            BASELINE,
            OPENWEBTEXT,
            Run(Path("runs/masked_gidd_small"), save_every=5_000, evaluate_every=5_000),
            time_margin=1e-4,
            dropout=0.0,
        ),
    ),
    "gidd-base": (
        "the same with 24 layers of width 1024",
        Masked(
            BASELINE,
            OPENWEBTEXT,
            Run(Path("runs/masked_gidd_base"), save_every=5_000, evaluate_every=5_000),
            **BASE_NETWORK,
            time_margin=1e-4,
            dropout=0.0,
        ),
    ),
}


def build_network(options: Masked, vocab_size: int, noise: dict[str, Any]) -> Any:
    """The network of the options, with random weights from the seed of the run."""
    if options.network == "dit":
        return build_dit(options, vocab_size)
    transformers.set_seed(options.optimization.seed)
    config = MDLMConfig(
        vocab_size=vocab_size,
        model_length=options.data.length,
        hidden_dim=options.width,
        cond_dim=options.time_width,
        n_blocks=options.layers,
        n_heads=options.heads,
        dropout=options.dropout,
    )
    return PublishedDenoiser(MDLM(config), process_from(noise))


def main(arguments: Sequence[str] | None = None) -> Trainer:
    """Train with masking noise, and write the finished model."""
    options = command_line(PRESETS, arguments)
    data = prepare(options)
    noise = {"family": "masked", "vocab_size": data.vocab_size, "mask_id": data.tokenizer.mask_token_id}
    return train_diffusion(options, data, noise, model=build_network(options, data.vocab_size, noise))


if __name__ == "__main__":
    run_recipe(main)
