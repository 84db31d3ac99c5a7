"""The full bound with masking, hybrid and uniform noise, and an autoregressive model, on the same text and budget.

    python recipes/shakespeare.py --corpus input.txt                  # two CPU cores, five runs of a few minutes each
    python recipes/shakespeare.py --corpus input.txt --size medium    # on a GPU

The text is any file; with tiny Shakespeare (1,115,394 characters, 65 different ones) the split is the usual one: the first 90 %
for training, the rest held out. Tokens are characters. Finished runs are not trained again. The table is printed and written
to OUT/table.json.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import torch
import transformers

import autoregressive
import gidd_plus
import masked
import uniform
from noiselab.data import character_tokenizer, pack
from noiselab.evaluation import generative_perplexity, validation_bound
from noiselab.files import new_folder, write_json, write_text
from noiselab.pipeline import DiffusionPipeline, Pipeline
from noiselab.training.flags import parse_flags
from noiselab.training.options import run_recipe

MODELS: dict[str, tuple[Callable[[list[str]], Any], list[str]]] = {
    "masked": (masked.main, []),
    "gidd, p_uniform 0.1": (gidd_plus.main, ["--p-uniform", "0.1"]),
    "gidd, p_uniform 0.2": (gidd_plus.main, ["--p-uniform", "0.2"]),
    "uniform": (uniform.main, []),
    "autoregressive": (autoregressive.main, []),
}


@dataclass(frozen=True)
class Options:
    """The full bound with masking, hybrid and uniform noise, and an autoregressive model."""

    corpus: Path
    """a text file"""
    out: Path = Path("runs/shakespeare")
    """folder of the runs and the table"""
    size: Literal["demo", "medium"] = "demo"
    """preset of the recipes"""
    length: int = 64
    """number of characters in a sequence"""
    steps: int | None = None
    """number of optimizer steps of every model; those of the preset of masked.py by default"""
    only: tuple[str, ...] = tuple(MODELS)
    """models to train"""
    cpu: bool = True
    """do not use a GPU"""
    repeats: int = 4
    """number of noise times per held-out sequence"""
    seed: int = 1
    """seed of training and of the noise in the evaluation"""


def main(options: Options) -> list[dict[str, Any]]:
    """Train the missing models, evaluate, and write the table; returns its rows."""
    unknown = sorted(set(options.only) - set(MODELS))
    if unknown or not options.corpus.is_file():
        raise ValueError(
            f"corpus must be a file, and only must be among {list(MODELS)}; got {options.corpus}, {unknown}"
        )
    transformers.logging.set_verbosity_error()
    text = options.corpus.read_text(encoding="utf-8")
    train, held_out = text[: int(0.9 * len(text))], text[int(0.9 * len(text)) :]
    for name, part in (("train", train), ("held_out", held_out)):
        if not (options.out / f"{name}.txt").is_file():
            write_text(options.out / f"{name}.txt", part)
    if not (options.out / "tokenizer").is_dir():
        with new_folder(options.out / "tokenizer") as folder:
            character_tokenizer([text]).save_pretrained(folder)
    steps = options.steps or masked.PRESETS[options.size][1].optimization.steps
    rows: list[dict[str, Any]] = []
    for name in options.only:
        run, more = MODELS[name]
        folder = options.out / name.replace(", p_uniform ", "_")
        print(f"\n{name}: {steps:,} steps", flush=True)
        trainer = run(
            [
                *(options.size, "--corpus", str(options.out / "train.txt"), "--output", str(folder)),
                *(
                    "--held-out",
                    str(options.out / "held_out.txt"),
                    "--tokenizer",
                    str(options.out / "tokenizer"),
                    "--steps",
                    str(steps),
                ),
                *("--length", str(options.length), "--cpu", str(options.cpu), "--seed", str(options.seed), *more),
            ]
        )
        pipe = Pipeline.from_pretrained(folder / "final" / "ema").to(trainer.device)
        x = pack([held_out], pipe.tokenizer, options.length, keep_partial=False).tokens.long()
        rows.append({"model": name, "parameters": pipe.network.num_parameters()} | evaluate_model(pipe, x, options))
        write_json(options.out / "table.json", {"steps": steps, "characters": len(held_out), "rows": rows})
    print("\n" + tabulate_models(rows, measure_counts(train, held_out)))
    return rows


def evaluate_model(pipe: Pipeline, x: torch.Tensor, options: Options) -> dict[str, Any]:
    """Nats per character with the standard error, and the terms of the bound if it is one."""
    if not isinstance(pipe, DiffusionPipeline):
        judged = generative_perplexity(pipe.network, x, batch_size=64)
        return {"nats": judged.nats, "error": judged.error}
    random = torch.Generator(pipe.device).manual_seed(options.seed)
    bound = validation_bound(pipe.process, pipe.denoiser, x, repeats=options.repeats, batch_size=64, generator=random)
    return {
        "nats": bound.nelbo,
        "error": bound.error,
        "diffusion": bound.diffusion,
        "reconstruction": bound.reconstruction,
        "prior": bound.prior,
    }


def measure_counts(train: str, held_out: str) -> dict[str, float]:
    """Nats per character of unigram and bigram counts with add-one smoothing."""
    states = sorted(set(train + held_out))
    index = {c: i for i, c in enumerate(states)}
    x, y = (torch.tensor([index[c] for c in part]) for part in (train, held_out))
    n = len(states)
    single = torch.bincount(x, minlength=n).double() + 1
    pairs = torch.bincount(n * x[:-1] + x[1:], minlength=n * n).view(n, n).double() + 1
    return {
        "counts of characters": -(single / single.sum()).log()[y].mean().item(),
        "counts of pairs": -(pairs / pairs.sum(1, keepdim=True)).log()[y[:-1], y[1:]].mean().item(),
    }


def tabulate_models(rows: list[dict[str, Any]], beside: dict[str, float]) -> str:
    """The rows as a Markdown table."""
    lines = [
        "| model | parameters | nats per character | bits per character | diffusion | reconstruction | prior |",
        "| --- | ---: | ---: | ---: | ---: | ---: | ---: |",
    ]
    for row in rows:
        sign = "≤ " if "diffusion" in row else ""
        terms = [f"{row[name]:.4f}" if name in row else "" for name in ("diffusion", "reconstruction", "prior")]
        bits, error = row["nats"] / math.log(2), row["error"] / math.log(2)
        cells = [row["model"], f"{row['parameters']:,}", f"{sign}{row['nats']:.4f} ± {row['error']:.4f}"]
        lines.append(f"| {' | '.join([*cells, f'{sign}{bits:.4f} ± {error:.4f}', *terms])} |")
    for name, nats in beside.items():
        lines.append(f"| {name} | | {nats:.4f} | {nats / math.log(2):.4f} | | | |")
    return "\n".join(lines)


if __name__ == "__main__":
    run_recipe(lambda: main(parse_flags(Options)))
