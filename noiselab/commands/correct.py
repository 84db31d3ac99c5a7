"""`noiselab correct`: self-correction of texts in a file."""

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import tyro


@dataclass(frozen=True)
class Options:
    """Correct texts: a diffusion model replaces the tokens to which it most confidently prefers others."""

    model: Annotated[str, tyro.conf.Positional, tyro.conf.arg(metavar="MODEL")]
    """folder of a model, or its name on the Hugging Face hub"""
    samples: Annotated[Path, tyro.conf.Positional, tyro.conf.arg(metavar="SAMPLES")]
    """JSON Lines from `noiselab generate`, or a text file with samples separated by empty lines"""
    out: Path | None = None
    """output file for JSON Lines; by default they are printed"""
    steps: int = 128
    """maximum network evaluations per text"""
    temperature: float = 0.1
    """temperature of the prediction; 0.1 to 0.5 published"""
    t0: float = 0.01
    """the time passed to the network"""
    tokens_per_step: int = 1
    """maximum tokens of a text that change per step"""
    early_stopping: bool = True
    """stop a text once no token changes or self-accuracy no longer improves"""
    patience: int = 32
    """steps without improvement before stopping"""
    as_released: bool = False
    """encode texts again and pad them with tokens that may change, as the published code does"""
    seed: int = 0
    """random seed"""
    batch_size: int = 16
    """texts per batch"""
    dtype: str | None = None
    """dtype of the network's arithmetic, such as bfloat16"""
    device: str | None = None
    """cpu, cuda, ...; by default a GPU if available"""


def main(options: Options) -> list[dict[str, Any]]:
    """Correct texts; write or print the records and return them."""
    import json

    import torch

    from ..pipeline import DiffusionPipeline
    from .common import dtype_of, load, read_samples, texts_for, write_samples

    samples = read_samples(options.samples)
    pipe = load(options.model, options.device)
    if not isinstance(pipe, DiffusionPipeline):
        raise ValueError(f"model must be a diffusion model; {options.model!r} is autoregressive")
    texts, kept = texts_for(pipe, samples)
    before = pipe.encode(texts)
    after = pipe.self_correction(
        texts,
        options.steps,
        options.temperature,
        options.t0,
        options.early_stopping,
        options.patience,
        tokens_per_step=options.tokens_per_step,
        as_released=options.as_released,
        batch_size=options.batch_size,
        generator=torch.Generator().manual_seed(options.seed),
        show_progress=options.out is not None,
        dtype=dtype_of(options.dtype),
    )
    records = []
    for ids, old, new in zip(before, texts, after, strict=True):
        tokens = list(getattr(new, "tokens", ()))
        changed = sum(a != b for a, b in zip(ids, tokens, strict=False)) / len(ids)
        records.append(
            {"text": str(new), "tokens": tokens, "before": str(old), "changed": changed, "model": options.model}
        )
    if options.out is None:
        print("\n".join(json.dumps(record, ensure_ascii=False) for record in records))
    else:
        write_samples(options.out, records)
        share = sum(record["changed"] * len(ids) for record, ids in zip(records, before, strict=True)) / sum(
            map(len, before)
        )
        how = f"{kept} with the tokens of the file" if kept else "all encoded again"
        print(f"{len(records)} texts ({how}), {share:.1%} of the tokens changed; written to {options.out}")
    return records
