"""GIDD+: a language model on a mixture of masking and uniform noise, which can correct its own tokens.

    python recipes/gidd_plus.py demo                                     # two CPU cores, a few minutes
    python recipes/gidd_plus.py demo --p-uniform 0.1 --output runs/p01   # any field of any preset
    python recipes/gidd_plus.py demo --noise unigram --weights clipped   # random tokens by frequency in the training texts
    torchrun --nproc-per-node 8 recipes/gidd_plus.py small               # the published settings
    python recipes/gidd_plus.py base --help                              # all fields

Run the command again to resume from the newest intact checkpoint. The finished model is in OUTPUT/final.
A smoke test: python recipes/gidd_plus.py demo --steps 4 --warmup 1 --output runs/smoke

Source: von Ruette et al. (2025), "Generalized Interpolating Discrete Diffusion", arXiv 2503.04482.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import torch
from torch import nn

import noiselab as nl
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
    Prepared,
    build_dit,
    prepare,
    train_diffusion,
)
from noiselab.data import token_frequencies
from noiselab.networks.dit import Block
from noiselab.objectives import Objective, elbo
from noiselab.training import Trainer
from noiselab.training.options import Run, command_line, run_recipe


@dataclass(frozen=True)
class GiddPlus(DiffusionTraining):
    """GIDD+: masking and uniform noise, dynamic loss weights."""

    time_margin: float = 1e-4
    """training times lie in [margin, 1 - margin]"""
    p_uniform: float = 0.2
    """largest fraction of random tokens, at t = 1/2; 0 is masking"""
    gamma: float = 1.0
    """concentration of random tokens around t = 1/2, in (0, 2]"""
    noise: Literal["uniform", "unigram"] = "uniform"
    """distribution of random tokens; unigram uses their frequencies in the training data and needs --weights clipped or elbo"""
    weights: Literal["dynamic", "dynamic_v11", "clipped", "elbo"] = "dynamic"
    """weights of the tokens in the loss; dynamic_v11 are those of release v1.1.0 of the published code"""
    max_weight: float = 2.0
    """largest weight, unless the weights are those of the elbo"""
    open_gates: bool = False
    """open the gates of the blocks at initialization; as published, blocks start as the identity, which trains more slowly"""


PRESETS = {
    "demo": (
        DEMO_HELP,
        GiddPlus(
            DEMO,
            DEMO_TEXT,
            Run(Path("runs/gidd_plus_demo"), log_every=50, evaluate_every=400, save_every=400),
            **DEMO_NETWORK,
            open_gates=True,
        ),
    ),
    "medium": (
        MEDIUM_HELP,
        GiddPlus(
            MEDIUM,
            MEDIUM_TEXT,
            Run(Path("runs/gidd_plus_medium"), log_every=50, evaluate_every=500, save_every=3_000),
            **MEDIUM_NETWORK,
            open_gates=True,
        ),
    ),
    "small": (
        "gidd.yaml of the published code, differences in docs/reference/published.md: 12 layers of width 768 on OpenWebText, "
        "131 billion tokens; weights are float32, as for the published checkpoints, where the newest code has bfloat16",
        GiddPlus(PUBLISHED, OPENWEBTEXT, Run(Path("runs/gidd_plus_small"), save_every=5_000, evaluate_every=5_000)),
    ),
    "base": (
        "the same with 24 layers of width 1024",
        GiddPlus(
            PUBLISHED,
            OPENWEBTEXT,
            Run(Path("runs/gidd_plus_base"), save_every=5_000, evaluate_every=5_000),
            **BASE_NETWORK,
        ),
    ),
}


@torch.no_grad()
def open_gates(module: nn.Module) -> None:
    """Set the gates of a block to 1, so that it contributes fully to the residual stream; for `apply` of a network."""
    if isinstance(module, Block):
        module.adaLN_modulation.bias.view(6, -1)[[2, 5]] = 1


def describe_noise(options: GiddPlus, data: Prepared) -> dict[str, Any]:
    """The settings of the noise process, for `noiselab.processes.process_from`."""
    shape = {"gamma": options.gamma, "mask_id": data.tokenizer.mask_token_id}
    if options.noise == "uniform":
        return {"family": "gidd", "vocab_size": data.vocab_size, "p_uniform": options.p_uniform, **shape}
    frequencies = token_frequencies(data.train, data.vocab_size).tolist()
    return {"family": "mask_and_unigram", "frequencies": frequencies, "p_unigram": options.p_uniform, **shape}


def check_weights(options: GiddPlus) -> None:
    """Raise `ValueError` for loss weights that are not those of the noise."""
    if options.noise == "unigram" and options.weights.startswith("dynamic"):
        raise ValueError(
            "--weights must be clipped or elbo with --noise unigram, because dynamic weights are derived for uniform noise; "
            f"got {options.weights}"
        )


def choose_objective(options: GiddPlus, vocab_size: int) -> Objective:
    """The loss weights that the options select."""
    noise = {"vocab_size": vocab_size, "p_uniform": options.p_uniform, "gamma": options.gamma}
    return {
        "dynamic": nl.objectives.Dynamic.gidd(**noise, max_weight=options.max_weight),
        "dynamic_v11": nl.objectives.DynamicV11.gidd(**noise, max_weight=options.max_weight),
        "clipped": nl.objectives.Clipped(options.max_weight),
        "elbo": elbo,
    }[options.weights]


def main(arguments: Sequence[str] | None = None) -> Trainer:
    """Train, and write the finished model."""
    options = command_line(PRESETS, arguments)
    check_weights(options)
    data = prepare(options)
    model = build_dit(options, data.vocab_size, p_uniform=options.p_uniform)
    objective = choose_objective(options, data.vocab_size)
    gates = open_gates if options.open_gates else None
    return train_diffusion(
        options, data, describe_noise(options, data), objective=objective, model=model, weights=gates
    )


if __name__ == "__main__":
    run_recipe(main)
