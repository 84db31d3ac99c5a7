"""`noiselab evaluate bound`: how well a model predicts text files."""

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import tyro


@dataclass(frozen=True)
class Options:
    """The negative log-likelihood of text files: a bound with all its terms, or exactly for an autoregressive model."""

    model: Annotated[str, tyro.conf.Positional, tyro.conf.arg(metavar="MODEL")]
    """folder of a model, or its name on the Hugging Face hub"""
    files: Annotated[tuple[str, ...], tyro.conf.Positional, tyro.conf.arg(metavar="FILE ...")]
    """text files, JSON lines, folders or glob patterns"""
    length: int | None = None
    """tokens of a window; the whole context if not given"""
    max_sequences: int | None = None
    """windows at most"""
    repeats: int = 4
    """times at which each window meets noise"""
    nodes: int | None = None
    """the same fixed times for all windows instead, so many of them"""
    low: float | None = None
    """the least time; 1e-4 if not given"""
    batch_size: int = 32
    """windows at once"""
    seed: int = 0
    """of the noise"""
    json: bool = False
    """print JSON alone"""
    out: Path | None = None
    """file for the JSON"""
    device: str | None = None
    """cpu, cuda, ...; a GPU if there is one"""


def main(options: Options) -> dict[str, Any]:
    """Evaluate and print; returns the figures."""
    import math

    import torch

    from ..data import FileCorpus, TokenBlocks, pack
    from ..evaluation import generative_perplexity, validation_bound
    from ..pipeline import DiffusionPipeline
    from .common import load, say

    if not options.files:
        raise ValueError("files must be given; got none")
    pipe = load(options.model, options.device)
    texts = [text for pattern in options.files for text in FileCorpus(pattern)]
    length = min(pipe.length, 1 << 16) if options.length is None else options.length
    if not 2 <= length <= pipe.length:
        raise ValueError(f"length must lie in [2, {pipe.length}]; got {length}")
    blocks = pack(texts, pipe.tokenizer, length)
    if options.max_sequences is not None:
        most = options.max_sequences
        if most < 1:
            raise ValueError(f"max-sequences must be at least 1; got {most}")
        blocks = TokenBlocks(blocks.tokens[:most], blocks.real[:most], blocks.vocab_size, blocks.about)
    x = blocks.tokens.long()
    real = torch.arange(length) < blocks.real.long()[:, None]
    found: dict[str, Any] = {"model": options.model, "files": list(options.files), "windows": len(x), "length": length}
    if isinstance(pipe, DiffusionPipeline):
        bound = validation_bound(
            pipe.process,
            pipe.padded,
            blocks,
            low=options.low,
            nodes=options.nodes,
            repeats=options.repeats,
            batch_size=options.batch_size,
            generator=torch.Generator(pipe.device).manual_seed(options.seed),
        )
        found |= {"bound": True, "nats": bound.nelbo, "error": bound.error, "diffusion": bound.diffusion}
        found |= {"reconstruction": bound.reconstruction, "prior": bound.prior, "tokens": bound.tokens}
        scored = [row[kept].tolist() for row, kept in zip(x, real, strict=True)]
    else:
        judged = generative_perplexity(pipe.network, x, attention_mask=real, batch_size=options.batch_size)
        found |= {"bound": False, "nats": judged.nats, "error": judged.error, "tokens": judged.tokens}
        scored = [row[kept].tolist()[1:] for row, kept in zip(x, real, strict=True)]
    words = "".join(pipe.tokenizer.batch_decode(scored, clean_up_tokenization_spaces=False, skip_special_tokens=True))
    total = found["nats"] * found["tokens"] / math.log(2)
    found |= {"perplexity": math.exp(min(found["nats"], 700)), "bits_per_character": total / max(1, len(words))}
    found |= {"bits_per_byte": total / max(1, len(words.encode()))}
    sign = "at most " if found["bound"] else ""
    lines = [
        f"{found['windows']} windows of {length} tokens, {found['tokens']:,} tokens scored, {len(words):,} characters",
        f"{sign}{found['nats']:.4f} ± {found['error']:.4f} nats per token (perplexity {found['perplexity']:.2f})",
        f"{sign}{found['bits_per_character']:.4f} bits per character, {found['bits_per_byte']:.4f} bits per byte",
    ]
    if found["bound"]:
        terms = ", ".join(f"{name} {found[name]:.4f}" for name in ("diffusion", "reconstruction", "prior"))
        lines.append(f"of which {terms}")
    say(found, options.out, options.json, "\n".join(lines))
    return found
