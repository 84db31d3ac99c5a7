"""`noiselab correct`: self-correction of texts in a file."""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import tyro

from .arguments import Device, Dtype, Model, TextSeed, TextsFile


@dataclass(frozen=True)
class Options:
    """Correct texts: a diffusion model replaces the tokens to which it most confidently prefers others."""

    model: Model
    """folder of a model, or its name on the Hugging Face hub"""
    samples: Annotated[Path, tyro.conf.Positional, tyro.conf.arg(metavar="SAMPLES")]
    """JSON Lines from `noiselab generate`, or of conversations (`messages`) whose last answer is corrected; or a text file with
    samples separated by empty lines; also .gz or .zst"""
    out: TextsFile = None
    steps: int = 128
    """maximum network evaluations per text, or per canvas of block-diffusion models"""
    temperature: float = 0.1
    """temperature of the prediction; 0.1 to 0.5 published"""
    t0: float = 0.01
    """the time passed to the network; those of block-diffusion models take none"""
    tokens_per_step: int = 1
    """maximum tokens of a text that change per step"""
    method: str = "gidd"
    """gidd, as published, or balanced, which redraws improbable tokens and stops by itself; the settings of gidd must then be
    left at their defaults"""
    early_stopping: bool = True
    """stop a text once no token changes or self-accuracy no longer improves"""
    patience: int = 32
    """steps without improvement before stopping"""
    as_released: bool = False
    """encode texts again and pad them with tokens that may change, as the published code does"""
    seed: TextSeed = 0
    batch_size: int = 16
    """texts per batch, of which each process takes one at a time; does not change the result"""
    dtype: Dtype = None
    device: Device = None


def main(options: Options) -> list[dict[str, Any]]:
    """Correct texts; write or print the records and return them."""
    from ..data.samples import read_samples
    from ..numerics import require_count
    from ..pipeline import AutoregressivePipeline, CanvasPipeline
    from ..pipeline.chats import encode_answers
    from .common import load, output, print_text, texts_for, together

    records: list[dict[str, Any]] = []
    with together(options.device) as processes, output(options.out, options.samples, processes=processes) as write:
        samples = read_samples(options.samples, chats=True)
        if options.as_released and samples[0].messages is not None:
            raise ValueError(f"as-released corrects texts, not conversations; {options.samples} has conversations")
        require_count("batch-size", options.batch_size)
        pipe = load(options.model, processes.device)
        if isinstance(pipe, AutoregressivePipeline):
            raise ValueError(f"model must be a diffusion model; {options.model!r} is autoregressive")
        if options.as_released and isinstance(pipe, CanvasPipeline):
            raise ValueError("as-released is not for block-diffusion models, which have canvases")
        if options.method != "gidd" and isinstance(pipe, CanvasPipeline):
            raise ValueError(f"method must be gidd for block-diffusion models; got {options.method}")
        texts, kept = texts_for(pipe, samples)
        if samples[0].messages is not None:
            before = encode_answers(pipe, texts)
        else:
            before = pipe.encode_as_released(texts) if options.as_released else pipe.encode(texts)  # type: ignore[operator]
        for record in _corrected(pipe, texts, before, options, processes):
            write(record)
            records.append(record)
    if options.out is not None and processes.first:
        share = sum(record["changed"] * len(ids) for record, ids in zip(records, before, strict=True)) / sum(
            map(len, before)
        )
        how = f"{kept} with the tokens of the file" if kept else "all encoded again"
        print_text(f"{len(records)} texts ({how}), {share:.1%} of the tokens changed; written to {options.out}")
    return records


def _corrected(
    pipe: Any, texts: list[Any], before: list[list[int]], options: Options, processes: Any
) -> Iterator[dict[str, Any]]:
    """The records of the texts, batch by batch."""
    from ..pipeline import CanvasPipeline
    from ..pipeline.calls import slices
    from .common import answered, dtype_of, generated_texts, text_generators

    own = (
        {}
        if isinstance(pipe, CanvasPipeline)
        else {"t0": options.t0, "as_released": options.as_released, "method": options.method}
    )
    generators, some = text_generators(options.seed, len(texts)), slices(len(texts), options.batch_size)

    def corrected(number: int) -> list[str]:
        return list(
            pipe.self_correction(
                texts[some[number]],
                options.steps,
                options.temperature,
                early_stopping=options.early_stopping,
                early_stopping_patience=options.patience,
                tokens_per_step=options.tokens_per_step,
                **own,
                batch_size=options.batch_size,
                generator=generators[some[number]],
                show_progress=options.out is not None and processes.first,
                dtype=dtype_of(options.dtype),
            )
        )

    after: Any = generated_texts(pipe, processes, len(some), corrected, about=[before, options])
    for ids, old, new in zip(before, texts, after, strict=True):
        tokens = list(new.tokens)
        ids = pipe.opened(ids, "a text") if isinstance(pipe, CanvasPipeline) and isinstance(old, str) else ids
        changed = sum(a != b for a, b in zip(ids, tokens, strict=True)) / len(ids)
        record: dict[str, Any] = {"text": str(new), "tokens": tokens}
        if not isinstance(old, str):  # a conversation
            record["messages"], old = answered(old[:-1], str(new)), old[-1]["content"]
        yield record | {"before": str(old), "changed": changed, "model": options.model}
