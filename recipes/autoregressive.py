"""An autoregressive baseline on the same data and trainer; also the judge of generated text.

    python recipes/autoregressive.py demo                        # two CPU cores, some minutes
    torchrun --nproc-per-node 8 recipes/autoregressive.py small
    python recipes/autoregressive.py demo --help                 # all fields

Started again, a run goes on from its newest intact checkpoint. The finished model is in OUTPUT/final, for
`transformers.AutoModelForCausalLM`.
A smoke test: python recipes/autoregressive.py demo --steps 4 --warmup 1 --output runs/smoke
"""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import transformers

from noiselab.data import vocabulary_size
from noiselab.pipeline import ModelSettings
from noiselab.training import Trainer, causal_loss, predicted_tokens
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
class Autoregressive:
    """A small Llama, from its configuration."""

    optimization: Optimization
    data: Data
    run: Run
    layers: int = 12
    """transformer blocks"""
    width: int = 768
    """of the residual stream"""
    heads: int = 12
    """attention heads"""
    dropout: float = 0.0
    """of attention weights, in [0, 1)"""


OPENWEBTEXT = Data(corpus="hub:Skylion007/openwebtext", tokenizer="gpt2", length=512, validation=0.0125, stream=True)
PUBLISHED = Optimization(steps=500_000, batch=512, micro_batch=32, precision="bfloat16")

PRESETS = {
    "demo": (
        "some minutes on two CPU cores: 1.8 MB of English about Python",
        Autoregressive(
            Optimization(
                steps=1_000,
                batch=16,
                micro_batch=16,
                learning_rate=6e-3,
                warmup=50,
                ema=0.99,
                optimizer="muon",
                weight_decay=0.05,
            ),
            Data(corpus="library:prose", vocab_size=512, length=64, validation_sequences=512),
            Run(Path("runs/autoregressive_demo"), log_every=50, evaluate_every=200, save_every=500),
            layers=4,
            width=128,
            heads=4,
        ),
    ),
    "medium": (
        "some minutes on one GPU: 8 layers of width 384; give it more text, --corpus FILES",
        Autoregressive(
            Optimization(
                steps=1_500,
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
            Run(Path("runs/autoregressive_medium"), log_every=50, evaluate_every=500, save_every=3_000),
            layers=8,
            width=384,
            heads=6,
            dropout=0.1,
        ),
    ),
    "small": (
        "12 layers of width 768 on OpenWebText, 131 billion tokens",
        Autoregressive(
            PUBLISHED, OPENWEBTEXT, Run(Path("runs/autoregressive_small"), save_every=5_000, evaluate_every=5_000)
        ),
    ),
    "base": (
        "24 layers of width 1024 on OpenWebText, 131 billion tokens",
        Autoregressive(
            PUBLISHED,
            OPENWEBTEXT,
            Run(Path("runs/autoregressive_base"), save_every=5_000, evaluate_every=5_000),
            layers=24,
            width=1024,
            heads=16,
        ),
    ),
}


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

    # The network.
    transformers.set_seed(optimization.seed)
    model = transformers.LlamaForCausalLM(
        transformers.LlamaConfig(
            vocab_size=vocabulary_size(tokenizer),
            hidden_size=options.width,
            intermediate_size=4 * options.width * 2 // 3 // 8 * 8,
            num_hidden_layers=options.layers,
            num_attention_heads=options.heads,
            max_position_embeddings=options.data.length,
            attention_dropout=options.dropout,
            bos_token_id=tokenizer.bos_token_id,
            eos_token_id=tokenizer.eos_token_id,
            pad_token_id=tokenizer.pad_token_id,
            use_cache=False,
        )
    )
    if chief:
        print(f"weights:       {model.num_parameters():,}")

    trainer = Trainer(
        model,
        args,
        train_dataset=train,
        eval_dataset=validation,
        loss=causal_loss,
        count=predicted_tokens,
        autocast=autocast_of(optimization),
        ema=optimization.ema,
        optimizer=optimization.optimizer,
        decay_all=optimization.decay_all,
        settings=numbers_of(options),
        callbacks=[KeepOptions(options, run.output)],
    )
    trainer.train(resume_from_checkpoint=None if run.resume == "never" else run.resume)
    trainer.save_final(run.output / "final", tokenizer=tokenizer, parts=[ModelSettings()], settings=numbers_of(options))
    if chief:
        print(f"the finished model is in {run.output / 'final'}")
    return trainer


if __name__ == "__main__":
    run_recipe(main)
