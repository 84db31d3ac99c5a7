"""What self-correction is worth on trained models, with confidence intervals, and how much of it one last jump gives already.

    python recipes/demo.py                                           # GIDD+ and a judge, in runs/demo
    python recipes/masked.py demo --cpu True --tokenizer runs/demo/diffusion/tokenizer      # the control, in runs/masked_demo
    python recipes/corrections.py                                    # three minutes on two cores

Each seed draws one set of samples from each model, and each treatment gets the same samples. Once they go to t = 0, and
once, as published samplers do, they stop at t = 1e-4 with the noise of that time still in them. The judge scores in nats
per token.
"""

from dataclasses import asdict, dataclass
from pathlib import Path

import torch
import transformers
import tyro

import noiselab as nl
from noiselab.data import token_support
from noiselab.denoisers.huggingface import TransformersDenoiser, load_dit
from noiselab.evaluation import generative_perplexity
from noiselab.evaluation.correction_study import interval
from noiselab.training.checkpoints import write_json
from noiselab.training.options import run_recipe

RESIDUE = 1e-4  # where the published sampler stops


@dataclass(frozen=True)
class Options:
    """What self-correction is worth on trained models, with confidence intervals."""

    hybrid: Path = Path("runs/demo/diffusion/final/ema")
    """a trained GIDD+ model, with its tokenizer"""
    masked: Path = Path("runs/masked_demo/final/ema")
    """one trained with masks alone, with the same tokenizer"""
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
    correction_steps: int = 64
    """of self-correction, at most"""


def main(options: Options) -> list[dict]:
    """Measure, print a table, and write it down; returns its rows."""
    if options.seeds < 2:
        raise ValueError(f"there must be at least two seeds, for an interval; got {options.seeds}")
    transformers.logging.set_verbosity_error()
    judge = transformers.LlamaForCausalLM.from_pretrained(options.judge).eval()
    rows: list[dict] = []
    for name, folder in (("hybrid", options.hybrid), ("masked", options.masked)):
        model, tokenizer = load_dit(folder), transformers.AutoTokenizer.from_pretrained(folder)
        support, mask = token_support(tokenizer), tokenizer.mask_token_id
        share = model.config.p_uniform
        process: nl.InterpolatingProcess = nl.masked(vocab_size=len(support), mask_id=mask)
        if share:
            process = nl.gidd(vocab_size=len(support), mask_id=mask, p_uniform=share)
        denoiser, length = nl.Support(TransformersDenoiser(model), support), model.config.max_seq_len
        for end in (0.0, RESIDUE):
            found = [treated(process, denoiser, judge, length, end, seed, options) for seed in range(options.seeds)]
            before = [judged["before"] for judged in found]
            for kind in found[0]:
                after = [judged[kind] for judged in found]
                gain = interval([b.nats - a.nats for b, a in zip(before, after, strict=True)])
                nats, entropy = interval([a.nats for a in after]), interval([a.entropy for a in after])
                rows.append(
                    {"model": name, "end": end, "treatment": kind}
                    | {"gain": asdict(gain), "nats": asdict(nats), "entropy": asdict(entropy)}
                )
                line = f"{name:7} samples to t = {end:<6g} {kind:16} {nats.mean:.3f} nats, gain {gain}"
                print(f"{line}, entropy {entropy.mean:.3f}", flush=True)
    write_json(options.out, {"rows": rows})
    return rows


def treated(
    process: nl.InterpolatingProcess,
    denoiser: nl.Support,
    judge: torch.nn.Module,
    length: int,
    end: float,
    seed: int,
    options: Options,
) -> dict:
    """Samples of one seed as they are and after each treatment, as the judge sees them."""
    generator = torch.Generator().manual_seed(seed)
    sampler = nl.AncestralSampler(process, denoiser)
    grid = torch.linspace(1, 0, options.steps + 1, dtype=torch.float64)
    grid[-1] = end
    samples = sampler.sample((options.samples, length), times=grid, clean=False, generator=generator)
    # Masks that are left are filled in: nobody would take them for text.
    left = ~process.data_tokens()[samples]
    samples = torch.where(left, sampler.clean(samples, torch.full((len(samples),), max(end, 1e-12))), samples)
    time = torch.full((len(samples),), 0.01, dtype=torch.float64)
    with torch.no_grad():
        correction = nl.SelfCorrection(denoiser, support=denoiser.support)
        results = {
            "before": samples,
            "one jump": sampler.clean(samples, time, generator=generator),
            "self-correction": correction.correct(samples, steps=options.correction_steps, generator=generator),
        }
        results["both"] = correction.correct(results["one jump"], steps=options.correction_steps, generator=generator)
        return {kind: generative_perplexity(judge, x) for kind, x in results.items()}


if __name__ == "__main__":
    run_recipe(lambda: main(tyro.cli(Options)))
