"""Train GIDD+ on the text of Python's standard library, generate, self-correct, evaluate, and write a report.

    python recipes/demo.py                     # two CPU cores, six to nine minutes, no downloads
    python recipes/demo.py --smoke             # all steps in about a minute, with untrained networks
    python recipes/demo.py --out runs/other --minutes 30

The report is OUT/report.html, its figures OUT/figures.json. Run the command again to resume an interrupted job.
"""

import json
import platform
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import torch
import transformers

import autoregressive
import gidd_plus
import noiselab as nl
from demo_report.known_world import WorldResult, study_known_world
from demo_report.report import (
    Curves,
    build_token_grid,
    format_percent,
    mark_changes,
    plot_curves,
    plot_process,
    plot_world,
    write_report,
)
from noiselab.bench.world import World
from noiselab.data import load_tokenizer, token_support
from noiselab.evaluation import (
    Bound,
    Correction,
    Judgement,
    generative_perplexity,
    self_correction,
    token_bytes,
    validation_bound,
)
from noiselab.files import write_json
from noiselab.networks.huggingface import TransformersDenoiser, load_dit
from noiselab.pipeline.loading import load_model
from noiselab.training import Trainer
from noiselab.training.flags import parse_flags
from noiselab.training.options import run_recipe

STEPS = {"diffusion": 3_600, "judge": 1_000}  # 4.3 and 1.1 minutes on two quiet cores
MINUTES = 6.0
PARTS = 6
P_UNIFORM = gidd_plus.PRESETS["demo"][1].p_uniform


@dataclass(frozen=True)
class Options:
    """Train GIDD+ on the text of Python's standard library, generate, self-correct, evaluate, and write a report."""

    out: Path = Path("runs/demo")
    """folder of the run"""
    minutes: float = MINUTES
    """approximate time on two cores; scales the number of training steps, which must be the same when a run is resumed"""
    smoke: bool = False
    """run every part with a few steps, in about a minute"""
    samples: int = 48
    """number of generated texts"""
    sampling_steps: int = 128
    """sampler steps, each one network evaluation per text"""
    correction_steps: int = 128
    """maximum number of self-correction steps"""
    seed: int = 1
    """seed of all randomness after training"""


class Clock:
    """Prints the title of each part of the job and stores its time in `seconds.json`.

    **Arguments:**

    - `file`: where the times are stored; those of an interrupted run are read from it.
    """

    def __init__(self, file: Path) -> None:
        self.file = file
        self.seconds: dict[str, float] = json.loads(file.read_text(encoding="utf-8")) if file.is_file() else {}

    @contextmanager
    def part(self, number: int, title: str) -> Iterator[None]:
        """Time one part of the job."""
        print(f"\n[{number}/{PARTS}] {title}", flush=True)
        start = time.monotonic()
        yield
        taken = time.monotonic() - start
        # Training resumes where it was interrupted, so its times add up; all other parts run again from the start.
        self.seconds[title] = taken + (self.seconds.get(title, 0.0) if title.startswith("Training") else 0.0)
        write_json(self.file, self.seconds)
        print(f"      done in {taken:.0f} s", flush=True)


class Models(NamedTuple):
    """The trained models, with averaged weights, and their trainers."""

    diffusion: Trainer
    judge_trainer: Trainer
    tokenizer: Any
    denoiser: nl.Denoiser
    judge: transformers.LlamaForCausalLM
    support: torch.Tensor
    process: nl.InterpolatingProcess


class Likelihood(NamedTuple):
    """Nats per token and bits per byte of the held-out text."""

    bound: Bound
    judged: Judgement
    bits: tuple[float, float]
    """of the diffusion model and of the judge"""


class Samples(NamedTuple):
    """The states of all samples at each time, from noise to text."""

    times: torch.Tensor
    states: list[torch.Tensor]


class Quality(NamedTuple):
    """Self-correction of the samples, and the judge's scores of held-out text, samples and corrected samples."""

    correction: Correction
    scores: dict[str, Judgement]


def main(options: Options) -> Path:
    """Train, generate, self-correct, evaluate and write the report; returns its path."""
    steps = count_training_steps(options)
    clock = Clock(options.out / "seconds.json")
    transformers.logging.set_verbosity_error()
    models = train_models(options, steps, clock)
    held_out = models.diffusion.eval_dataset
    generator = torch.Generator().manual_seed(options.seed)
    with clock.part(3, f"Bound and perplexity on {len(held_out)} held-out sequences"):
        likelihood = measure_likelihood(models, repeats=1 if options.smoke else 4, generator=generator)
    count = 4 if options.smoke else options.samples
    sampling_steps = 8 if options.smoke else options.sampling_steps
    with clock.part(4, f"Generating {count} texts in {sampling_steps} steps"):
        samples = generate_texts(models, count, sampling_steps, generator)
    with clock.part(5, "Self-correction, and what the judge says before and after"):
        correction_steps = 8 if options.smoke else options.correction_steps
        quality = correct_texts(models, samples.states[-1], correction_steps, generator)
    with clock.part(6, "The known world: a Markov chain, where every figure has an exact answer"):
        world, results = run_known_world(options.smoke)
    write_page(options, models, likelihood, samples, quality, world, results, clock.seconds)
    write_figures(options.out / "figures.json", steps, likelihood, quality, results, clock.seconds)
    print(f"\nThe report is in {options.out / 'report.html'} ({sum(clock.seconds.values()):.0f} s in all).")
    return options.out / "report.html"


def count_training_steps(options: Options) -> dict[str, int]:
    """The optimizer steps of each model, in proportion to `minutes`."""
    return {name: 8 if options.smoke else max(20, round(n * options.minutes / MINUTES)) for name, n in STEPS.items()}


def train_models(options: Options, steps: dict[str, int], clock: Clock) -> Models:
    """Train the diffusion model and the judge, and load their averaged weights as any user would."""
    out = options.out

    def flags(name: str) -> list[str]:
        few = ["--warmup", "2", "--validation-sequences", "32", "--log-every", "2"] if options.smoke else []
        return ["demo", "--cpu", "True", "--steps", str(steps[name]), "--output", str(out / name), *few]

    with clock.part(1, f"Training the diffusion model GIDD+ ({steps['diffusion']:,} steps)"):
        diffusion = gidd_plus.main(flags("diffusion"))
    with clock.part(2, f"Training an autoregressive judge on the same tokens ({steps['judge']:,} steps)"):
        # Both models read the same tokenizer files, so their tokens are the same by construction.
        judge_trainer = autoregressive.main([*flags("judge"), "--tokenizer", str(out / "diffusion" / "tokenizer")])
    weights = out / "diffusion" / "final" / "ema"
    tokenizer = load_tokenizer(weights)
    support = token_support(tokenizer)
    return Models(
        diffusion,
        judge_trainer,
        tokenizer,
        denoiser=TransformersDenoiser(load_dit(weights)),
        judge=load_model(out / "judge" / "final" / "ema")[1],
        support=support,
        process=nl.gidd(vocab_size=len(support), mask_id=tokenizer.mask_token_id, p_uniform=P_UNIFORM),
    )


def measure_likelihood(models: Models, *, repeats: int, generator: torch.Generator) -> Likelihood:
    """The bound of the diffusion model and the exact likelihood of the judge, on the held-out text."""
    held_out = models.diffusion.eval_dataset
    bound = validation_bound(models.process, models.denoiser, held_out, repeats=repeats, generator=generator)
    real = held_out.tokens.long()
    judged = generative_perplexity(models.judge, real, batch_size=64)
    sizes = token_bytes(models.tokenizer)
    bits = bound.bits_per_byte(int(sizes[real].sum())), judged.bits_per_byte(int(sizes[real[:, 1:]].sum()))
    print(
        f"      diffusion: at most {bound.nelbo:.3f} +- {bound.error:.3f} nats per token, {bits[0]:.3f} bits per byte"
    )
    print(f"      autoregressive: {judged.nats:.3f} nats per token, {bits[1]:.3f} bits per byte")
    return Likelihood(bound, judged, bits)


def generate_texts(models: Models, count: int, steps: int, generator: torch.Generator) -> Samples:
    """Sample texts of the held-out length, and keep all states on the way."""
    sampler = nl.AncestralSampler(models.process, nl.denoisers.Support(models.denoiser, models.support))
    times = torch.linspace(1, 0, steps + 1, dtype=torch.float64)
    start = models.process.prior(count, models.diffusion.eval_dataset.length, generator=generator)
    return Samples(times, [start, *sampler.walk(start, times, generator=generator)])


def correct_texts(models: Models, samples: torch.Tensor, steps: int, generator: torch.Generator) -> Quality:
    """Self-correct the samples, and score them and the same number of held-out texts by the judge."""
    corrector = nl.SelfCorrection(models.denoiser, support=models.support)
    corrected = self_correction(corrector, samples, steps=steps, judge=models.judge, generator=generator)
    real = models.diffusion.eval_dataset.tokens.long()
    data = generative_perplexity(models.judge, real[torch.linspace(0, len(real) - 1, len(samples)).long()])
    before, after = corrected.judge_before, corrected.judge_after
    assert before is not None and after is not None
    for name, judged in (("held-out text", data), ("samples", before), ("corrected", after)):
        print(f"      {name}: perplexity {judged.perplexity:.1f}, entropy {judged.entropy:.3f}")
    return Quality(corrected, {"held-out": data, "samples": before, "corrected": after})


def run_known_world(smoke: bool) -> tuple[World, list[WorldResult]]:
    """Train, sample and self-correct on the Markov chain."""
    world, results = study_known_world(
        train_steps=10 if smoke else 500,
        samples=40 if smoke else 400,
        progress=lambda line: print(f"      {line}", flush=True),
    )
    for r in results:
        before, after = format_percent(r.samples.forbidden), format_percent(r.corrected.forbidden)
        print(f"      {r.name}: forbidden transitions {before} -> {after}")
    return world, results


def write_page(
    options: Options,
    models: Models,
    likelihood: Likelihood,
    samples: Samples,
    quality: Quality,
    world: World,
    results: list[WorldResult],
    seconds: dict[str, float],
) -> None:
    """Write `report.html`."""
    corrected, tokenizer = quality.correction, models.tokenizer
    times, states = samples
    kept = sorted({round(i * (len(states) - 1) / 12) for i in range(13)})
    order = (corrected.before != corrected.after).sum(-1).argsort(descending=True)
    shown = order[torch.linspace(0, len(order) - 1, min(4, len(order))).long()].tolist()
    runs = [
        describe_run("GIDD+", models.diffusion, gidd_plus),
        describe_run("judge", models.judge_trainer, autoregressive),
    ]
    write_report(
        options.out / "report.html",
        weights=models.diffusion.network.num_parameters(),
        smoke=options.smoke,
        correction=corrected,
        held_out=models.diffusion.eval_dataset,
        pairs=[mark_changes(corrected.before[i], corrected.after[i], tokenizer) for i in shown],
        grid=build_token_grid(
            [(times[k].item(), states[k][shown[-1]]) for k in kept], tokenizer, tokenizer.mask_token_id
        ),
        likelihood=list_likelihoods(likelihood),
        bound=likelihood.bound,
        quality=list_qualities(quality, len(times) - 1),
        curves=plot_training(models),
        runs=runs,
        settings=list(runs[0]["settings"]),
        process=repr(models.process),
        process_image=plot_process(models.process),
        world=world,
        world_image=plot_world(world, results),
        world_results=results,
        timings=list(seconds.items()),
        version=nl.__version__,
        torch=torch.__version__,
        machine=f"Python {platform.python_version()}, {torch.get_num_threads()} threads",
    )


def list_likelihoods(found: Likelihood) -> list[dict[str, Any]]:
    """The rows of the report's table of likelihoods."""
    bound, judged, bits = found
    return [
        {
            "name": "GIDD+ (diffusion)",
            "note": f"upper bound, p_uniform {P_UNIFORM}",
            "prefix": "≤ ",
            "nats": bound.nelbo,
            "error": bound.error,
            "perplexity": bound.perplexity,
            "bits": bits[0],
        },
        {
            "name": "autoregressive judge",
            "note": "exact; tokens after the first of each sequence",
            "prefix": "",
            "nats": judged.nats,
            "error": judged.error,
            "perplexity": judged.perplexity,
            "bits": bits[1],
        },
    ]


def list_qualities(found: Quality, steps: int) -> list[dict[str, Any]]:
    """The rows of the report's table of sample quality; `steps` are those of the sampler."""
    data, before, after = found.scores.values()
    more = f"{found.correction.steps} more steps at most"
    return [
        {"name": "held-out text", "note": "what a perfect model would reach", "judged": data},
        {"name": "samples", "note": f"{steps} steps", "judged": before},
        {"name": "samples after self-correction", "note": more, "judged": after},
    ]


def plot_training(models: Models) -> str:
    """The loss curves of both models, as an image of the report."""
    diffusion, judge = models.diffusion, models.judge_trainer
    return plot_curves(
        [
            Curves(
                "GIDD+",
                diffusion.history,
                count_tokens_per_step(diffusion),
                "training loss, weighted",
                "held-out bound, without end terms",
            ),
            Curves(
                "Autoregressive judge",
                judge.history,
                count_tokens_per_step(judge),
                "training loss",
                "held-out loss",
            ),
        ]
    )


def write_figures(
    file: Path,
    steps: dict[str, int],
    likelihood: Likelihood,
    quality: Quality,
    results: list[WorldResult],
    seconds: dict[str, float],
) -> None:
    """Write all figures of the run to a JSON file."""
    bound, judged, bits = likelihood
    corrected = quality.correction
    content = {
        "steps": steps,
        "bound": {
            "nats": bound.nelbo,
            "error": bound.error,
            "bits_per_byte": bits[0],
            "reconstruction": bound.reconstruction,
        },
        "judge": {"nats": judged.nats, "error": judged.error, "bits_per_byte": bits[1]},
        "quality": {
            name: {"perplexity": j.perplexity, "entropy": j.entropy, "distinct": j.distinct}
            for name, j in quality.scores.items()
        },
        "correction": {
            "changed": corrected.changed,
            "self_accuracy": [corrected.accuracy_before, corrected.accuracy_after],
        },
        "world": {
            r.name: {
                "bound": r.bound.nelbo,
                "exact": r.exact.nelbo,
                "forbidden": [r.samples.forbidden, r.corrected.forbidden],
            }
            for r in results
        },
        "seconds": seconds,
    }
    write_json(file, content)


def count_tokens_per_step(trainer: Any) -> int:
    """The number of tokens in an optimizer step."""
    return trainer.optimization.batch * trainer.train_dataset.length


def describe_run(name: str, trainer: Any, recipe: Any) -> dict[str, Any]:
    """The sizes and settings of a training run, for the report's table."""
    preset, optimization = recipe.PRESETS["demo"][1], trainer.optimization
    tokens = optimization.steps * count_tokens_per_step(trainer)
    history = [entry["tokens_per_second"] for entry in trainer.history if "tokens_per_second" in entry]
    return {
        "name": name,
        "settings": {
            "weights": f"{trainer.network.num_parameters():,}",
            "blocks, width, heads": f"{preset.layers}, {preset.width}, {preset.heads}",
            "vocabulary": f"{trainer.train_dataset.vocab_size} tokens",
            "sequence": f"{preset.data.length} tokens",
            "batch": f"{optimization.batch} sequences",
            "optimizer steps": f"{optimization.steps:,}",
            "tokens seen": f"{tokens / 1e6:.1f} million",
            "tokens per second": f"{sorted(history)[len(history) // 2]:,.0f}" if history else "–",
            "optimizer": preset.optimization.optimizer,
            "highest learning rate": f"{optimization.learning_rate:g}",
            "average of weights": f"decay {preset.optimization.ema}",
            "training text": f"{trainer.train_dataset.real_tokens / 1e6:.2f} million tokens",
        },
    }


if __name__ == "__main__":
    run_recipe(lambda: main(parse_flags(Options)))
