"""Turn a causal or masked model of transformers into a diffusion model on any noise, with your texts or conversations.

    python recipes/adapt.py demo --model FOLDER --data chats.jsonl                  # two CPU cores: all weights of a small model
    python recipes/adapt.py demo --model FOLDER --data library:prose --noise masked gidd --shares 0.6 0.4     # a curriculum
    python recipes/adapt.py gpu --model Qwen/Qwen3-0.6B --data chats.jsonl          # one GPU: low-rank updates, bfloat16
    python recipes/adapt.py demo --model FOLDER --data "texts/*.txt" --noise mine.json
    python recipes/adapt.py gpu --help                                              # all fields

The attention of a causal model is opened, and a mask token is added where there is none. Conversations are rows of `messages`, or of a
`prompt` and a `response` (noiselab.data.ResponseRows): prompts are conditioned on, answers are learned. Noise is one or several of
masked, gidd, uniform, unigram, mask_and_unigram, or a JSON file with the settings of a process; several are a curriculum. The loss of
the model before and the bound after are printed in nats per token, on the same held-out tokens, and written to OUTPUT/table.json. At the
end the model writes an answer, fills a gap and corrects errors, for a row of training and for one that is held out. The finished model
is in OUTPUT/final, for `Pipeline.from_pretrained`.

Run the command again to resume from the newest intact checkpoint.
Source: Gong et al. (2025), arXiv 2410.17891 (adaptation of causal models); Nie et al. (2025), arXiv 2502.09992 (loss on answers).
"""  # noqa: E501

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import transformers

import noiselab as nl
from adapting.measures import Conditioned, Nats, measure_bound, measure_causal, show_model, tabulate_nats
from common import Prepared, train_model
from noiselab.data import ResponseRows, TokenBlocks, pack, token_frequencies, token_support
from noiselab.data.records import PLAIN, STRUCTURED, kind_of, read_rows
from noiselab.files import write_json
from noiselab.networks.masked_lm import is_causal
from noiselab.networks.masked_lm_files import load_masked_lm
from noiselab.networks.model_folders import open_tokenizer
from noiselab.objectives import elbo
from noiselab.pipeline import DiffusionPipeline, GenerationSettings, ModelSettings
from noiselab.training import Stage, Trainer, adapt
from noiselab.training.layout import first_alone, start_processes
from noiselab.training.options import Data, Optimization, Run, as_yaml, command_line, run_recipe
from noiselab.training.texts import corpora

NOISES = ("masked", "gidd", "uniform", "unigram", "mask_and_unigram")


@dataclass(frozen=True)
class Examples:
    """The data."""

    data: tuple[str, ...] = ("library:prose",)
    """files, folders or patterns of conversations (.jsonl, .json, .parquet), or of texts (.txt, .md, .py); or library:prose"""
    length: int = 512
    """maximum number of tokens of a row, at most the context of the model"""
    too_long: Literal["refuse", "drop", "truncate"] = "drop"
    """longer conversations: refuse them, leave them out, or cut off their ends"""
    special: Literal["refuse", "drop", "text"] = "refuse"
    """conversations that contain special tokens as they are written: refuse them, leave them out, or take them as plain text"""
    template: Path | None = None
    """file of a chat template; by default that of the tokenizer, or a plain one"""
    ends: int | Literal["both"] = "both"
    """both: each conversation with one end of text, and filled with ends up to the longest; or how often its end is learned"""
    validation: float = 0.05
    """share of the data that is held out"""
    validation_sequences: int = 256
    """maximum number of held-out rows"""


@dataclass(frozen=True)
class Adaptation:
    """A model of transformers becomes a diffusion model."""

    optimization: Optimization
    data: Examples
    run: Run
    model: str = ""
    """a causal or masked model with its tokenizer: a folder, or a name on the Hugging Face hub"""
    noise: tuple[str, ...] = ("gidd",)
    """masked, gidd, uniform, unigram, mask_and_unigram, or a JSON file; several are used one after another"""
    shares: tuple[float, ...] = ()
    """share of the steps for each noise; equal by default"""
    p_uniform: float = 0.1
    """largest share of random tokens of gidd and mask_and_unigram, at t = 1/2"""
    weights: Literal["elbo", "clipped"] = "clipped"
    """weights of the tokens in the loss"""
    max_weight: float = 5.0
    """largest weight, if they are clipped"""
    time_margin: float = 1e-3
    """training times lie in [margin, 1 - margin]"""
    shifted: bool = True
    """read the prediction of a token at the position before it, as a causal model has learned; masked models never do"""
    lora: int = 0
    """rank of low-rank updates, which alone are trained; 0 trains all weights"""
    merge: bool = False
    """write low-rank updates merged into the weights, not as adapters beside the name of their base"""
    fresh: bool = False
    """start from random weights, to compare: the architecture and the tokenizer of the model alone"""
    repeats: int = 4
    """noise times per held-out row for the bounds"""


PRESETS = {
    "demo": (
        "two CPU cores: all weights of a model of some million parameters",
        Adaptation(
            Optimization(steps=600, batch=16, micro_batch=16, learning_rate=3e-3, warmup=30, weight_decay=0.05),
            Examples(length=64),
            Run(Path("runs/adapted"), log_every=20, evaluate_every=200, save_every=200),
            p_uniform=0.2,
            max_weight=2.0,
        ),
    ),
    "gpu": (
        "one GPU: low-rank updates of a model of some billion parameters",
        Adaptation(
            Optimization(
                steps=5_000,
                batch=64,
                micro_batch=8,
                learning_rate=2e-4,
                warmup=200,
                precision="bfloat16",
                decay_all=False,
                checkpointing=True,
            ),
            Examples(length=1024),
            Run(Path("runs/adapted_gpu"), save_every=500, evaluate_every=500),
            noise=("masked", "gidd"),
            lora=32,
        ),
    ),
}


def load_examples(options: Examples, tokenizer: Any) -> tuple[Any, Any, Any]:
    """The tokenizer, with a chat template if there are conversations, and the training and held-out rows."""
    first = options.data[0] if options.data else ""
    kinds = {kind_of(Path(one)) for one in options.data}
    if kinds <= set(STRUCTURED) and kinds and not is_text(Path(first)):
        rows = ResponseRows(
            options.data,
            tokenizer,
            options.length,
            template=options.template,
            too_long=options.too_long,
            special=options.special,
            ends=options.ends,
        )
        training, held_out = rows.split(options.validation)
        return rows.tokenizer, training, held_out.first(options.validation_sequences)
    if len(options.data) != 1:
        raise ValueError(
            f"--data must be files of conversations ({', '.join(STRUCTURED)}), or one file, folder or pattern of texts "
            f"({', '.join(PLAIN)}); got {list(options.data)}"
        )
    parts = corpora(Data(corpus=first, validation=options.validation))
    training, held_out = (pack(part, tokenizer, options.length, keep_partial=False) for part in parts)
    count = options.validation_sequences
    return tokenizer, training, TokenBlocks(held_out.tokens[:count], held_out.real[:count], held_out.vocab_size)


def is_text(path: Path) -> bool:
    """Whether the first row of a file of rows is a text alone, so that texts can be packed without padding."""
    first = next(iter(read_rows(path, ("text", "messages", "prompt"))), (None, None))[1] if path.is_file() else None
    return isinstance(first, dict) and {name for name in first if first[name] is not None} == {"text"}


def describe_noise(name: str, options: Adaptation, data: Prepared) -> dict[str, Any]:
    """The settings of a noise process, for noiselab.json."""
    size, mask = data.vocab_size, data.tokenizer.mask_token_id
    if name.endswith(".json"):
        rows = [row for _, row in read_rows(Path(name))]
        if len(rows) != 1 or not isinstance(rows[0], dict):
            raise ValueError(f"a file of --noise must be one JSON object; got {name}")
        return rows[0]
    if name not in NOISES:
        raise ValueError(f"--noise must be among {', '.join(NOISES)}, or JSON files; got {name!r}")
    if name in ("unigram", "mask_and_unigram"):
        support = token_support(data.tokenizer)
        row = token_frequencies(data.train, size, smoothing=1.0, support=support).tolist()
        if name == "unigram":
            return {"family": name, "frequencies": row, "support": support.tolist()}
        return {"family": name, "frequencies": row, "mask_id": mask, "p_unigram": options.p_uniform}
    return {
        "masked": {"family": "masked", "vocab_size": size, "mask_id": mask},
        "uniform": {"family": "uniform", "vocab_size": size, "special": [mask]},
        "gidd": {"family": "gidd", "vocab_size": size, "mask_id": mask, "p_uniform": options.p_uniform},
    }[name]


def plan_stages(options: Adaptation, processes: Sequence[nl.NoiseProcess], size: int) -> list[Stage]:
    """The noises with their numbers of steps, for a vocabulary of this size."""
    for name, process in zip(options.noise, processes, strict=True):
        if process.vocab_size != size:
            raise ValueError(f"noise must have the {size} tokens of the tokenizer; {name} has {process.vocab_size}")
    shares = options.shares or (1.0,) * len(processes)
    if len(shares) != len(processes) or not processes or min(shares) <= 0:
        raise ValueError(
            f"--noise must name at least one noise, and --shares one positive share for each; got {options.noise} and {shares}"
        )
    ends = [round(options.optimization.steps * sum(shares[: i + 1]) / sum(shares)) for i in range(len(shares))]
    return [Stage(p, end - start) for p, start, end in zip(processes, [0, *ends], ends, strict=False)]


def generation_of(train: Any) -> GenerationSettings:
    """How the model generates by default: in training, question and answer have at most this number of tokens together."""
    return GenerationSettings(length=train.width if isinstance(train, ResponseRows) else None)


def load_start(options: Adaptation) -> tuple[Any, Any]:
    """The model as it is before training, and its tokenizer."""
    if not options.model:
        raise ValueError("--model must be given: a folder, or a name on the Hugging Face hub; got none")
    if options.fresh and options.lora:
        raise ValueError(f"--fresh trains all weights, so that --lora must be 0; got {options.lora}")
    model: Any = load_masked_lm(options.model).model
    tokenizer = open_tokenizer(options.model)
    transformers.set_seed(options.optimization.seed)
    if options.fresh:
        model = type(model)(model.config)
    return model, tokenizer


def main(arguments: Sequence[str] | None = None) -> dict[str, Any]:
    """Adapt, evaluate before and after, and show the result; returns the content of table.json."""
    options = command_line(PRESETS, arguments)
    transformers.logging.disable_progress_bar()
    layout = start_processes(cpu=options.run.cpu, shards=options.run.shards)
    model, tokenizer = load_start(options)
    shifted = is_causal(model) and options.shifted
    denoiser, tokenizer = adapt(model, tokenizer, shifted=shifted, lora=options.lora or None)
    with first_alone(layout):
        data = Prepared(layout, *load_examples(options.data, tokenizer))
    data.report(as_yaml(options), f"training data: {data.train}", f"held out:      {data.validation}")
    noises = [describe_noise(name, options, data) for name in options.noise]
    stages = plan_stages(options, [ModelSettings(noise).process() for noise in noises], data.vocab_size)
    data.report(*(f"{stage.steps:6} steps:  {stage.process}" for stage in stages))
    rows = Conditioned(data.validation)
    how: dict[str, Any] = {"repeats": options.repeats, "batch_size": options.optimization.micro_batch}
    measured: list[Nats] = []
    if layout.first:
        if is_causal(model) and not options.fresh:
            before = model.to(layout.device)
            measured.append(measure_causal("before: autoregressive", before, rows, batch_size=how["batch_size"]))
        opened = denoiser.to(layout.device)
        measured.append(measure_bound("opened, without training", stages[-1].process, opened, rows, **how))
    trainer: Trainer = train_model(
        options,
        data,
        denoiser,
        ModelSettings(noises[-1], predicts=denoiser.predicts, generation=generation_of(data.train)),
        merge=options.merge,
        process=stages[-1].process,
        curriculum=stages[:-1],
        objective=elbo if options.weights == "elbo" else nl.objectives.Clipped(options.max_weight),
        time_range=(options.time_margin, 1 - options.time_margin),
    )
    if not layout.first:
        return {}
    folder = options.run.output / "final"
    pipe = DiffusionPipeline.from_pretrained(folder if trainer.average is None else folder / "ema").to(layout.device)
    measured.append(measure_bound("after training", pipe.process, pipe.denoiser, rows, **how))
    table = {
        "noise": list(options.noise),
        "steps": options.optimization.steps,
        "rows": [one._asdict() | {"each": one.each.tolist(), "tokens": one.tokens.tolist()} for one in measured],
    }
    write_json(options.run.output / "table.json", table)
    data.report("\n" + tabulate_nats(measured))
    for name, shown in (
        ("A row of the training data", Conditioned(data.train)),
        ("A row that is held out, whose facts training has not seen", rows),
    ):
        data.report(f"\n{name}:", show_model(pipe, shown, seed=options.optimization.seed))
    return table


if __name__ == "__main__":
    run_recipe(main)
