"""Gains of self-correction on trained models with confidence intervals, against one last jump and cooler sampling.

    python recipes/demo.py                                           # GIDD+ and a judge, in runs/demo
    python recipes/masked.py demo --cpu True --tokenizer runs/demo/diffusion/tokenizer      # the control, in runs/masked_demo
    python recipes/corrections.py                                    # five minutes on two cores

Each seed draws one set of samples from each model, and every treatment starts from the same samples. They are drawn twice:
down to t = 0, and down to t = 1e-4 as by published samplers, which leaves the noise of that time. The judge scores in nats per
token.
"""

from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import transformers

from noiselab.devices import select_device
from noiselab.evaluation import correction_grid, correction_grid_table
from noiselab.files import write_json
from noiselab.networks.lengths import generated_length
from noiselab.pipeline import DiffusionPipeline
from noiselab.pipeline.diffusion import interpolating
from noiselab.pipeline.loading import load_model
from noiselab.training.flags import parse_flags
from noiselab.training.options import run_recipe


@dataclass(frozen=True)
class Options:
    """Gains of self-correction on trained models, with confidence intervals."""

    models: tuple[Path, ...] = (Path("runs/demo/diffusion/final/ema"), Path("runs/masked_demo/final/ema"))
    """folders of trained diffusion models with the same tokenizer"""
    judge: Path = Path("runs/demo/judge/final/ema")
    """folder of an autoregressive model with the same tokenizer"""
    out: Path = Path("runs/corrections.json")
    """file of the results"""
    seeds: int = 5
    """number of sets of samples"""
    samples: int = 32
    """number of texts in a set"""
    steps: int = 64
    """number of sampler steps"""
    ends: tuple[float, ...] = (0.0, 1e-4)
    """last times of the sampler; the published one stops at 1e-4"""
    temperatures: tuple[float, ...] = (0.1,)
    """temperatures of self-correction"""
    correction_steps: tuple[int, ...] = (64,)
    """maximum numbers of self-correction steps"""


def main(options: Options) -> list[dict]:
    """Evaluate, print the tables, and write them to a file; returns their rows."""
    transformers.logging.set_verbosity_error()
    device = select_device()
    judge: Any = load_model(options.judge)[1]
    judge.to(device)
    written: list[dict] = []
    for folder in options.models:
        pipe = DiffusionPipeline.from_pretrained(folder).to(device)
        share = float(getattr(pipe.network.config, "p_uniform", 0))
        for end in options.ends:
            rows = correction_grid(
                interpolating(pipe),
                pipe.denoiser,
                judge,
                generated_length(None, pipe.length, pipe.generation.length),
                samples=options.samples,
                sampling_steps=options.steps,
                end=end,
                temperatures=options.temperatures,
                steps=options.correction_steps,
                seeds=range(options.seeds),
            )
            print(
                f"\n{folder}: p_uniform = {share:g}, samples to t = {end:g}\n\n{correction_grid_table(rows)}",
                flush=True,
            )
            written += [{"model": str(folder), "p_uniform": share, "end": end, **asdict(row)} for row in rows]
            write_json(options.out, {"rows": written})
    return written


if __name__ == "__main__":
    run_recipe(lambda: main(parse_flags(Options)))
