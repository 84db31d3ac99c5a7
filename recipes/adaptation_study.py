"""What is a pretrained causal model worth to a diffusion model, and can the result correct itself? Bounds and repair of errors.

    python recipes/adaptation_study.py                      # one core: about fifteen minutes
    python recipes/adaptation_study.py --seeds 1 2          # fewer seeds, at least two
    python recipes/adaptation_study.py --help               # all fields

For each seed, a small Llama is trained as a causal model on prose, then adapted by adapt.py with masks and with hybrid noise, which
puts random tokens beside the masks; the same network is trained from random weights with the same noise, steps and settings. Compared are
the bounds on the same held-out tokens, and forced errors: a share of held-out tokens is replaced by random ones, and tokens whose
probability is below a threshold are replaced by the best guess of the model. A model of masks alone is used in two ways: as it is, with
all tokens visible, and with each token masked while it is predicted. Finished runs are not repeated. The table is printed and written to
OUT/table.json.
"""  # noqa: E501

from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
import transformers
import tyro

import adapt
import autoregressive
from noiselab.bench import ForcedErrors, force_errors, measure_forced_errors
from noiselab.correctors import BestGuessReviser, DenoiserDetector
from noiselab.denoisers.one_by_one import OneByOne
from noiselab.evaluation import Interval, interval, threshold_at
from noiselab.files import write_json
from noiselab.pipeline import DiffusionPipeline
from noiselab.training.options import run_recipe

NOISES = {"masks": ["masked"], "hybrid": ["gidd"]}
STARTS = {"adapted": False, "from scratch": True}
MEASURES = {
    "area": "area under ROC",
    "recall": "found at 5 % false alarms",
    "mended": "wrong → right",
    "harmed": "right → wrong",
    "gain": "net gain",
}


@dataclass(frozen=True)
class Options:
    """What a pretrained causal model is worth to a diffusion model, and whether the result can correct itself."""

    out: Path = Path("runs/adaptation_study")
    """folder of the runs and the table"""
    corpus: str = "library:prose"
    """the texts, see common.py"""
    seeds: tuple[int, ...] = (1, 2, 3, 4, 5)
    """of the weights, the order of the data and the noise; at least two"""
    pretraining: int = 600
    """steps of the causal model"""
    steps: int = 2500
    """steps of each diffusion model"""
    learning_rate: float = 2e-3
    """of each diffusion model (AdamW)"""
    p_uniform: float = 0.2
    """largest share of random tokens of hybrid noise"""
    layers: int = 2
    """blocks of the Llama"""
    width: int = 64
    """width of its residual stream"""
    heads: int = 4
    """attention heads"""
    vocab_size: int = 512
    """tokens"""
    length: int = 64
    """tokens in a sequence"""
    share: float = 0.1
    """share of tokens that are replaced"""
    sequences: int = 192
    """held-out sequences with forced errors; a third of them chooses the threshold"""
    false_alarms: float = 0.02
    """share of right tokens above the threshold"""
    passes: int = 8
    """network evaluations per prediction where tokens are masked one by one"""


def main(options: Options) -> dict[str, Any]:
    """Train the missing models, evaluate, print and write the table; returns its content."""
    if len(options.seeds) < 2:
        raise ValueError(f"there must be at least two seeds, for an interval; got {options.seeds}")
    transformers.logging.set_verbosity_error()
    runs = [measure_seed(options, seed) for seed in options.seeds]
    rows = [collect(name, [run[name] for run in runs], runs) for name in runs[0]]
    table = {"options": {name: str(value) for name, value in asdict(options).items()}, "rows": rows}
    write_json(options.out / "table.json", table)
    print("\n" + tabulate(rows))
    return table


def measure_seed(options: Options, seed: int) -> dict[str, dict[str, float]]:
    """Nats per token and repair of all models of one seed, by name."""
    folder = options.out / f"seed_{seed}"
    causal = folder / "causal"
    sizes = [*("--layers", options.layers, "--width", options.width, "--heads", options.heads)]
    data = [*("--corpus", options.corpus, "--vocab-size", options.vocab_size, "--length", options.length)]
    often = [*("--evaluate-every", 0, "--save-every", 10_000, "--log-every", 50, "--cpu", True, "--seed", seed)]
    more = ["--steps", options.pretraining, "--output", causal, *sizes, *data, *often]
    autoregressive.main(["demo", *map(str, more)])
    found: dict[str, dict[str, float]] = {}
    sets: list[ForcedErrors] = []
    for noise, names in NOISES.items():
        for start, fresh in STARTS.items():
            run = folder / f"{noise}_{start.replace(' ', '_')}"
            arguments = [
                *("--model", causal / "final" / "ema", "--data", options.corpus, "--length", options.length),
                *(
                    "--noise",
                    *names,
                    "--p-uniform",
                    options.p_uniform,
                    "--max-weight",
                    5,
                    "--fresh",
                    fresh,
                    "--output",
                    run,
                ),
                *("--steps", options.steps, "--learning-rate", options.learning_rate, "--batch", 16, *often),
            ]
            nats = {row["name"]: row["mean"] for row in adapt.main(["demo", *map(str, arguments)])["rows"]}
            if not fresh:
                found.setdefault("causal, before", {"nats": nats["before: autoregressive"]})
            pipe = DiffusionPipeline.from_pretrained(run / "final")
            sets = sets or forced_sets(pipe, options, seed)
            found[f"{noise}, {start}"] = {"nats": nats["after training"], **repair(pipe, sets, options, seed)}
            if noise == "masks":
                repaired = repair(pipe, sets, options, seed, one_by_one=True)
                found[f"{noise}, {start}, one by one"] = {"nats": nats["after training"], **repaired}
    return found


def repair(
    pipe: DiffusionPipeline, sets: list[ForcedErrors], options: Options, seed: int, *, one_by_one: bool = False
) -> dict[str, float]:
    """Shares of forced errors in held-out sequences that are found and corrected."""
    mask = pipe.tokenizer.mask_token_id
    denoiser = OneByOne(pipe.denoiser, mask, options.passes) if one_by_one else pipe.denoiser
    detector = DenoiserDetector(denoiser)
    others, *rest = sets
    threshold = threshold_at(detector(others.tokens), others.wrong, options.false_alarms)
    reviser = BestGuessReviser(denoiser, threshold=threshold, support=pipe.support)
    row = measure_forced_errors("", rest, detector, reviser)
    return {name: getattr(row, name).mean for name in MEASURES}


def forced_sets(pipe: DiffusionPipeline, options: Options, seed: int) -> list[ForcedErrors]:
    """Three sets of held-out sequences with errors, the same for all models of a seed; the first chooses the threshold."""
    examples = adapt.Examples(data=(options.corpus,), length=options.length, validation_sequences=options.sequences)
    blocks = adapt.load_examples(examples, pipe.tokenizer)[2]
    support = pipe.support.nonzero()[:, 0]
    random = torch.Generator().manual_seed(seed)
    return [force_errors(x, support, options.share, generator=random) for x in blocks.tokens.long().chunk(3)]


def collect(name: str, found: list[dict[str, float]], runs: list[dict[str, dict[str, float]]]) -> dict[str, Any]:
    """Means over seeds with 95 % intervals, and paired differences from the same noise from scratch and from masks."""
    row: dict[str, Any] = {"name": name}
    row |= {key: interval([one[key] for one in found]) for key in found[0]}
    if ", adapted" in name:
        scratch = name.replace("adapted", "from scratch")
        row["from scratch"] = interval([run[name]["nats"] - run[scratch]["nats"] for run in runs])
    if name.startswith("hybrid"):
        for way in ("", ", one by one"):
            twin = f"{name.replace('hybrid', 'masks')}{way}"
            row[f"gain beyond masks{way}"] = interval([run[name]["gain"] - run[twin]["gain"] for run in runs])
    return {key: asdict(value) if isinstance(value, Interval) else value for key, value in row.items()}


def tabulate(rows: list[dict[str, Any]]) -> str:
    """The rows as Markdown; ± is the 95 % interval over seeds."""
    heads = ["model", "nats per token", "against scratch", *MEASURES.values()]
    lines = [f"| {' | '.join(heads)} |", f"| --- |{' ---: |' * (len(heads) - 1)}"]
    for row in rows:
        sign = "" if row["name"].startswith("causal") else "≤ "
        cells = [row["name"], sign + cell(row.get("nats"), ".3f"), cell(row.get("from scratch"), "+.3f")]
        cells += [cell(row.get(key), ".3f" if key == "area" else ".1%") for key in MEASURES]
        lines.append(f"| {' | '.join(cells)} |")
    for row in rows:
        for key in row:
            if key.startswith("gain beyond"):
                lines.append(f"\n{row['name']}: {key} {cell(row[key], '+.1%')}")
    return "\n".join(lines)


def cell(value: dict[str, float] | None, form: str) -> str:
    """A mean with its interval."""
    return "" if value is None else f"{value['mean']:{form}} ± {value['half']:{form.replace('+', '')}}"


if __name__ == "__main__":
    run_recipe(lambda: main(tyro.cli(Options)))
