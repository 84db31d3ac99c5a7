"""`noiselab evaluate bound`: the negative log-likelihood of text files."""

from dataclasses import dataclass
from typing import Annotated, Any

import tyro

from .arguments import Model, OptionalFloat, OptionalInt, OptionalPath, OptionalText


@dataclass(frozen=True)
class Options:
    """The negative log-likelihood of text files: the full bound, or the exact value for an autoregressive model."""

    model: Model
    """folder of a model, or its name on the Hugging Face hub"""
    files: Annotated[
        tuple[str, ...], tyro.conf.Positional, tyro.conf.arg(metavar="FILE ...", help_behavior_hint="(required)")
    ]
    """text files, JSON lines, folders or glob patterns"""
    length: OptionalInt = None
    """tokens per window; by default the whole context, or 1024 if it has no limit"""
    max_sequences: OptionalInt = None
    """maximum number of windows"""
    repeats: int = 4
    """number of random times at which each window is noised"""
    nodes: OptionalInt = None
    """number of fixed times, the same for all windows, instead of random times"""
    low: OptionalFloat = None
    """the smallest time; by default 1e-4"""
    batch_size: int = 32
    """windows per batch, of which each process takes one at a time"""
    seed: int = 0
    """seed of the noise"""
    json: bool = False
    """print JSON instead of text"""
    out: OptionalPath = None
    """output file for JSON"""
    device: OptionalText = None
    """cpu, cuda, ...; by default a GPU if available"""


def main(options: Options) -> dict[str, Any]:
    """Evaluate, print and return the results."""
    import math

    import torch

    from ..evaluation import generative_perplexity
    from ..pipeline import AutoregressivePipeline
    from .common import check_output, load, report_results, together, with_interval

    with together(options.device) as processes:
        check_output(options.out)
        if not options.files:
            raise ValueError("files must name at least one file; got none")
        pipe = load(options.model, processes.device)
        blocks = _windows(pipe, options)
        x = blocks.tokens.long()
        real = torch.arange(blocks.length) < blocks.real.long()[:, None]
        found: dict[str, Any] = {"windows": len(x), "length": blocks.length}
        if not isinstance(pipe, AutoregressivePipeline):
            bound = _bound(pipe, blocks, options, processes)
            found |= {"bound": True, "nats": bound.nelbo, "error": bound.error, "diffusion": bound.diffusion}
            found |= {"reconstruction": bound.reconstruction, "prior": bound.prior, "tokens": bound.tokens}
            scored = [row[kept].tolist() for row, kept in zip(x, real, strict=True)]
        else:
            judged = generative_perplexity(
                pipe.network, x, attention_mask=real, batch_size=options.batch_size, processes=processes
            )
            found |= {"bound": False, "nats": judged.nats, "error": judged.error, "tokens": judged.tokens}
            scored = [row[kept].tolist()[1:] for row, kept in zip(x, real, strict=True)]
        words = "".join(
            pipe.tokenizer.batch_decode(scored, clean_up_tokenization_spaces=False, skip_special_tokens=True)
        )
        total = found["nats"] * found["tokens"] / math.log(2)
        found |= {"perplexity": math.exp(min(found["nats"], 700)), "bits_per_character": total / max(1, len(words))}
        found |= {"bits_per_byte": total / max(1, len(words.encode()))}
        sign = "at most " if found["bound"] else ""
        lines = [
            f"{len(x)} windows of {blocks.length} tokens, {found['tokens']:,} tokens scored, {len(words):,} characters",
            f"{sign}{with_interval(found['nats'], found['error'])} nats per token; {sign}perplexity {found['perplexity']:.2f}",
            f"{sign}{found['bits_per_character']:.4f} bits per character, {sign}{found['bits_per_byte']:.4f} bits per byte",
        ]
        if found["bound"]:
            terms = ", ".join(f"{name} {found[name]:.4f}" for name in ("diffusion", "reconstruction", "prior"))
            lines.append(f"of which {terms}")
        return report_results("evaluate bound", options, found, "\n".join(lines), processes)


def _bound(pipe: Any, blocks: Any, options: Options, processes: Any) -> Any:
    """The bound of a diffusion model on the windows; a block-diffusion model reads them after its beginning of text."""
    import torch

    from ..evaluation import canvas_validation_bound, validation_bound
    from ..pipeline import CanvasPipeline

    names = ("low", "nodes", "repeats", "batch_size")
    settings: dict[str, Any] = {name: getattr(options, name) for name in names}
    settings["processes"] = processes
    settings["generator"] = torch.Generator(pipe.device).manual_seed(options.seed)
    if not isinstance(pipe, CanvasPipeline):
        return validation_bound(pipe.process, pipe.denoiser, blocks, **settings)
    opening = pipe.opening
    rows = [opening + row[:size].tolist() for row, size in zip(blocks.tokens.long(), blocks.real.tolist(), strict=True)]
    return canvas_validation_bound(pipe.process, pipe.network, rows, given=[len(opening)] * len(rows), **settings)


def _windows(pipe: Any, options: Options) -> Any:
    """The windows of the texts, as `TokenBlocks`."""
    from ..data import FileCorpus, TokenBlocks, pack
    from ..networks.lengths import USUAL, generated_length
    from ..numerics import require_count

    limit = None if pipe.length is None else pipe.length - len(getattr(pipe, "opening", ()))
    whole = USUAL if limit is None else min(limit, 1 << 16)
    length = generated_length(whole if options.length is None else options.length, limit)
    blocks = pack(
        [text for pattern in options.files for text in FileCorpus(pattern)],
        pipe.tokenizer,
        require_count("length", length, 2),
    )
    if options.max_sequences is None:
        return blocks
    most = require_count("max-sequences", options.max_sequences)
    return TokenBlocks(blocks.tokens[:most], blocks.real[:most], blocks.vocab_size, blocks.about)
