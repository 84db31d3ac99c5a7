"""What self-correction is worth on trained models, with confidence intervals, beside one last jump and cooler samples.

    python recipes/demo.py                                           # GIDD+ and a judge, in runs/demo
    python recipes/masked.py demo --cpu True --tokenizer runs/demo/diffusion/tokenizer      # the control, in runs/masked_demo
    python recipes/corrections.py                                    # five minutes on two cores

Each seed draws one set of samples from each model, and each treatment gets the same samples. Once they go to t = 0, and
once, as published samplers do, they stop at t = 1e-4 with the noise of that time still in them. The judge scores in nats
per token.
"""

from dataclasses import asdict, dataclass
from pathlib import Path

import torch
import transformers
import tyro

from noiselab.evaluation import correction_grid, correction_grid_table
from noiselab.files import write_json
from noiselab.pipeline import DiffusionPipeline
from noiselab.pipeline.diffusion import interpolating
from noiselab.training.options import run_recipe


@dataclass(frozen=True)
class Options:
    """What self-correction is worth on trained models, with confidence intervals."""

    models: tuple[Path, ...] = (Path("runs/demo/diffusion/final/ema"), Path("runs/masked_demo/final/ema"))
    """trained diffusion models, with their tokenizer, which must be the same"""
    judge: Path = Path("runs/demo/judge/final/ema")
    """an autoregressive model, with the same tokenizer"""
    out: Path = Path("runs/corrections.json")
    """where the figures go"""
    seeds: int = 5
    """sets of samples"""
    samples: int = 32
    """texts in a set"""
    steps: int = 64
    """of the sampler"""
    ends: tuple[float, ...] = (0.0, 1e-4)
    """last times of the sampler; the published one stops at 1e-4"""
    temperatures: tuple[float, ...] = (0.1,)
    """of self-correction"""
    correction_steps: tuple[int, ...] = (64,)
    """of self-correction, at most"""


def main(options: Options) -> list[dict]:
    """Measure, print tables, and write them down; returns their rows."""
    transformers.logging.set_verbosity_error()
    device = torch.accelerator.current_accelerator() or torch.device("cpu")
    judge = transformers.LlamaForCausalLM.from_pretrained(options.judge).eval().to(device)
    written: list[dict] = []
    for folder in options.models:
        pipe = DiffusionPipeline.from_pretrained(folder).to(device)
        share = float(getattr(pipe.network.config, "p_uniform", 0))
        for end in options.ends:
            rows = correction_grid(
                interpolating(pipe),
                pipe.denoiser,
                judge,
                pipe.length,
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
    run_recipe(lambda: main(tyro.cli(Options)))
