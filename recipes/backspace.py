"""Autoregressive models that take things back, beside a plain one and GIDD+, on one text: bounds, samples, forced errors.

    python recipes/backspace.py demo                      # two CPU cores: about five minutes for each arm
    python recipes/backspace.py medium --corpus FILES     # on a GPU
    python recipes/backspace.py demo --only plain visible erasing
    python recipes/backspace.py demo --help               # all fields

Every arm is the same Llama on the same number of clean tokens; its noise differs. Arms that are finished are not trained anew. The tables
are printed, and written to OUTPUT/table.json.
"""  # noqa: E501

import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import autoregressive
import gidd_plus
import torch
import transformers
from autoregressive import Autoregressive

from noiselab.autoregressive import (
    BackspaceSampler,
    LaterTokens,
    ModelTokens,
    RandomTokenBackspace,
    UniformTokens,
    UnigramTokens,
    WrongTokens,
    edit_bound,
)
from noiselab.data import vocabulary_size
from noiselab.evaluation import (
    by_backspace,
    by_denoiser,
    by_surprise,
    damage,
    detection,
    generative_perplexity,
    token_bytes,
    validation_bound,
)
from noiselab.evaluation.intervals import interval
from noiselab.files import write_json
from noiselab.pipeline import DiffusionPipeline
from noiselab.training import EditLoss, Trainer, real_tokens, small_llama, trained_once
from noiselab.training.options import (
    arguments_of,
    as_yaml,
    autocast_of,
    command_line,
    numbers_of,
    run_recipe,
)
from noiselab.training.texts import load_data


@dataclass(frozen=True)
class Arm:
    """What an arm is trained on."""

    rate: float
    """of mistakes, before each token"""
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
    """A small Llama with a backspace, several times."""

    only: tuple[str, ...] = tuple(ARMS)
    """arms to train"""
    gidd: bool = True
    """train GIDD+ on the same text too"""
    judge_steps: int | None = None
    """optimizer steps of the judge, a plain model of twice the layers; twice as many as the arms' if not given"""
    seeds: int = 3
    """sets of samples and of wrong tokens, at least two, for the intervals"""
    samples: int = 16
    """texts in a set"""
    share: float = 0.05
    """of tokens that are replaced, for the share that is found"""
    streams: int = 8
    """streams from which the bound of a text is estimated"""


PRESETS = {
    name: (text, Backspace(**{key: getattr(options, key) for key in options.__dataclass_fields__}))
    for name, (text, options) in autoregressive.PRESETS.items()
    if name in ("demo", "medium")
}


def main(arguments: Sequence[str] | None = None) -> list[dict[str, Any]]:
    """Train what is not trained yet, evaluate, and write the table; returns its rows."""
    options = command_line(PRESETS, arguments)
    unknown = sorted(set(options.only) - set(ARMS))
    if unknown or options.seeds < 2:
        raise ValueError(
            f"only must be among {list(ARMS)}, seeds at least 2; got {unknown or options.only}, {options.seeds}"
        )
    transformers.logging.set_verbosity_error()
    transformers.logging.disable_progress_bar()
    folder = options.run.output
    options = replace(options, run=replace(options.run, output=folder / "plain"))
    tokenizer, train, validation = load_data(options.data, folder / "tokenizer", options.optimization.seed)
    options = replace(options, data=replace(options.data, tokenizer=str(folder / "tokenizer")))
    size = vocabulary_size(tokenizer)
    start = tokenizer.eos_token_id if tokenizer.bos_token_id is None else tokenizer.bos_token_id
    held_out = validation.tokens[validation.real == validation.length].long()
    ordinary = (set(range(size)) - set(tokenizer.all_special_ids)) | {start}
    support = torch.tensor(sorted(ordinary | set(held_out.flatten().tolist())))
    sizes = token_bytes(tokenizer)
    per_byte = held_out.numel() / sizes[held_out].sum().item() / math.log(2)

    judge = trained("judge", Arm(0.0), judges(options), folder, train, size, start, None)
    rows: list[dict[str, Any]] = []
    plain = None
    for name in options.only:
        arm = ARMS[name]
        if plain is None and (name == "plain" or arm.wrong == "model"):
            plain = trained("plain", ARMS["plain"], options, folder, train, size, start, None)
        network = plain if name == "plain" else trained(name, arm, options, folder, train, size, start, plain)
        assert network is not None
        edits = noise(arm, size, start, train, plain)
        rows += evaluated(name, arm, network, edits, judge, held_out, support, options, size, start)
        write_json(folder / "table.json", {"rows": rows, "bits_per_byte": per_byte})
    if options.gidd:
        rows.append(diffusion(options, folder, held_out, support, judge, start))
        write_json(folder / "table.json", {"rows": rows, "bits_per_byte": per_byte})
    print("\n" + table(rows, per_byte))
    return rows


def judges(options: Backspace) -> Backspace:
    """The settings of the judge."""
    steps = options.judge_steps or 2 * options.optimization.steps
    return replace(
        options, layers=2 * options.layers, optimization=replace(options.optimization, steps=steps, seed=100)
    )


def noise(arm: Arm, size: int, start: int, train: Any, plain: Any) -> RandomTokenBackspace:
    """The edit process of an arm. The backspace is the token behind those of the tokenizer."""
    wrong: WrongTokens = UniformTokens(size)
    if arm.wrong == "unigram":
        counts = torch.bincount(train.tokens.long().flatten(), minlength=size).double()
        wrong = UnigramTokens(counts / counts.sum())
    elif arm.wrong == "later":
        wrong = LaterTokens(size)
    elif arm.wrong == "model":
        wrong = ModelTokens(plain, size, start)
    return RandomTokenBackspace(size + 1, size, arm.rate, wrong)


def trained(
    name: str, arm: Arm, options: Backspace, folder: Path, train: Any, size: int, start: int, plain: Any
) -> transformers.LlamaForCausalLM:
    """The network of an arm: that of an earlier run, or trained now."""
    run = replace(options.run, output=folder / name.replace(", ", "_").replace(" ", "_"))
    optimization = options.optimization
    settings = {**numbers_of(options), "arm": asdict(arm)}

    def build() -> Trainer:
        print(f"\n{name}: {as_yaml(arm).strip()}".replace("\n", ", "), flush=True)
        transformers.set_seed(optimization.seed)
        network = small_llama(
            size + 1,
            layers=options.layers,
            width=options.width,
            heads=options.heads,
            length=16 * options.data.length,
            start=start,
            dropout=options.dropout,
        )
        edits = noise(arm, size, start, train, plain)
        return Trainer(
            network,
            arguments_of(optimization, replace(run, evaluate_every=0)),
            train_dataset=train,
            loss=EditLoss(edits, start, semantics=arm.semantics, deep=False, mistakes=arm.mistakes),
            count=real_tokens,
            autocast=autocast_of(optimization),
            ema=optimization.ema,
            optimizer=optimization.optimizer,
            decay_all=optimization.decay_all,
            settings=settings,
        )

    averaged = optimization.ema is not None
    return trained_once(run.output, build, averaged=averaged, resume=run.resume, cpu=run.cpu, settings=settings)


def evaluated(
    name: str,
    arm: Arm,
    network: Any,
    edits: RandomTokenBackspace,
    judge: Any,
    x: torch.Tensor,
    support: torch.Tensor,
    options: Backspace,
    size: int,
    start: int,
) -> list[dict[str, Any]]:
    """The rows of an arm: as it was trained and, if it has backspaces, without them."""
    x = x.to(network.device)
    silent = RandomTokenBackspace(size + 1, size, 0.0, UniformTokens(size))
    marked = arm.rate > 0 and arm.mistakes != "unmarked"
    found = []
    for banned in (False, True) if marked else (True,):
        bias = -math.inf if banned else 0.0
        asked = Banned(network, size) if banned else network
        process = silent if banned else edits
        bound = edit_bound(
            asked,
            process,
            list(x[: options.seeds * options.samples]),
            start=start,
            semantics=arm.semantics,
            deep=False,
            samples=1 if banned else options.streams,
            generator=torch.Generator().manual_seed(0),
        )
        nats = bound / x.shape[1]
        row: dict[str, Any] = {"arm": name, "backspaces": "no" if banned else "yes", "exact": banned}
        row |= {"nats": nats.mean().item(), "error": (nats.std() / len(nats) ** 0.5).item()}
        sampler = BackspaceSampler(
            network, process, start=start, semantics=arm.semantics, deep=False, bias=bias, budget=4 * x.shape[1]
        )
        measures = []
        for seed in range(options.seeds):
            random = torch.Generator().manual_seed(seed)
            written = sampler.sample(options.samples, length=x.shape[1], generator=random)
            judged = generative_perplexity(judge, torch.stack(written.texts), start=start)
            part = x[seed * options.samples : (seed + 1) * options.samples]
            harm = damage(part, support, options.share, generator=random)
            suspicion = by_surprise(asked, start=start) if banned else by_backspace(network, size, start=start)
            seen = detection(suspicion(harm.tokens), harm.wrong)
            measures.append(
                {
                    "judge": judged.nats,
                    "entropy": judged.entropy,
                    "distinct": judged.distinct[1],
                    "taken_back": sum(int((z == size).sum()) for z in written.streams) / options.samples,
                    "evaluations": sum(written.evaluations) / sum(map(len, written.texts)),
                    "area": seen.area,
                    "recall": seen.recall,
                }
            )
        row |= {key: asdict(interval([m[key] for m in measures])) for key in measures[0]}
        found.append(row)
    return found


class Banned(torch.nn.Module):
    """A network without its backspace."""

    def __init__(self, network: Any, backspace: int) -> None:
        super().__init__()
        self.network, self.backspace = network, backspace

    def forward(self, **inputs: Any) -> torch.Tensor:
        """Logits, minus infinity for the backspace."""
        logits = self.network(**inputs).logits.clone()
        logits[..., self.backspace] = -torch.inf
        return logits


def diffusion(
    options: Backspace, folder: Path, x: torch.Tensor, support: torch.Tensor, judge: Any, start: int
) -> dict[str, Any]:
    """GIDD+ with uniform noise on the same tokens."""
    o = options.optimization
    gidd_plus.main(
        [
            *("demo", "--corpus", options.data.corpus, "--tokenizer", str(folder / "tokenizer")),
            *("--vocab-size", str(options.data.vocab_size), "--validation", str(options.data.validation)),
            *("--length", str(x.shape[1]), "--steps", str(o.steps), "--batch", str(o.batch)),
            *("--micro-batch", str(o.micro_batch), "--layers", str(options.layers), "--width", str(options.width)),
            *("--heads", str(options.heads), "--warmup", str(o.warmup), "--output", str(folder / "gidd")),
            *("--cpu", str(options.run.cpu), "--evaluate-every", "0", "--p-uniform", "0.2"),
        ]
    )
    pipe = DiffusionPipeline.from_pretrained(folder / "gidd" / "final" / "ema")
    part = x[: options.seeds * options.samples]
    bound = validation_bound(
        pipe.process, pipe.denoiser, part, repeats=8, batch_size=16, generator=torch.Generator().manual_seed(0)
    )
    row: dict[str, Any] = {"arm": "GIDD+, p_uniform 0.2", "backspaces": "", "exact": False}
    row |= {"nats": bound.nelbo, "error": bound.error}
    measures = []
    for seed in range(options.seeds):
        random = torch.Generator().manual_seed(seed)
        texts = pipe.generate(options.samples, x.shape[1], length=x.shape[1], generator=random, show_progress=False)
        tokens = torch.tensor([text.tokens for text in texts])
        judged = generative_perplexity(judge, tokens, start=start)
        piece = x[seed * options.samples : (seed + 1) * options.samples]
        harm = damage(piece, support, options.share, generator=random)
        seen = detection(by_denoiser(pipe.denoiser)(harm.tokens), harm.wrong)
        measures.append(
            {
                "judge": judged.nats,
                "entropy": judged.entropy,
                "distinct": judged.distinct[1],
                "evaluations": 1.0,
                "area": seen.area,
                "recall": seen.recall,
            }
        )
    return row | {key: asdict(interval([m[key] for m in measures])) for key in measures[0]}


COLUMNS = {
    "judge": "judge, nats per token",
    "entropy": "entropy",
    "distinct": "distinct 2-grams",
    "taken_back": "taken back per text",
    "evaluations": "evaluations per token",
    "area": "area under ROC",
    "recall": "found at 5 % false alarms",
}


def table(rows: list[dict[str, Any]], per_byte: float) -> str:
    """The rows as a Markdown table."""
    lines = [
        f"| arm | backspaces | nats per token | bits per byte | {' | '.join(COLUMNS.values())} |",
        f"| --- | --- | ---: | ---: | {' | '.join(['---:'] * len(COLUMNS))} |",
    ]
    for row in rows:
        sign = "" if row["exact"] else "≤ "
        cells = [row["arm"], row["backspaces"], f"{sign}{row['nats']:.3f} ± {1.96 * row['error']:.3f}"]
        cells.append(f"{sign}{row['nats'] * per_byte:.3f}")
        for key in COLUMNS:
            cells.append(f"{row[key]['mean']:.3f} ± {row[key]['half']:.3f}" if key in row else "")
        lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines)


if __name__ == "__main__":
    run_recipe(main)
