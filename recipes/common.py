"""Shared code of the training recipes: options, data, networks, training and saving.

To train on another noise process, write a script beside this file that names the process (docs/guides/training.md).
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import torch
import transformers

from noiselab.data import TokenBlocks, vocabulary_size
from noiselab.devices import select_device
from noiselab.networks.dit import DiT, DiTConfig
from noiselab.objectives import Objective, elbo
from noiselab.pipeline import ModelSettings
from noiselab.pipeline.loading import load_model
from noiselab.training import Trainer
from noiselab.training.layout import Layout, first_alone, start_processes
from noiselab.training.options import (
    Data,
    KeepOptions,
    Optimization,
    Run,
    as_yaml,
    numbers_of,
)
from noiselab.training.texts import load_data


@dataclass(frozen=True)
class Training:
    """The options of every training recipe."""

    optimization: Optimization
    data: Data
    run: Run
    layers: int = 12
    """number of transformer blocks"""
    width: int = 768
    """width of the residual stream"""
    heads: int = 12
    """number of attention heads"""
    dropout: float = 0.0
    """dropout probability, in [0, 1)"""


@dataclass(frozen=True)
class DiffusionTraining(Training):
    """The options of a recipe that trains a diffusion model."""

    time_margin: float = 1e-3
    """training times lie in [margin, 1 - margin]"""
    time_width: int = 128
    """width of the time embedding"""


DEMO = Optimization(
    steps=3_600,
    batch=16,
    micro_batch=16,
    learning_rate=6e-3,
    warmup=100,
    ema=0.99,
    optimizer="muon",
    weight_decay=0.05,
)
DEMO_TEXT = Data(corpus="library:prose", vocab_size=512, length=64, validation_sequences=512)
DEMO_NETWORK = {"layers": 4, "width": 128, "heads": 4}
DEMO_HELP = "a few minutes on two CPU cores; 1.8 MB of English text about Python"

MEDIUM = Optimization(
    steps=6_000,
    batch=64,
    micro_batch=64,
    learning_rate=3e-3,
    warmup=200,
    ema=0.999,
    optimizer="muon",
    weight_decay=0.05,
    precision="bfloat16",
)
MEDIUM_TEXT = Data(corpus="library:prose", vocab_size=2048, length=128, validation_sequences=512)
MEDIUM_NETWORK = {"layers": 8, "width": 384, "heads": 6, "dropout": 0.1}
MEDIUM_HELP = "a few minutes on one GPU; 8 layers of width 384; pass more text with --corpus FILES"

PUBLISHED = Optimization(steps=500_000, batch=512, micro_batch=32, warmup=10_000, precision="bfloat16")
OPENWEBTEXT = Data(
    corpus="hub:Skylion007/openwebtext",
    tokenizer="gpt2",
    length=512,
    held_out="last:100000",
    packing="crop",
    learn_padding=True,
    stream=True,
)
"""OpenWebText as the published code of GIDD reads it; docs/reference/published.md compares each field."""
BASE_NETWORK = {"layers": 24, "width": 1024, "heads": 16}


class Prepared(NamedTuple):
    """The data of a run, and its processes.

    **Arguments:**

    - `layout`: the processes of the run.
    - `tokenizer`: with mask, padding and end-of-text tokens.
    - `train`, `validation`: the training data, `TokenBlocks` or a `TokenStream`, and the held-out blocks.
    """

    layout: Layout
    tokenizer: Any
    train: Any
    validation: TokenBlocks

    @property
    def vocab_size(self) -> int:
        """The number of tokens in the vocabulary."""
        return vocabulary_size(self.tokenizer)

    def report(self, *lines: str) -> None:
        """Print lines, on the first process only."""
        if self.layout.first:
            print("\n".join(lines))


def prepare(options: Training) -> Prepared:
    """Print the options and build the tokenizer and the data; the first process writes them and the others read them."""
    transformers.logging.disable_progress_bar()  # the bars of saving; the bar of training stays
    layout = start_processes(cpu=options.run.cpu, shards=options.run.shards)
    with first_alone(layout):
        data = load_data(options.data, options.run.folder / "tokenizer", options.optimization.seed)
    prepared = Prepared(layout, *data)
    prepared.report(as_yaml(options), f"training data: {prepared.train}", f"held out:      {prepared.validation}")
    return prepared


def build_dit(options: DiffusionTraining, vocab_size: int, *, p_uniform: float = 0.0) -> DiT:
    """Build a DiT without memory, whose weights the trainer draws from the seed of the run.

    **Arguments:**

    - `options`: the sizes of the network.
    - `vocab_size`: the number of tokens.
    - `p_uniform`: stored in the network's configuration.
    """
    config = DiTConfig(
        vocab_size=vocab_size,
        max_seq_len=options.data.length,
        hidden_size=options.width,
        timestep_cond_dim=options.time_width,
        num_hidden_layers=options.layers,
        num_attention_heads=options.heads,
        attention_dropout=options.dropout,
        p_uniform=p_uniform,
        t_eps=options.time_margin,
    )
    with torch.device("meta"):
        return DiT(config)


def train_diffusion(
    options: DiffusionTraining,
    prepared: Prepared,
    noise: Mapping[str, Any],
    *,
    objective: Objective = elbo,
    model: Any = None,
    **more: Any,
) -> Trainer:
    """Train a diffusion model and write it to `final`, with the settings of its noise.

    **Arguments:**

    - `options`, `prepared`: the options of the recipe, and the result of `prepare` for them.
    - `noise`: the `family` and its arguments; see `noiselab.processes.process_from`.
    - `objective`: the weights of the bound.
    - `model`: the network; `build_dit` builds it by default.
    - `more`: further arguments of `Trainer`, such as `blocks`, which is written beside the noise.
    """
    settings = ModelSettings(noise, block_size=more.get("blocks"))
    process = settings.process()
    model = build_dit(options, prepared.vocab_size) if model is None else model
    prepared.report(
        f"process:       {process}",
        *([] if objective is elbo else [f"objective:     {objective}"]),
    )
    margin = options.time_margin
    return train_model(
        options,
        prepared,
        model,
        settings,
        process=process,
        objective=objective,
        time_range=(margin, 1 - margin),
        **more,
    )


def train_model(
    options: Any, prepared: Prepared, model: Any, settings: ModelSettings, *, merge: bool | None = None, **loss: Any
) -> Trainer:
    """Train a network and write it to `final`, with its tokenizer and noiselab.json.

    **Arguments:**

    - `options`, `prepared`: the options of the recipe, and the result of `prepare` for them.
    - `model`: the network.
    - `settings`: the content of noiselab.json.
    - `merge`: whether low-rank updates are merged; see `Trainer.save_final`.
    - `loss`: further arguments of `Trainer`: the process and its objective, or the loss.
    """
    run = options.run
    sizes = [(weight.numel(), weight.requires_grad) for weight in model.parameters()]
    trained = sum(size for size, trains in sizes if trains)
    total = sum(size for size, _ in sizes)
    prepared.report(f"weights:       {total:,}" + (f", of which {trained:,} are trained" if trained < total else ""))
    trainer = Trainer(
        model,
        options.optimization,
        run,
        train_dataset=prepared.train,
        eval_dataset=prepared.validation,
        settings={**numbers_of(options), "validation": prepared.validation.key},
        callbacks=[KeepOptions(options)],
        **loss,
    )
    trainer.train(run.resume)
    final = run.folder / "final"
    written = {**numbers_of(options), "corpus": getattr(options.data, "corpus", None) or list(options.data.data)}
    merging = {} if merge is None else {"merge": merge}
    trainer.save_final(final, tokenizer=prepared.tokenizer, parts=[settings], settings=written, **merging)
    prepared.report(f"the finished model is in {final}")
    return trainer


def build_llama(
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
    inner: int | None = None,
) -> transformers.LlamaForCausalLM:
    """Build a Llama with random weights from torch's global generator.

    **Arguments:**

    - `vocab_size`: number of tokens.
    - `layers`, `width`, `heads`: number of blocks, width of the residual stream, number of attention heads.
    - `length`: maximum sequence length in tokens.
    - `start`, `end`, `padding`: ids of the special tokens; `end` defaults to `start`.
    - `dropout`: dropout probability of the attention weights, in [0, 1).
    - `inner`: width of the hidden layer of a block; by default 8/3 of that of the stream, rounded down to a multiple of 8.

    **Example:**

    ```python
    from common import build_llama

    network = build_llama(100, layers=2, width=32, heads=2, length=64, start=0)
    ```
    """
    return transformers.LlamaForCausalLM(
        transformers.LlamaConfig(
            vocab_size=vocab_size,
            hidden_size=width,
            intermediate_size=4 * width * 2 // 3 // 8 * 8 if inner is None else inner,
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


def load_or_train(
    folder: Path,
    build: Callable[[], Trainer],
    *,
    averaged: bool,
    resume: str = "auto",
    cpu: bool = False,
    settings: dict[str, Any] | None = None,
) -> Any:
    """Load the trained network of a folder; train it first if there is none.

    **Arguments:**

    - `folder`: folder of the run. The network is in `final`, its averaged weights in `final/ema`.
    - `build`: returns the trainer, with the folder as its output; it is not called if the run is finished.
    - `averaged`: whether to load the averaged weights.
    - `resume`: "auto" resumes from the newest intact checkpoint, "never" starts from the beginning.
    - `cpu`: keep the network on the CPU.
    - `settings`: stored beside the weights.

    **Raises:** as `Trainer.train`.
    """
    weights = folder / "final" / "ema" if averaged else folder / "final"
    if not weights.is_dir():
        trainer = build()
        trainer.train(resume)
        trainer.save_final(folder / "final", settings=settings)
    network: Any = load_model(weights)[1]
    return network.to(select_device("cpu" if cpu else None))
