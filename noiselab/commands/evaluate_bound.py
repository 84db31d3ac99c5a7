"""`noiselab evaluate bound`: the negative log-likelihood of text files."""

from dataclasses import dataclass
from typing import Annotated, Any

import tyro

from .arguments import Device, JsonFile, Low, Model, Nodes, OptionalInt, OptionalPath, PrintJson, Repeats, WindowsAtOnce


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
    repeats: Repeats = 4
    nodes: Nodes = None
    low: Low = None
    batch_size: WindowsAtOnce = 32
    seed: int = 0
    """seed of the noise"""
    json: PrintJson = False
    out: JsonFile = None
    csv: OptionalPath = None
    """output file for CSV, one row for each window or text: `bound_nats` or `nats` (exact), `tokens`, `bytes`"""
    device: Device = None


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
