"""`noiselab generate`: texts as JSON lines."""

from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Any, Literal

import tyro

SAMPLERS = {
    "ancestral": "AncestralSampler",
    "confidence": "ConfidenceSampler",
    "deterministic": "DeterministicSampler",
    "entropy-bounded": "EntropyBoundedSampler",
    "euler": "EulerSampler",
    "first-hitting": "FirstHittingSampler",
    "path-planning": "PathPlanningSampler",
    "remasking": "RemaskingSampler",
    "tau-leaping": "TauLeapingSampler",
}
Name = Literal[
    "ancestral",
    "confidence",
    "deterministic",
    "entropy-bounded",
    "euler",
    "first-hitting",
    "path-planning",
    "remasking",
    "tau-leaping",
]


@dataclass(frozen=True)
class Options:
    """Write texts from noise, or after prompts, as JSON lines: text, tokens, prompt, model."""

    model: Annotated[str, tyro.conf.Positional, tyro.conf.arg(metavar="MODEL")]
    """folder of a model, or its name on the Hugging Face hub"""
    out: Path | None = None
    """file for the JSON lines; without it they are printed"""
    num_samples: int = 4
    """texts, of each prompt if there are any"""
    steps: int | None = None
    """network evaluations of a text; the model's default if not given"""
    prompt: Annotated[list[str], tyro.conf.UseAppendAction] = field(default_factory=list)
    """what texts begin with; may be given several times"""
    length: int | None = None
    """tokens of a text; the whole context if not given"""
    sampler: Name = "ancestral"
    """how noise becomes text"""
    temperature: float | None = None
    """of the prediction"""
    top_k: int | None = None
    """draw from the likeliest tokens alone"""
    top_p: float | None = None
    """draw from the likeliest tokens that have this share of the probability"""
    min_p: float | None = None
    """draw from tokens of at least this share of the likeliest one's probability"""
    as_released: bool = False
    """the steps of the published GIDD code, which leave a little noise"""
    seed: int = 0
    """of all randomness"""
    batch_size: int = 16
    """texts at once"""
    dtype: str | None = None
    """of the network's arithmetic, such as bfloat16"""
    device: str | None = None
    """cpu, cuda, ...; a GPU if there is one"""


def main(options: Options) -> list[dict[str, Any]]:
    """Generate, and write or print the records; returns them."""
    import json

    import torch

    import noiselab as nl

    from ..pipeline import AutoregressivePipeline, DiffusionPipeline
    from .common import dtype_of, load, write_samples

    pipe = load(options.model, options.device)
    shared: dict[str, Any] = {
        name: getattr(options, name) for name in ("temperature", "top_k", "top_p", "min_p", "length")
    }
    shared |= {"num_samples": options.num_samples, "prompts": options.prompt or None, "dtype": dtype_of(options.dtype)}
    shared |= {"generator": torch.Generator().manual_seed(options.seed)}
    if isinstance(pipe, AutoregressivePipeline):
        if options.steps is not None or options.as_released or options.sampler != "ancestral":
            raise ValueError("steps, sampler and as-released are for diffusion models; this one is autoregressive")
        texts = pipe.generate(**shared)
    else:
        assert isinstance(pipe, DiffusionPipeline)
        texts = pipe.generate(
            num_inference_steps=options.steps,
            sampler=None if options.sampler == "ancestral" else getattr(nl, SAMPLERS[options.sampler]),
            as_released=options.as_released,
            batch_size=options.batch_size,
            show_progress=options.out is not None,
            **shared,
        )
    records = []
    for i, text in enumerate(texts):
        prompt = options.prompt[i // options.num_samples] if options.prompt else None
        records.append(
            {"text": str(text), "tokens": getattr(text, "tokens", None), "prompt": prompt, "model": options.model}
        )
    if options.out is None:
        print("\n".join(json.dumps(record, ensure_ascii=False) for record in records))
    else:
        write_samples(options.out, records)
        print(f"{len(records)} texts are in {options.out}")
    return records
