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
    """maximum number of windows, or of texts"""
    per_text: bool = False
    """each text in windows of its own, for `noiselab compare`; by default texts are joined, each with an end of text"""
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
    csv: OptionalPath = None
    """output file for CSV, one row for each window or text: `bound_nats` or `nats` (exact), `tokens`, `bytes`"""
    device: OptionalText = None
    """cpu, cuda, ...; by default a GPU if available"""


def main(options: Options) -> dict[str, Any]:
    """Evaluate, print and return the results."""
    import math

    from ..data.tokenizers import tokenizer_key
    from .common import check_outputs, load, report_results, together, with_interval
    from .text_scores import make_windows, measure, score_rows

    with together(options.device) as processes:
        check_outputs(options)
        pipe = load(options.model, processes.device)
        windows = make_windows(pipe, options.files, options, options.per_text)
        measured = measure(pipe, windows, options, processes)
        rows, found = score_rows(windows, measured), measured.found
        blocks, letters = windows.blocks, sum(map(len, measured.words))
        size = sum(row["bytes"] for row in rows) if options.per_text else len("".join(measured.words).encode())
        total = found["nats"] * found["tokens"] / math.log(2)
        found = {"windows": len(blocks), "length": blocks.length, **found, "tokenizer": tokenizer_key(pipe.tokenizer)}
        found |= {"perplexity": math.exp(min(found["nats"], 700)), "bits_per_character": total / max(1, letters)}
        found |= {"bits_per_byte": total / max(1, size), "error_is": "standard error over windows, nats per token"}
        sign = "at most " if found["bound"] else ""
        value = with_interval(found["nats"], found["error"], "nats per token", "windows")
        lines = [
            f"{len(blocks)} windows of {blocks.length} tokens, {found['tokens']:,} tokens scored, {letters:,} characters",
            f"{sign}{value}; {sign}perplexity {found['perplexity']:.2f}",
            f"{sign}{found['bits_per_character']:.4f} bits per character, {sign}{found['bits_per_byte']:.4f} bits per byte",
        ]
        if found["bound"]:
            terms = ", ".join(f"{name} {found[name]:.4f}" for name in ("diffusion", "reconstruction", "prior"))
            lines.append(f"of which {terms}")
        return report_results("evaluate bound", options, found, "\n".join(lines), processes, rows)
