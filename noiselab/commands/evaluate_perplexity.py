"""`noiselab evaluate perplexity`: samples as a causal model sees them."""

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import tyro


@dataclass(frozen=True)
class Options:
    """Generative perplexity of samples, with their entropy and n-grams, without which it says little."""

    samples: Annotated[Path, tyro.conf.Positional, tyro.conf.arg(metavar="SAMPLES")]
    """JSON lines as `noiselab generate` writes them, or a text file whose parts are separated by empty lines"""
    judge: str
    """a causal model: a folder, or a name on the hub, such as google/gemma-2-9b (what GIDD's authors took) or gpt2-large"""
    reference: Path | None = None
    """texts to compare with by MAUVE, which needs the package mauve-text"""
    max_tokens: int | None = None
    """cut texts to so many tokens of the judge"""
    start: bool = True
    """put the judge's begin-of-text token before each text, if it has one, so that the first token counts"""
    batch_size: int = 16
    """texts at once"""
    json: bool = False
    """print JSON alone"""
    out: Path | None = None
    """file for the JSON"""
    device: str | None = None
    """cpu, cuda, ...; a GPU if there is one"""


def main(options: Options) -> dict[str, Any]:
    """Judge and print; returns the figures."""
    import torch

    from ..evaluation import generative_perplexity, text_perplexity
    from ..pipeline import AutoregressivePipeline
    from .common import load, read_samples, say, texts_for

    samples = read_samples(options.samples)
    pipe = load(options.judge, options.device)
    if not isinstance(pipe, AutoregressivePipeline):
        raise ValueError(f"judge must be a causal model; {options.judge!r} is a diffusion model")
    texts, kept = texts_for(pipe, samples)
    start = pipe.tokenizer.bos_token_id if options.start else None
    lengths = {len(sample.tokens or ()) for sample in samples}
    if kept == len(samples) and len(lengths) == 1 and options.max_tokens is None:
        # The judge's own tokens: nothing comes between.
        x = torch.tensor([sample.tokens for sample in samples])
        judged = generative_perplexity(pipe.network, x, start=start, batch_size=options.batch_size)
        how = "the tokens that were drawn"
    else:
        judged = text_perplexity(
            pipe.network,
            pipe.tokenizer,
            [str(text) for text in texts],
            start=start,
            max_tokens=options.max_tokens,
            batch_size=options.batch_size,
        )
        how = "texts, encoded by the judge's tokenizer"
    found: dict[str, Any] = {
        "samples": str(options.samples),
        "judge": options.judge,
        "texts": judged.samples,
        "tokens": judged.tokens,
        "retokenized": how != "the tokens that were drawn",
        "perplexity": judged.perplexity,
        "nats": judged.nats,
        "error": judged.error,
        "entropy": judged.entropy,
        "distinct": list(judged.distinct),
    }
    if options.reference is not None:
        found["mauve"] = _mauve([str(t) for t in texts], [sample.text for sample in read_samples(options.reference)])
    grams = ", ".join(f"{value:.3f}" for value in judged.distinct)
    lines = [
        f"{judged.samples} samples, {judged.tokens:,} tokens scored ({how})",
        f"perplexity {judged.perplexity:.2f} ({judged.nats:.4f} ± {judged.error:.4f} nats per token)",
        f"entropy of tokens within a text {judged.entropy:.3f} nats; distinct 1-, 2-, 3-grams {grams}",
    ]
    if "mauve" in found:
        lines.append(f"MAUVE {found['mauve']:.4f}")
    say(found, options.out, options.json, "\n".join(lines))
    return found


def _mauve(texts: list[str], reference: list[str]) -> float:
    try:
        import mauve
    except ImportError as error:
        raise ValueError("reference needs the package mauve: pip install mauve-text") from error
    return float(mauve.compute_mauve(p_text=reference, q_text=texts, verbose=False).mauve)
