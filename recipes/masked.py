"""Masked diffusion (MDLM): the plain ELBO with masking, the baseline that GIDD+ is compared with.

    python recipes/masked.py demo                                   # two CPU cores, some minutes
    python recipes/masked.py demo --length 64 --output runs/short   # any field of any preset
    torchrun --nproc-per-node 8 recipes/masked.py small             # sizes as published
    python recipes/masked.py small --help                           # all fields

Started again, a run goes on from its newest intact checkpoint. The finished model is in OUTPUT/final.
A smoke test: python recipes/masked.py demo --steps 4 --warmup 1 --output runs/smoke

Source: Sahoo et al. (2024), "Simple and Effective Masked Diffusion Language Models", arXiv 2406.07524; Shi et al. (2024),
arXiv 2406.04329. Unlike the published network, this one is told the time.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import transformers

from noiselab.data import vocabulary_size
from noiselab.networks.dit import DiT, DiTConfig
from noiselab.pipeline import ModelSettings
from noiselab.processes import process_from
from noiselab.training import Trainer
from noiselab.training.options import (
    Data,
    KeepOptions,
    Optimization,
    Run,
    arguments_of,
    as_yaml,
    autocast_of,
    command_line,
    numbers_of,
    run_recipe,
)
from noiselab.training.texts import load_data


@dataclass(frozen=True)
class Masked:
    """Masked diffusion with the plain ELBO."""

    optimization: Optimization
    data: Data
    run: Run
    time_margin: float = 1e-3
    """times lie in [margin, 1 - margin]"""
    layers: int = 12
    """transformer blocks"""
    width: int = 768
    """of the residual stream"""
    heads: int = 12
    """attention heads"""
    time_width: int = 128
    """of the time embedding"""
    dropout: float = 0.1
    """in [0, 1)"""


PRESETS = {
    "demo": (
        "some minutes on two CPU cores: 1.8 MB of English about Python",
        Masked(
            Optimization(
                steps=3_600,
                batch=16,
                micro_batch=16,
                learning_rate=6e-3,
                warmup=100,
                ema=0.99,
                optimizer="muon",
                weight_decay=0.05,
            ),
            Data(corpus="library:prose", vocab_size=512, length=64, validation_sequences=512),
            Run(Path("runs/masked_demo"), log_every=50, evaluate_every=400, save_every=400),
            layers=4,
            width=128,
            heads=4,
            dropout=0.0,
        ),
    ),
    "medium": (
        "some minutes on one GPU: 8 layers of width 384; give it more text, --corpus FILES",
        Masked(
            Optimization(
                steps=6_000,
                batch=64,
                micro_batch=64,
                learning_rate=3e-3,
                warmup=200,
                ema=0.999,
                optimizer="muon",
                weight_decay=0.05,
                precision="bfloat16",
            ),
            Data(corpus="library:prose", vocab_size=2048, length=128, validation_sequences=512),
            Run(Path("runs/masked_medium"), log_every=50, evaluate_every=500, save_every=3_000),
            layers=8,
            width=384,
            heads=6,
            dropout=0.1,
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


def masks(tokenizer: Any) -> dict[str, Any]:
    """Noise of masks alone."""
    return {"family": "masked", "vocab_size": vocabulary_size(tokenizer), "mask_id": tokenizer.mask_token_id}


def main(arguments: Sequence[str] | None = None) -> Trainer:
    """Train on masks, and write the finished model."""
    return train(command_line(PRESETS, arguments), masks)


def train(options: Masked, noise_of: Callable[[Any], dict[str, Any]]) -> Trainer:
    """Train with the plain ELBO of any noise, settings of which are made from the tokenizer."""
    optimization, run = options.optimization, options.run
    transformers.logging.disable_progress_bar()  # those of saving, not that of training
    args = arguments_of(optimization, run)
    chief = args.process_index == 0
    if chief:
        print(as_yaml(options))

    # Data: the first process prepares them, the others find them ready.
    with args.main_process_first(local=False, desc="data"):
        tokenizer, train, validation = load_data(options.data, run.output / "tokenizer", optimization.seed)
    if chief:
        print(f"training data: {train}\nheld out:      {validation}")

    # The process; the objective is the ELBO unless another one is given.
    noise = noise_of(tokenizer)
    process = process_from(noise)

    # The network.
    transformers.set_seed(optimization.seed)
    model = DiT(
        DiTConfig(
            vocab_size=vocabulary_size(tokenizer),
            max_seq_len=options.data.length,
            hidden_size=options.width,
            timestep_cond_dim=options.time_width,
            num_hidden_layers=options.layers,
            num_attention_heads=options.heads,
            attention_dropout=options.dropout,
            p_uniform=0.0,
            t_eps=options.time_margin,
        )
    )
    if chief:
        print(f"process:       {process}\nweights:       {model.num_parameters():,}")

    trainer = Trainer(
        model,
        args,
        train_dataset=train,
        eval_dataset=validation,
        process=process,
        time_range=(options.time_margin, 1 - options.time_margin),
        autocast=autocast_of(optimization),
        ema=optimization.ema,
        optimizer=optimization.optimizer,
        decay_all=optimization.decay_all,
        settings=numbers_of(options),
        callbacks=[KeepOptions(options, run.output)],
    )
    trainer.train(resume_from_checkpoint=None if run.resume == "never" else run.resume)
    trainer.save_final(
        run.output / "final", tokenizer=tokenizer, parts=[ModelSettings(noise)], settings=numbers_of(options)
    )
    if chief:
        print(f"the finished model is in {run.output / 'final'}")
    return trainer


if __name__ == "__main__":
    run_recipe(main)
