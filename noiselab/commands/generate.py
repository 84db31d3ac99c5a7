"""`noiselab generate`: generate texts as JSON Lines."""

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
    """Generate texts from noise or from prompts, as JSON Lines with text, tokens, prompt and model."""

    model: Annotated[str, tyro.conf.Positional, tyro.conf.arg(metavar="MODEL")]
    """folder of a model, or its name on the Hugging Face hub"""
    out: Path | None = None
    """output file for JSON Lines; by default they are printed"""
    num_samples: int = 4
    """number of texts, for each prompt if prompts are given"""
    steps: int | None = None
    """network evaluations per text; by default that of the model"""
    prompt: Annotated[list[str], tyro.conf.UseAppendAction] = field(default_factory=list)
    """beginning of the texts; may be given several times"""
    length: int | None = None
    """tokens per text, including the prompt; by default the whole context"""
    sampler: Name = "ancestral"
    """sampling algorithm"""
    temperature: float | None = None
    """temperature of the prediction"""
    top_k: int | None = None
    """sample from this number of most likely tokens only"""
    top_p: float | None = None
    """sample from the smallest set of most likely tokens with this total probability"""
    min_p: float | None = None
    """sample from tokens with at least this fraction of the highest probability"""
    as_released: bool = False
    """use the time grid of the published GIDD code, which leaves a little noise"""
    seed: int = 0
    """random seed"""
    batch_size: int = 16
    """texts per batch"""
    dtype: str | None = None
    """dtype of the network's arithmetic, such as bfloat16"""
    device: str | None = None
    """cpu, cuda, ...; by default a GPU if available"""


def main(options: Options) -> list[dict[str, Any]]:
    """Generate texts; write or print the records and return them."""
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
            raise ValueError("steps, sampler and as-released require a diffusion model; this model is autoregressive")
        texts = pipe.generate(**shared)
    else:
        assert isinstance(pipe, DiffusionPipeline)
        texts = pipe.generate(
            num_inference_steps=options.steps,
            sampler=None if options.sampler == "ancestral" else getattr(nl.samplers, SAMPLERS[options.sampler]),
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
        print(f"{len(records)} texts written to {options.out}")
    return records
