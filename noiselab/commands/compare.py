"""`noiselab compare`: the paired difference of two models on the same texts."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import tyro

from .arguments import Device, JsonFile, Low, Nodes, OptionalInt, OptionalPath, PrintJson, Repeats, WindowsAtOnce

if TYPE_CHECKING:
    from ..evaluation import Comparison, TextScores

Side = Annotated[str, tyro.conf.Positional, tyro.conf.arg(metavar="MODEL|JSON")]


@dataclass(frozen=True)
class Options:
    """The difference of two models on the same texts, A minus B, with its paired 95 % confidence interval over texts: in nats
    per token, or in bits per byte for unlike tokenizers.

    Examples: noiselab compare runs/new/final runs/old/final --texts held_out.jsonl --plot difference.svg;
    noiselab compare new.json old.json, files of `noiselab evaluate bound MODEL FILES --per-text --out new.json`
    """

    a: Side
    """folder or Hub name of a model, or a .json file of `noiselab evaluate bound`"""
    b: Side
    """the same; it is subtracted"""
    texts: tuple[str, ...] = ()
    """for models: text files, JSON lines, folders or glob patterns"""
    length: OptionalInt = None
    """tokens per window of a text; by default the whole context of each model, or 1024 if it has no limit"""
    max_sequences: OptionalInt = None
    """maximum number of texts"""
    repeats: Repeats = 4
    nodes: Nodes = None
    low: Low = None
    batch_size: WindowsAtOnce = 32
    seed: int = 0
    """seed of the noise, the same for both models"""
    plot: OptionalPath = None
    """output file for a plot of the differences, .svg, .png or .pdf"""
    json: PrintJson = False
    out: JsonFile = None
    csv: OptionalPath = None
    """output file for CSV, one row for each text"""
    device: Device = None


def main(options: Options) -> dict[str, Any]:
    """Compare, print and return the results."""
    from ..evaluation import compare_texts
    from .common import check_outputs, report_results, together

    with together(options.device) as processes:
        check_outputs(options)
        first, second = (_scores(name, options, processes) for name in (options.a, options.b))
        found = compare_texts(first, second)
        if options.plot is not None and processes.first:
            _plot(found, first.name, second.name, options.plot)
        record, rows = _record(found, first, second), _rows(found, first)
        return report_results("compare", options, record, _text(record), processes, rows)


def _record(found: "Comparison", first: "TextScores", second: "TextScores") -> dict[str, Any]:
    sides = {
        name: {
            "name": scores.name,
            "mean": sum(values) / len(values),
            "is": "bound" if scores.bound else "exact",
            "tokens": sum(scores.tokens),
        }
        for name, scores, values in (("a", first, found.first), ("b", second, found.second))
    }
    return {
        "unit": found.unit,
        "texts": len(found.first),
        **sides,
        "difference": found.difference.mean,
        "half": found.difference.half,
        "half_is": "half of a paired 95 % confidence interval over texts, by Student's t",
        "error": found.error,
        "error_is": f"standard error over texts, {found.unit}",
        "same_noise": found.same_noise,
    }


def _rows(found: "Comparison", first: "TextScores") -> list[dict[str, Any]]:
    name = found.unit.replace(" ", "_")
    columns = zip(first.texts, found.first, found.second, found.differences, first.sizes, strict=True)
    return [
        {"text": i, "sha256": text, f"a_{name}": a, f"b_{name}": b, f"difference_{name}": d, "bytes": size}
        for i, (text, a, b, d, size) in enumerate(columns)
    ]


def _text(record: dict[str, Any]) -> str:
    unit, mean, half, a, b = (record[name] for name in ("unit", "difference", "half", "a", "b"))
    noise = "the same noise" if record["same_noise"] else "not the same noise"
    if mean == half == 0:
        lower = "the scores of all texts are equal"
    elif abs(mean) > half:
        lower = f"{'A' if mean < 0 else 'B'} is lower"
    else:
        lower = "the sign of the difference is not certain"
    return "\n".join(
        [
            f"A: {a['mean']:.4f} {unit} ({a['is']}), B: {b['mean']:.4f} {unit} ({b['is']}); means over "
            f"{record['texts']} texts, {noise}",
            f"A - B: {mean:+.4f} ± {half:.4f} {unit} (paired 95 % interval over texts); {lower}",
        ]
    )


def _scores(name: str, options: Options, processes: Any) -> "TextScores":
    """The scores of a model on the texts, or those that a file holds."""
    from ..data.tokenizers import tokenizer_key
    from ..evaluation import TextScores
    from .common import load
    from .text_scores import make_windows, measure, noise_of, score_rows

    if name.endswith(".json"):
        return _saved(Path(name))
    if not options.texts:
        raise ValueError(f"texts must name at least one file, on which the model {name!r} is evaluated; got none")
    pipe = load(name, processes.device)
    windows = make_windows(pipe, options.texts, options, per_text=True)
    measured = measure(pipe, windows, options, processes)
    return TextScores(
        name,
        **_columns(score_rows(windows, measured)),
        tokenizer=tokenizer_key(pipe.tokenizer),
        bound=measured.found["bound"],
        noise=noise_of(vars(options)),
    )


def _columns(rows: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    from .text_scores import column

    return {
        "texts": column(rows, "sha256"),
        "nats": column(rows, "bound_nats", "nats"),
        "tokens": column(rows, "tokens"),
        "sizes": column(rows, "bytes"),
    }


def _saved(path: Path) -> "TextScores":
    """The scores that `noiselab evaluate bound --out` has written.

    **Raises:** `ValueError` if the file is another one.
    """
    import json

    from ..evaluation import TextScores
    from .text_scores import noise_of

    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise ValueError(f"{str(path)!r} must be a JSON file of `noiselab evaluate bound --out`: {error}") from error
    command = content.get("command") if isinstance(content, dict) else None
    if command != "evaluate bound" or "rows" not in content or "tokenizer" not in content:
        raise ValueError(
            f"{str(path)!r} must be written by `noiselab evaluate bound --out`, with a row for each text; its command is "
            f"{command!r}"
        )
    return TextScores(
        str(path),
        **_columns(content["rows"]),
        tokenizer=content["tokenizer"],
        bound=bool(content["bound"]),
        noise=noise_of(content["options"]),
    )


def _plot(found: "Comparison", a: str, b: str, path: Path) -> None:
    """Plot the differences of all texts in rising order, with their mean and its interval."""
    from matplotlib.figure import Figure

    from ..files import new_file

    figure = Figure(figsize=(6, 4), layout="constrained")
    axis = figure.subplots()
    mean, half = found.difference.mean, found.difference.half
    axis.axhline(0, color="0.6", lw=0.8)
    axis.plot(range(1, len(found.first) + 1), sorted(found.differences), ".", ms=4, color="#0072b2", label="texts")
    axis.axhline(mean, color="#d55e00", lw=1.2, label=f"mean {mean:+.4f} ± {half:.4f}, paired 95 % interval")
    axis.axhspan(mean - half, mean + half, color="#d55e00", alpha=0.2, lw=0)
    axis.set(xlabel="texts, in the order of their difference", ylabel=f"A - B, {found.unit}", title=f"A: {a}\nB: {b}")
    axis.title.set_fontsize(8)
    axis.legend(fontsize=8, frameon=False)
    with new_file(path) as temporary:
        figure.savefig(temporary, dpi=150)
