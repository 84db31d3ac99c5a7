"""The main job: train GIDD+ on this machine's own text, generate, self-correct, evaluate, and write a report.

    python recipes/demo.py                     # two CPU cores, six to nine minutes, nothing is downloaded
    python recipes/demo.py --smoke             # the same once around in a minute, with a network that knows nothing
    python recipes/demo.py --out runs/other --minutes 30

The report is OUT/report.html, its figures OUT/figures.json. Started again, the job goes on where it was interrupted.
"""

import json
import platform
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
import transformers
import tyro

import autoregressive
import gidd_plus
import noiselab as nl
from demo_report.known_world import known_world
from demo_report.report import (
    Curves,
    changes,
    curves_figure,
    percent,
    process_figure,
    token_grid,
    world_figure,
    write_report,
)
from noiselab.data import token_support
from noiselab.evaluation import generative_perplexity, self_correction, token_bytes, validation_bound
from noiselab.files import write_json
from noiselab.networks.huggingface import TransformersDenoiser, load_dit
from noiselab.training.options import run_recipe

STEPS = {"diffusion": 3_600, "judge": 1_000}  # 4.3 and 1.1 minutes on two quiet cores
MINUTES = 6.0


@dataclass(frozen=True)
class Options:
    """Train GIDD+ on this machine's own text, generate, self-correct, evaluate, and write a report."""

    out: Path = Path("runs/demo")
    """folder of the run"""
    minutes: float = MINUTES
    """about how long it may take on two cores: scales the number of training steps, which a resumed run must share"""
    smoke: bool = False
    """everything once, in about a minute"""
    samples: int = 48
    """generated texts"""
    sampling_steps: int = 128
    """network evaluations for a text"""
    correction_steps: int = 128
    """self-correction steps at most"""
    seed: int = 1
    """of everything drawn after training"""


def main(options: Options) -> Path:
    """Do everything; returns the path of the report."""
    smoke, out = options.smoke, options.out
    clock = out / "seconds.json"
    seconds: dict[str, float] = json.loads(clock.read_text()) if clock.is_file() else {}
    steps = {name: 8 if smoke else max(20, round(n * options.minutes / MINUTES)) for name, n in STEPS.items()}
    count = 4 if smoke else options.samples
    transformers.logging.set_verbosity_error()
    parts = 6

    @contextmanager
    def part(number: int, title: str) -> Iterator[None]:
        print(f"\n[{number}/{parts}] {title}", flush=True)
        start = time.monotonic()
        yield
        taken = time.monotonic() - start
        # Training goes on where it was interrupted, so its time adds up; the rest is done anew.
        seconds[title] = taken + (seconds.get(title, 0.0) if title.startswith("Training") else 0.0)
        write_json(clock, seconds)
        print(f"      done in {taken:.0f} s", flush=True)

    def flags(name: str) -> list[str]:
        few = ["--warmup", "2", "--validation-sequences", "32", "--log-every", "2"] if smoke else []
        return ["demo", "--cpu", "True", "--steps", str(steps[name]), "--output", str(out / name), *few]

    with part(1, f"Training the diffusion model GIDD+ ({steps['diffusion']:,} steps)"):
        diffusion = gidd_plus.main(flags("diffusion"))
    with part(2, f"Training an autoregressive judge on the same tokens ({steps['judge']:,} steps)"):
        # Its own copy of the same tokenizer would do; sharing the file makes sure of it.
        judge_trainer = autoregressive.main([*flags("judge"), "--tokenizer", str(out / "diffusion" / "tokenizer")])

    # The finished models, with averaged weights, as anyone would load them.
    tokenizer = transformers.AutoTokenizer.from_pretrained(out / "diffusion" / "final" / "ema")
    denoiser = TransformersDenoiser(load_dit(out / "diffusion" / "final" / "ema"))
    judge = transformers.LlamaForCausalLM.from_pretrained(out / "judge" / "final" / "ema")
    support = token_support(tokenizer)
    process = nl.gidd(
        vocab_size=len(support), mask_id=tokenizer.mask_token_id, p_uniform=gidd_plus.PRESETS["demo"][1].p_uniform
    )
    held_out = diffusion.eval_dataset
    real = held_out.tokens.long()
    generator = torch.Generator().manual_seed(options.seed)

    with part(3, f"Bound and perplexity on {len(held_out)} held-out sequences"):
        bound = validation_bound(process, denoiser, held_out, repeats=1 if smoke else 4, generator=generator)
        rival = generative_perplexity(judge, real, batch_size=64)
        sizes = token_bytes(tokenizer)
        bits = bound.bits_per_byte(int(sizes[real].sum())), rival.bits_per_byte(int(sizes[real[:, 1:]].sum()))
        print(
            f"      diffusion: at most {bound.nelbo:.3f} +- {bound.error:.3f} nats per token, {bits[0]:.3f} bits per byte"
        )
        print(f"      autoregressive: {rival.nats:.3f} nats per token, {bits[1]:.3f} bits per byte")

    with part(4, f"Generating {count} texts in {8 if smoke else options.sampling_steps} steps"):
        sampler = nl.AncestralSampler(process, nl.denoisers.Support(denoiser, support))
        times = torch.linspace(1, 0, (8 if smoke else options.sampling_steps) + 1, dtype=torch.float64)
        start = process.prior(count, held_out.length, generator=generator)
        states = [start, *sampler.walk(start, times, generator=generator)]
        samples = states[-1]

    with part(5, "Self-correction, and what the judge says before and after"):
        corrector = nl.SelfCorrection(denoiser, support=support)
        corrected = self_correction(
            corrector, samples, steps=8 if smoke else options.correction_steps, judge=judge, generator=generator
        )
        data = generative_perplexity(judge, real[torch.linspace(0, len(real) - 1, count).long()])
        before, after = corrected.judge_before, corrected.judge_after
        assert before is not None and after is not None
        for name, judged in (("held-out text", data), ("samples", before), ("corrected", after)):
            print(f"      {name}: perplexity {judged.perplexity:.1f}, entropy {judged.entropy:.3f}")

    with part(6, "The known world: a Markov chain, where every figure has an exact answer"):
        world, results = known_world(
            train_steps=10 if smoke else 500,
            samples=40 if smoke else 400,
            progress=lambda line: print(f"      {line}", flush=True),
        )
        for r in results:
            print(
                f"      {r.name}: forbidden transitions {percent(r.samples.forbidden)} -> {percent(r.corrected.forbidden)}"
            )

    # The report.
    kept = sorted({round(i * (len(states) - 1) / 12) for i in range(13)})
    order = (corrected.before != corrected.after).sum(-1).argsort(descending=True)
    shown = order[torch.linspace(0, len(order) - 1, min(4, count)).long()].tolist()
    write_report(
        out / "report.html",
        weights=diffusion.model.num_parameters(),
        smoke=smoke,
        correction=corrected,
        held_out=held_out,
        pairs=[changes(corrected.before[i], corrected.after[i], tokenizer) for i in shown],
        grid=token_grid([(times[k].item(), states[k][shown[-1]]) for k in kept], tokenizer, tokenizer.mask_token_id),
        likelihood=[
            {
                "name": "GIDD+ (diffusion)",
                "note": f"upper bound, p_uniform {gidd_plus.PRESETS['demo'][1].p_uniform}",
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
                "nats": rival.nats,
                "error": rival.error,
                "perplexity": rival.perplexity,
                "bits": bits[1],
            },
        ],
        bound=bound,
        quality=[
            {"name": "held-out text", "note": "what a perfect model would reach", "judged": data},
            {"name": "samples", "note": f"{len(times) - 1} steps", "judged": before},
            {"name": "samples after self-correction", "note": f"{corrected.steps} more steps at most", "judged": after},
        ],
        curves=curves_figure(
            [
                Curves(
                    "GIDD+",
                    diffusion.state.log_history,
                    tokens_per_step(diffusion),
                    "training loss, weighted",
                    "held-out bound, without end terms",
                ),
                Curves(
                    "Autoregressive judge",
                    judge_trainer.state.log_history,
                    tokens_per_step(judge_trainer),
                    "training loss",
                    "held-out loss",
                ),
            ]
        ),
        runs=[settings("GIDD+", diffusion, gidd_plus), settings("judge", judge_trainer, autoregressive)],
        settings=list(settings("", diffusion, gidd_plus)["settings"]),
        process=repr(process),
        process_image=process_figure(process),
        world=world,
        world_image=world_figure(world, results),
        world_results=results,
        timings=list(seconds.items()),
        version=nl.__version__,
        torch=torch.__version__,
        machine=f"Python {platform.python_version()}, {torch.get_num_threads()} threads",
    )
    write_json(
        out / "figures.json",
        {
            "steps": steps,
            "bound": {
                "nats": bound.nelbo,
                "error": bound.error,
                "bits_per_byte": bits[0],
                "reconstruction": bound.reconstruction,
            },
            "judge": {"nats": rival.nats, "error": rival.error, "bits_per_byte": bits[1]},
            "quality": {
                name: {"perplexity": j.perplexity, "entropy": j.entropy, "distinct": j.distinct}
                for name, j in (("held-out", data), ("samples", before), ("corrected", after))
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
        },
    )
    print(f"\nThe report is in {out / 'report.html'} ({sum(seconds.values()):.0f} s in all).")
    return out / "report.html"


def tokens_per_step(trainer: Any) -> int:
    """How many tokens an optimizer step takes."""
    return (
        trainer.args.per_device_train_batch_size
        * trainer.args.gradient_accumulation_steps
        * trainer.train_dataset.length
    )


def settings(name: str, trainer: Any, recipe: Any) -> dict[str, Any]:
    """What was trained, for the table."""
    preset, args = recipe.PRESETS["demo"][1], trainer.args
    tokens = args.max_steps * tokens_per_step(trainer)
    history = [entry["tokens_per_second"] for entry in trainer.state.log_history if "tokens_per_second" in entry]
    return {
        "name": name,
        "settings": {
            "weights": f"{trainer.model.num_parameters():,}",
            "blocks, width, heads": f"{preset.layers}, {preset.width}, {preset.heads}",
            "vocabulary": f"{trainer.train_dataset.vocab_size} tokens",
            "sequence": f"{preset.data.length} tokens",
            "batch": f"{args.per_device_train_batch_size} sequences",
            "optimizer steps": f"{args.max_steps:,}",
            "tokens seen": f"{tokens / 1e6:.1f} million",
            "tokens per second": f"{sorted(history)[len(history) // 2]:,.0f}" if history else "–",
            "optimizer": preset.optimization.optimizer,
            "highest learning rate": f"{args.learning_rate:g}",
            "average of weights": f"decay {preset.optimization.ema}",
            "training text": f"{trainer.train_dataset.real_tokens / 1e6:.2f} million tokens",
        },
    }


if __name__ == "__main__":
    run_recipe(lambda: main(tyro.cli(Options)))
