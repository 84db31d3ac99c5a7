"""Autoregressive models that backtrack, a plain one and GIDD+ on the same text: bounds, samples, forced errors.

    python recipes/backspace.py demo                      # two CPU cores: about five minutes per arm
    python recipes/backspace.py medium --corpus FILES     # on a GPU
    python recipes/backspace.py demo --only plain visible erasing
    python recipes/backspace.py demo --help               # all fields

Every arm is the same Llama trained on the same number of clean tokens; the edit process differs. Finished arms are not trained again.
The tables are printed and written to OUTPUT/table.json.
"""  # noqa: E501

import sys
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import torch
import transformers

import autoregressive
import gidd_plus
from autoregressive import Autoregressive
from backspaces.measures import Measures, Model, Rows, plot_rows, tabulate_rows
from common import build_llama, load_or_train
from noiselab.autoregressive import (
    LaterTokens,
    ModelTokens,
    RandomTokenBackspace,
    UniformTokens,
    UnigramTokens,
    WrongTokens,
)
from noiselab.data import vocabulary_size
from noiselab.evaluation import token_bytes
from noiselab.files import write_json
from noiselab.pipeline import DiffusionPipeline
from noiselab.training import EditLoss, Trainer, real_tokens
from noiselab.training.options import as_yaml, command_line, numbers_of, run_recipe
from noiselab.training.texts import load_data


@dataclass(frozen=True)
class Arm:
    """The training data and loss of an arm."""

    rate: float
    """rate of mistakes before each token"""
    semantics: str = "visible"
    """visible or erasing"""
    mistakes: str = "scored"
    """scored, unscored, or unmarked: without backspaces"""
    wrong: str = "uniform"
    """uniform, unigram, later, or model: drawn from the plain arm"""


ARMS = {
    "plain": Arm(0.0),
    "visible": Arm(0.1),
    "visible, unscored": Arm(0.1, mistakes="unscored"),
    "erasing": Arm(0.1, "erasing"),
    "erasing, unscored": Arm(0.1, "erasing", "unscored"),
    "visible, unigram": Arm(0.1, wrong="unigram"),
    "visible, later": Arm(0.1, wrong="later"),
    "visible, model": Arm(0.1, wrong="model"),
    "visible, rate 0.3": Arm(0.3),
    "noise alone": Arm(0.1, mistakes="unmarked"),
}


@dataclass(frozen=True)
class Backspace(Autoregressive):
    """Small Llamas with a backspace token, one per arm."""

    only: tuple[str, ...] = tuple(ARMS)
    """arms to train"""
    gidd: tuple[int, ...] = (1, 4)
    """multiples of the steps for which GIDD+ is trained on the same text too"""
    judge_steps: int | None = None
    """optimizer steps of the judge, a plain model with twice the layers; twice the steps of the arms by default"""
    seeds: int = 3
    """number of sets of samples and of wrong tokens, at least 2, for the intervals"""
    samples: int = 16
    """number of texts in a set"""
    share: float = 0.05
    """share of tokens that are replaced in forced errors"""
    streams: int = 8
    """number of streams per text for the estimate of the bound"""


PRESETS = {
    name: (text, Backspace(**{key: getattr(options, key) for key in options.__dataclass_fields__}))
    for name, (text, options) in autoregressive.PRESETS.items()
    if name in ("demo", "medium")
}


def main(arguments: Sequence[str] | None = None) -> Rows:
    """Train the missing arms, evaluate, and write tables and plot; returns the rows of the tables."""
    options = command_line(PRESETS, arguments)
    unknown = sorted(set(options.only) - set(ARMS))
    if unknown or options.seeds < 2:
        raise ValueError(
            f"only must be among {list(ARMS)}, and seeds must be at least 2; got {unknown or options.only}, {options.seeds}"
        )
    transformers.logging.set_verbosity_error()
    transformers.logging.disable_progress_bar()
    preset = (arguments or sys.argv[1:])[0]
    folder = options.run.output
    options = replace(options, run=replace(options.run, output=folder / "plain"))
    tokenizer, train, validation = load_data(options.data, folder / "tokenizer", options.optimization.seed)
    options = replace(options, data=replace(options.data, tokenizer=str(folder / "tokenizer")))
    size = vocabulary_size(tokenizer)
    start = tokenizer.eos_token_id if tokenizer.bos_token_id is None else tokenizer.bos_token_id
    held_out = validation.tokens[validation.real == validation.length].long()
    if len(held_out) < (options.seeds + 1) * options.samples:
        raise ValueError(
            f"{options.seeds} sets of {options.samples} texts, and one for thresholds, must be held out; got {len(held_out)}"
        )
    ordinary = (set(range(size)) - set(tokenizer.all_special_ids)) | {start}
    sizes = token_bytes(tokenizer)
    judge = load_or_train_arm("judge", Arm(0.0), judge_options(options), folder, train, size, start, None)
    measures = Measures(
        judge,
        held_out,
        torch.tensor(sorted(ordinary | set(held_out.flatten().tolist()))),
        start,
        size,
        per_byte=held_out.numel() / sizes[held_out].sum().item(),
        seeds=options.seeds,
        samples=options.samples,
        share=options.share,
        streams=options.streams,
    )

    found = Rows([], [], {})

    def evaluate(model: Model) -> None:
        nonlocal found
        found += measures.rows(model)
        write_json(folder / "table.json", asdict(found))

    plain = None
    for name in options.only:
        arm = ARMS[name]
        if plain is None and (name == "plain" or arm.wrong == "model"):
            plain = load_or_train_arm("plain", ARMS["plain"], options, folder, train, size, start, None)
        network = plain if name == "plain" else load_or_train_arm(name, arm, options, folder, train, size, start, plain)
        edits = build_edits(arm, size, start, train, plain)
        marked = arm.rate > 0 and arm.mistakes != "unmarked"
        for banned in (False, True) if marked else (True,):
            evaluate(Model(name, network, arm.semantics, None if banned else edits))
    for times in options.gidd:
        evaluate(Model(f"GIDD+, {times} × the tokens", load_or_train_gidd(preset, times, options, folder)))
    print("\n" + tabulate_rows(found))
    plot_rows(found, folder / "backspace.png")
    return found


def judge_options(options: Backspace) -> Backspace:
    """The settings of the judge."""
    steps = options.judge_steps or 2 * options.optimization.steps
    return replace(
        options, layers=2 * options.layers, optimization=replace(options.optimization, steps=steps, seed=100)
    )


def build_edits(arm: Arm, size: int, start: int, train: Any, plain: Any) -> RandomTokenBackspace:
    """The edit process of an arm. The id of the backspace is the size of the tokenizer's vocabulary."""
    wrong: WrongTokens = UniformTokens(size)
    if arm.wrong == "unigram":
        counts = torch.bincount(train.tokens.long().flatten(), minlength=size).double()
        wrong = UnigramTokens(counts / counts.sum())
    elif arm.wrong == "later":
        wrong = LaterTokens(size)
    elif arm.wrong == "model":
        wrong = ModelTokens(plain, size, start)
    return RandomTokenBackspace(size + 1, size, arm.rate, wrong)


def load_or_train_arm(
    name: str, arm: Arm, options: Backspace, folder: Path, train: Any, size: int, start: int, plain: Any
) -> transformers.LlamaForCausalLM:
    """The network of an arm, of an earlier run or trained now."""
    run = replace(options.run, output=folder / name.replace(", ", "_").replace(" ", "_"))
    optimization = options.optimization
    # A resumed run may have other arms and another evaluation, so these are not among the settings.
    own = Autoregressive(**{name: getattr(options, name) for name in Autoregressive.__dataclass_fields__})
    settings = {**numbers_of(own), "arm": asdict(arm)}

    def build() -> Trainer:
        print(f"\n{name}: {as_yaml(arm).strip()}".replace("\n", ", "), flush=True)
        transformers.set_seed(optimization.seed)
        network = build_llama(
            size + 1,
            layers=options.layers,
            width=options.width,
            heads=options.heads,
            length=16 * options.data.length,
            start=start,
            dropout=options.dropout,
        )
        edits = build_edits(arm, size, start, train, plain)
        return Trainer(
            network,
            optimization,
            replace(run, evaluate_every=0),
            train_dataset=train,
            loss=EditLoss(edits, start, semantics=arm.semantics, deep=False, mistakes=arm.mistakes),
            count=real_tokens,
            settings=settings,
        )

    averaged = optimization.ema is not None
    return load_or_train(run.output, build, averaged=averaged, resume=run.resume, cpu=run.cpu, settings=settings)


def load_or_train_gidd(preset: str, times: int, options: Backspace, folder: Path) -> DiffusionPipeline:
    """GIDD+ with uniform noise on the same text, of an earlier run or trained now."""
    o = options.optimization
    output = folder / f"gidd_{times}"
    weights = output / "final" / "ema"
    if not weights.is_dir():
        gidd_plus.main(
            [
                *(preset, "--corpus", options.data.corpus, "--tokenizer", str(folder / "tokenizer")),
                *("--vocab-size", str(options.data.vocab_size), "--validation", str(options.data.validation)),
                *("--length", str(options.data.length), "--steps", str(times * o.steps), "--batch", str(o.batch)),
                *("--micro-batch", str(o.micro_batch), "--layers", str(options.layers)),
                *("--width", str(options.width), "--heads", str(options.heads), "--warmup", str(o.warmup)),
                *(
                    "--output",
                    str(output),
                    "--cpu",
                    str(options.run.cpu),
                    "--evaluate-every",
                    "0",
                    "--p-uniform",
                    "0.2",
                ),
            ]
        )
    return DiffusionPipeline.from_pretrained(weights)


if __name__ == "__main__":
    run_recipe(main)
