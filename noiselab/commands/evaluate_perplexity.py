"""`noiselab evaluate perplexity`: the perplexity of samples under a causal model."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import tyro

from .arguments import Device, JsonFile, OptionalInt, OptionalPath, PrintJson

if TYPE_CHECKING:
    pass


@dataclass(frozen=True)
class Options:
    """Generative perplexity of samples, with their entropy and n-gram diversity, without which perplexity is
    misleading.
    """

    samples: Annotated[Path, tyro.conf.Positional, tyro.conf.arg(metavar="SAMPLES")]
    """JSON Lines from `noiselab generate`, or a text file with samples separated by empty lines; also .gz or .zst"""
    judge: str
    """a causal model: a folder or a Hub name, such as google/gemma-2-9b (used by GIDD's authors) or gpt2-large"""
    reference: OptionalPath = None
    """reference texts for MAUVE, which requires the package mauve-text"""
    max_tokens: OptionalInt = None
    """truncate texts to this number of the judge's tokens"""
    start: bool = True
    """prepend the judge's begin-of-text token, if it has one, so that the first token is scored"""
    batch_size: int = 16
    """texts per batch, of which each process takes one at a time"""
    json: PrintJson = False
    out: JsonFile = None
    csv: OptionalPath = None
    """output file for CSV, one row for each text: `judge_nats`, `judge_tokens`"""
    device: Device = None


def main(options: Options) -> dict[str, Any]:
    """Evaluate, print and return the results."""
    import torch

    from ..data.samples import read_samples
    from ..evaluation import generative_perplexity, text_perplexity
    from ..pipeline import AutoregressivePipeline
    from .common import check_outputs, load, report_results, texts_for, together, with_interval

    with together(options.device) as processes:
        check_outputs(options)
        samples = read_samples(options.samples)
        reference = None if options.reference is None else [sample.text for sample in read_samples(options.reference)]
        pipe = load(options.judge, processes.device)
        if not isinstance(pipe, AutoregressivePipeline):
            raise ValueError(f"judge must be a causal model; {options.judge!r} is a diffusion model")
        texts, kept = texts_for(pipe, samples)
        start = pipe.tokenizer.bos_token_id if options.start else None
        lengths = {len(sample.tokens or ()) for sample in samples}
        if kept == len(samples) and len(lengths) == 1 and options.max_tokens is None:
            # The samples are in the judge's tokens, so they need not be encoded again.
            x = torch.tensor([sample.tokens for sample in samples])
            judged = generative_perplexity(
                pipe.network, x, start=start, batch_size=options.batch_size, processes=processes
            )
            how = "the sampled tokens"
        else:
            judged = text_perplexity(
                pipe.network,
                pipe.tokenizer,
                [str(text) for text in texts],
                start=start,
                max_tokens=options.max_tokens,
                batch_size=options.batch_size,
                processes=processes,
            )
            how = "texts encoded with the judge's tokenizer"
        found: dict[str, Any] = {
            "texts": judged.samples,
            "tokens": judged.tokens,
            "retokenized": how != "the sampled tokens",
            "perplexity": judged.perplexity,
            "nats": judged.nats,
            "error": judged.error,
            "error_is": "standard error over texts, nats per token",
            "entropy": judged.entropy,
            "distinct": list(judged.distinct),
        }
        if reference is not None:
            found["mauve"] = _mauve([str(t) for t in texts], reference, processes)
        value = with_interval(judged.nats, judged.error, "nats per token", "texts")
        totals = zip(judged.total.tolist(), judged.lengths.tolist(), strict=True)
        rows = [{"text": i, "judge_nats": nats, "judge_tokens": count} for i, (nats, count) in enumerate(totals)]
        grams = ", ".join(f"{value:.3f}" for value in judged.distinct)
        lines = [
            f"{judged.samples} samples, {judged.tokens:,} tokens scored ({how})",
            f"perplexity {judged.perplexity:.2f}; {value}",
            f"entropy of tokens within a text {judged.entropy:.3f} nats; distinct 1-, 2-, 3-grams {grams}",
        ]
        if "mauve" in found:
            lines.append(f"MAUVE {found['mauve']:.4f}")
        return report_results("evaluate perplexity", options, found, "\n".join(lines), processes, rows)


def _mauve(texts: list[str], reference: list[str], processes: Any) -> float:
    import torch

    try:
        import mauve
    except ImportError as error:
        raise ValueError("reference needs the package mauve: pip install mauve-text") from error

    def work(numbers: Sequence[int]) -> Iterator[list[torch.Tensor]]:
        for _ in numbers:
            value = mauve.compute_mauve(p_text=reference, q_text=texts, verbose=False).mauve
            yield [torch.tensor(value, dtype=torch.float64)]

    return float(processes.collect(work, 1)[0][0])
