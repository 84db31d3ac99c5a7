"""Which rule of correction improves texts of a trained model, by how much, and how much of it is lower diversity?

    python recipes/demo.py                            # GIDD+ and a judge, in runs/demo
    python recipes/correction_rules.py                # four minutes on one core

All rules correct the same samples, so every difference is taken text by text, and ± is its 95 % interval over texts. The judge
scores in nats per token. Less diverse text is likelier: fresh samples at lower temperatures say how many nats a loss of entropy
gives for free, and "beyond" is what a rule gains above that.
"""

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
import transformers

import noiselab as nl
from noiselab.correctors import BalancedCorrector, CorrectorReviser
from noiselab.denoisers import CallCounter, EarliestTime, Support, Temperature, as_leave_one_out
from noiselab.devices import select_device
from noiselab.evaluation import generative_perplexity, interval, token_entropy
from noiselab.evaluation.judge import distinct
from noiselab.files import write_text
from noiselab.networks.lengths import generated_length
from noiselab.pipeline import DiffusionPipeline
from noiselab.pipeline.diffusion import interpolating
from noiselab.pipeline.loading import load_model
from noiselab.revisions import Reviser
from noiselab.training.flags import parse_flags
from noiselab.training.options import run_recipe

EARLIEST = 0.01  # the earliest time at which the network is evaluated, as by the pipeline
Rules = dict[str, Callable[[], Reviser]]


@dataclass(frozen=True)
class Options:
    """Which rule of correction improves texts of a trained model, with confidence intervals over texts."""

    model: Path = Path("runs/demo/diffusion/final/ema")
    """folder of a trained diffusion model whose noise makes tokens wrong"""
    judge: Path = Path("runs/demo/judge/final/ema")
    """folder of an autoregressive model with the same tokenizer"""
    out: Path = Path("runs/correction_rules.json")
    """file of the results; the table is written beside it, as .md"""
    samples: int = 128
    """number of texts"""
    length: int | None = None
    """tokens of a text; by default what the model was made for"""
    steps: int = 64
    """number of sampler steps"""
    moves: tuple[int, ...] = (16, 64)
    """numbers of Gibbs moves, and of tokens that GIDD's rule replaces besides its own stop"""
    cooler: tuple[float, ...] = (0.9, 0.8, 0.7, 0.6)
    """temperatures of the fresh samples"""
    seed: int = 1
    """seed of all randomness"""


def rules_of(process: nl.NoiseProcess, denoiser: nl.Denoiser, support: torch.Tensor | None, options: Options) -> Rules:
    """Each rule by its name in the table."""

    def at(temperature: float) -> nl.Denoiser:
        return EarliestTime(Temperature(as_leave_one_out(denoiser, process), temperature), EARLIEST)

    def gidd(steps: int = 128) -> Reviser:
        return CorrectorReviser(nl.SelfCorrection(denoiser, process=process, support=support), steps=steps)

    def gibbs(temperature: float, moves: int) -> Reviser:
        return CorrectorReviser(nl.GibbsCorrector(process, at(temperature)), steps=moves)

    def balanced(temperature: float) -> Reviser:
        return CorrectorReviser(BalancedCorrector(process, at(temperature)), steps=128)

    rules: Rules = {"GIDD, as published": gidd}
    rules |= {f"GIDD, {n} tokens": lambda n=n: gidd(n) for n in options.moves}  # type: ignore[misc]
    for temperature in (1.0, 0.7, 0.5):
        name = "balanced" if temperature == 1 else f"balanced, temperature {temperature:g}"
        rules[name] = lambda heat=temperature: balanced(heat)  # type: ignore[misc]
    for temperature in (1.0, 0.7):
        heat = "" if temperature == 1 else f", temperature {temperature:g}"
        for n in options.moves:
            rules[f"random Gibbs, {n} moves{heat}"] = lambda t=temperature, n=n: gibbs(t, n)  # type: ignore[misc]
    return rules


class Scored:
    """Texts and what the judge says of each."""

    def __init__(self, judge: torch.nn.Module, x: torch.Tensor):
        found = generative_perplexity(judge, x, batch_size=64)
        texts = x.tolist()
        self.tokens, self.nats = x, (found.total / found.lengths).tolist()
        self.entropy = [token_entropy([text]) for text in texts]
        self.pairs = distinct(texts, 2)


def measure(pipe: DiffusionPipeline, judge: torch.nn.Module, options: Options) -> list[dict[str, Any]]:
    """Each text's nats and entropy: before, after each rule, and of fresh samples at lower temperatures."""
    process = interpolating(pipe)
    support = process.support if pipe.support is None else pipe.support
    denoiser = pipe.denoiser if support is None else Support(pipe.denoiser, support)
    length = generated_length(options.length, pipe.length, pipe.generation.length)
    random = torch.Generator().manual_seed(options.seed)

    def drawn(temperature: float) -> tuple[torch.Tensor, float]:
        counter = CallCounter(Temperature(denoiser, temperature))
        x = nl.AncestralSampler(process, counter).sample(
            (options.samples, length), steps=options.steps, generator=random
        )
        return x, counter.sequences / len(x)

    def row(name: str, x: torch.Tensor, evaluations: float, changed: float | None) -> dict[str, Any]:
        scored = Scored(judge, x)
        print(f"{name}: {np.mean(scored.nats):.3f} nats, {evaluations:.1f} evaluations", flush=True)
        numbers = {"nats": scored.nats, "entropy": scored.entropy, "pairs": scored.pairs}
        return {"name": name, "evaluations": evaluations, "changed": changed} | numbers

    before, evaluations = drawn(1.0)
    rows = [row("before", before, evaluations, 0.0)]
    for name, make in rules_of(process, denoiser, support, options).items():
        revised = make()(before, generator=random)
        changed = (revised.tokens != before).double().mean().item()
        rows.append(row(name, revised.tokens, revised.evaluations / len(before), changed))
    return rows + [row(f"sampled at temperature {t:g}", *drawn(t), None) for t in options.cooler]


def slope_of(rows: Sequence[Mapping[str, Any]]) -> float:
    """The judge's nats for each nat of entropy, by least squares through the means of fresh samples."""
    fresh = [row for row in rows if row["changed"] is None or row["name"] == "before"]
    x, y = ([float(np.mean(row[name])) for row in fresh] for name in ("entropy", "nats"))
    return float(np.polyfit(x, y, 1)[0])


def render(content: Mapping[str, Any]) -> str:
    """The table, as Markdown; differences are paired."""
    rows = content["rows"]
    before, slope = rows[0], slope_of(rows)
    lines = [
        f"| {len(before['nats'])} texts | judge, nats per token | gain, nats | entropy lost, nats | gain beyond that, nats "
        "| distinct pairs | tokens changed | evaluations |",
        "| --- | ---: | ---: | ---: | ---: | ---: | ---: | ---: |",
    ]
    for row in rows:
        own = interval(row["nats"])
        cells = [row["name"], f"{own.mean:.3f} ± {own.half:.3f}", "", "", ""]
        if row["name"] != "before":
            gain, lost = ([a - b for a, b in zip(before[n], row[n], strict=True)] for n in ("nats", "entropy"))
            beyond = [a - slope * b for a, b in zip(gain, lost, strict=True)]
            shown = [interval(values) for values in (gain, lost, beyond)]
            cells[2:] = [f"{one.mean:+.3f} ± {one.half:.3f}" for one in shown]
        if row["changed"] is None:
            cells[4] = ""  # the line goes through these
        changed = "" if row["name"] == "before" or row["changed"] is None else f"{row['changed']:.1%}"
        cells += [f"{row['pairs']:.3f}", changed, f"{row['evaluations']:.1f}"]
        lines.append(f"| {' | '.join(cells)} |")
    return "\n".join([*lines, "", f"Slope of fresh samples: {slope:.2f} nats for each nat of entropy.", ""])


def main(options: Options) -> dict[str, Any]:
    """Measure, print the table, and write both."""
    transformers.logging.set_verbosity_error()
    device = select_device()
    judge: Any = load_model(options.judge)[1]
    pipe = DiffusionPipeline.from_pretrained(options.model).to(device)
    rows = measure(pipe, judge.to(device), options)
    for row in rows:
        row |= {name: [round(value, 4) for value in row[name]] for name in ("nats", "entropy")}
    content = {"settings": {name: getattr(options, name) for name in ("samples", "steps", "seed")}, "rows": rows}
    options.out.parent.mkdir(parents=True, exist_ok=True)
    lines = ",\n".join(json.dumps(row) for row in rows)
    write_text(options.out, f'{{"settings": {json.dumps(content["settings"])}, "rows": [\n{lines}\n]}}\n')
    text = render(json.loads(options.out.read_text(encoding="utf-8")))
    write_text(options.out.with_suffix(".md"), text)
    print(text)
    return content


if __name__ == "__main__":
    run_recipe(lambda: main(parse_flags(Options)))
