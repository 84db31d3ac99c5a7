"""GIDD+: a language model on a mixture of masking and uniform noise, which can correct its own tokens.

    python recipes/gidd_plus.py demo                                     # two CPU cores, some minutes
    python recipes/gidd_plus.py demo --p-uniform 0.1 --output runs/p01   # any field of any preset
    torchrun --nproc-per-node 8 recipes/gidd_plus.py small               # the published settings
    python recipes/gidd_plus.py base --help                              # all fields

Started again, a run goes on from its newest intact checkpoint. The finished model is in OUTPUT/final.
A smoke test: python recipes/gidd_plus.py demo --steps 4 --warmup 1 --output runs/smoke

Source: von Ruette et al. (2025), "Generalized Interpolating Discrete Diffusion", arXiv 2503.04482.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import torch
import transformers

import noiselab as nl
from noiselab.data import vocabulary_size
from noiselab.networks.dit import Block, DiT, DiTConfig
from noiselab.objectives import elbo
from noiselab.pipeline import ModelSettings
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
class GiddPlus:
    """GIDD+: masking and uniform noise, dynamic loss weights."""

    optimization: Optimization
    data: Data
    run: Run
    p_uniform: float = 0.2
    """largest share of uniform noise, at t = 1/2; 0 is masking"""
    gamma: float = 1.0
    """how sharply uniform noise is concentrated around t = 1/2, in (0, 2]"""
    weights: Literal["dynamic", "dynamic_v11", "clipped", "elbo"] = "dynamic"
    """weights of the tokens in the loss; dynamic_v11 is what release v1.1.0 of the published code computes"""
    max_weight: float = 2.0
    """largest weight, unless the weights are those of the elbo"""
    time_margin: float = 1e-4
    """times lie in [margin, 1 - margin]"""
    layers: int = 12
    """transformer blocks"""
    width: int = 768
    """of the residual stream"""
    heads: int = 12
    """attention heads"""
    time_width: int = 128
    """of the time embedding"""
    dropout: float = 0.0
    """in [0, 1)"""
    open_gates: bool = False
    """let the blocks take part from the first step; as published they start as the identity, which takes longer to leave"""


OPENWEBTEXT = Data(corpus="hub:Skylion007/openwebtext", tokenizer="gpt2", length=512, validation=0.0125, stream=True)
PUBLISHED = Optimization(steps=500_000, batch=512, micro_batch=32, precision="bfloat16")

PRESETS = {
    "demo": (
        "some minutes on two CPU cores: 1.8 MB of English about Python",
        GiddPlus(
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
            Run(Path("runs/gidd_plus_demo"), log_every=50, evaluate_every=400, save_every=400),
            layers=4,
            width=128,
            heads=4,
            open_gates=True,
        ),
    ),
    "medium": (
        "some minutes on one GPU: 8 layers of width 384; give it more text, --corpus FILES",
        GiddPlus(
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
            Run(Path("runs/gidd_plus_medium"), log_every=50, evaluate_every=500, save_every=3_000),
            layers=8,
            width=384,
            heads=6,
            dropout=0.1,
            open_gates=True,
        ),
    ),
    "small": (
        "as published: 12 layers of width 768 on OpenWebText, 131 billion tokens",
        GiddPlus(PUBLISHED, OPENWEBTEXT, Run(Path("runs/gidd_plus_small"), save_every=5_000, evaluate_every=5_000)),
    ),
    "base": (
        "as published: 24 layers of width 1024 on OpenWebText, 131 billion tokens",
        GiddPlus(
            PUBLISHED,
            OPENWEBTEXT,
            Run(Path("runs/gidd_plus_base"), save_every=5_000, evaluate_every=5_000),
            layers=24,
            width=1024,
            heads=16,
        ),
    ),
}


def open_gates(model: DiT) -> None:
    """Set what each block adds to the residual stream to its full size (its gates to 1)."""
    for module in model.modules():
        if isinstance(module, Block):
            with torch.no_grad():
                module.adaLN_modulation.bias.view(6, -1)[[2, 5]] = 1


def main(arguments: Sequence[str] | None = None) -> Trainer:
    """Train, and write the finished model."""
    options = command_line(PRESETS, arguments)
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

    # The process, and how its divergence is weighted.
    vocab_size = vocabulary_size(tokenizer)
    noise = {"vocab_size": vocab_size, "p_uniform": options.p_uniform, "gamma": options.gamma}
    about = ModelSettings({"family": "gidd", **noise, "mask_id": tokenizer.mask_token_id})
    process = about.process()
    objective = {
        "dynamic": nl.objectives.Dynamic.gidd(**noise, max_weight=options.max_weight),
        "dynamic_v11": nl.objectives.DynamicV11.gidd(**noise, max_weight=options.max_weight),
        "clipped": nl.objectives.Clipped(options.max_weight),
        "elbo": elbo,
    }[options.weights]

    # The network.
    transformers.set_seed(optimization.seed)
    model = DiT(
        DiTConfig(
            vocab_size=vocab_size,
            max_seq_len=options.data.length,
            hidden_size=options.width,
            timestep_cond_dim=options.time_width,
            num_hidden_layers=options.layers,
            num_attention_heads=options.heads,
            attention_dropout=options.dropout,
            p_uniform=options.p_uniform,
            t_eps=options.time_margin,
        )
    )
    if options.open_gates:
        open_gates(model)
    if chief:
        print(f"process:       {process}\nobjective:     {objective}\nweights:       {model.num_parameters():,}")

    trainer = Trainer(
        model,
        args,
        train_dataset=train,
        eval_dataset=validation,
        process=process,
        objective=objective,
        time_range=(options.time_margin, 1 - options.time_margin),
        autocast=autocast_of(optimization),
        ema=optimization.ema,
        optimizer=optimization.optimizer,
        decay_all=optimization.decay_all,
        settings=numbers_of(options),
        callbacks=[KeepOptions(options, run.output)],
    )
    trainer.train(resume_from_checkpoint=None if run.resume == "never" else run.resume)
    trainer.save_final(run.output / "final", tokenizer=tokenizer, parts=[about], settings=numbers_of(options))
    if chief:
        print(f"the finished model is in {run.output / 'final'}")
    return trainer


if __name__ == "__main__":
    run_recipe(main)
