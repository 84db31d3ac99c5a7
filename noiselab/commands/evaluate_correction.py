"""`noiselab evaluate correction`: how much self-correction improves samples."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from .arguments import Device, JsonFile, Model, OptionalInt, OptionalPath, PrintJson


@dataclass(frozen=True)
class Options:
    """Self-correction of a model's own samples over temperatures and steps, compared with one jump and with fresh
    samples of equal entropy.
    """

    model: Model
    """folder of a diffusion model, or its name on the Hugging Face hub"""
    judge: str
    """a causal model with the same tokenizer"""
    temperatures: tuple[float, ...] = (0.1, 0.5)
    """temperatures of self-correction"""
    steps: tuple[int, ...] = (16, 64)
    """maximum steps of self-correction"""
    tokens_per_step: tuple[int, ...] = (1,)
    """maximum tokens of a text that change per step"""
    seeds: int = 5
    """independent sets of samples, at least two, for the confidence intervals; each process takes one at a time"""
    samples: int = 32
    """texts per set"""
    length: OptionalInt = None
    """tokens per text; by default that of noiselab.json, or the whole context, at most 1024"""
    sampling_steps: int = 64
    """network evaluations per sample"""
    end: float = 0.0
    """the final time of the sampler; 1e-4 as published"""
    plot: OptionalPath = None
    """output file for a plot, .svg or .png"""
    json: PrintJson = False
    out: JsonFile = None
    csv: OptionalPath = None
    """output file for CSV, one row for each treatment; `_half` is half of a 95 % interval over sets of samples"""
    device: Device = None


def main(options: Options) -> dict[str, Any]:
    """Measure, print and return the rows."""
    from dataclasses import asdict

    from ..evaluation import correction_grid, correction_grid_table
    from ..networks.lengths import generated_length
    from ..numerics import require_count
    from ..pipeline import AutoregressivePipeline, DiffusionPipeline
    from ..pipeline.diffusion import interpolating
    from .common import check_outputs, load, report_results, together

    with together(options.device) as processes:
        check_outputs(options)
        pipe, judge = (load(name, processes.device) for name in (options.model, options.judge))
        if not isinstance(pipe, DiffusionPipeline) or not isinstance(judge, AutoregressivePipeline):
            raise ValueError(
                f"model must be a diffusion model and judge a causal one; got {type(pipe).__name__}, {type(judge).__name__}"
            )
        if pipe.tokenizer.get_vocab() != judge.tokenizer.get_vocab():
            raise ValueError(
                "judge must have the tokenizer of the model; with another tokenizer, write samples to files and use "
                "`noiselab evaluate perplexity`"
            )
        length = generated_length(options.length, pipe.length, pipe.generation.length)
        require_count("seeds", options.seeds, 2)
        tables, found = [], []
        for k in options.tokens_per_step:
            rows = correction_grid(
                interpolating(pipe),
                pipe.denoiser,
                judge.network,
                length,
                samples=options.samples,
                sampling_steps=options.sampling_steps,
                end=options.end,
                temperatures=options.temperatures,
                steps=options.steps,
                tokens_per_step=k,
                seeds=range(options.seeds),
                processes=processes,
            )
            head = f"{k} token{'s' if k > 1 else ''} a step\n\n" if len(options.tokens_per_step) > 1 else ""
            tables.append(head + correction_grid_table(rows))
            found += [{"tokens_per_step": k, **asdict(row)} for row in rows]
        if options.plot is not None and processes.first:
            _plot(found, options.plot)
        tables.append(f"± is half of a 95 % confidence interval over {options.seeds} sets of samples.")
        record = {"length": length, "rows": found}
        flat = [_flat(row) for row in found]
        return report_results("evaluate correction", options, record, "\n\n".join(tables), processes, flat)


UNITS = {
    "nats": "judge_nats_per_token",
    "gain": "gain_nats_per_token",
    "beyond": "beyond_equal_entropy_nats_per_token",
    "entropy": "entropy_nats",
    "distinct": "share_of_distinct_pairs",
    "changed": "share_of_tokens_changed",
}
"""Columns in CSV, with their units."""


def _flat(row: dict[str, Any]) -> dict[str, Any]:
    """A row with two columns for each interval."""
    settings = {name: row[name] for name in ("tokens_per_step", "treatment", "temperature", "steps")}
    parts = {f"{unit}_{part}": row[name][part] for name, unit in UNITS.items() for part in ("mean", "half")}
    return {**settings, **parts}


def _plot(rows: list[dict[str, Any]], path: Path) -> None:
    """Plot nats under the judge against entropy: one line per temperature, and fresh samples for comparison."""
    from matplotlib.figure import Figure

    from ..files import new_file

    figure = Figure(figsize=(6, 4), layout="constrained")
    axis = figure.subplots()
    kinds = {
        (row["treatment"], row["temperature"] if row["treatment"] == "self-correction" else 0, row["tokens_per_step"])
        for row in rows
        if row["treatment"] in ("cooler", "self-correction")
    }
    before = [row for row in rows if row["treatment"] == "before"][:1]
    for treatment, temperature, k in sorted(kinds):
        mine = before + [
            row
            for row in rows
            if (row["treatment"], row["tokens_per_step"]) == (treatment, k)
            and (treatment == "cooler" or row["temperature"] == temperature)
        ]
        name = (
            "fresh samples, lower temperature"
            if treatment == "cooler"
            else f"self-correction, temperature {temperature:g}, {k} per step"
        )
        x, y = [row["entropy"]["mean"] for row in mine], [row["nats"]["mean"] for row in mine]
        axis.errorbar(x, y, [row["nats"]["half"] for row in mine], marker="o", ms=4, lw=1.2, label=name)
    axis.set(xlabel="entropy of tokens within a text, nats", ylabel="judge, nats per token")
    axis.legend(fontsize=8, frameon=False)
    axis.grid(alpha=0.2)
    with new_file(path) as temporary:
        figure.savefig(temporary, dpi=150)
