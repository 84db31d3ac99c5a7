"""The page of benchmarks/correction_roc.py, from its measures: areas under the ROC curve, compared network by network."""

import json
from pathlib import Path
from typing import Any

from noiselab.evaluation.intervals import Interval, interval

HEAD = "quality head"


def render(path: Path) -> str:
    """The tables of a run, as Markdown."""
    written = json.loads(path.read_text(encoding="utf-8"))
    runs, settings = written["runs"], written["settings"]
    lines = [
        f"Means of {settings['seeds']} training seeds, ± 95 % over these; {settings['texts']} texts for each.",
        "",
        *detection(runs),
    ]
    return "\n".join(lines) + "\n"


def detection(runs: list[dict[str, Any]]) -> list[str]:
    """The area of each detector, and the area of the head minus it, network by network."""
    lines = [
        "| revealed | detector | passes | area, random errors | own errors | head minus it, random errors | own errors |",
        "| ---: | --- | ---: | ---: | ---: | ---: | ---: |",
    ]
    for revealed, found in runs[0]["detection"].items():
        for name, (passes, *_) in found.items():
            areas = [interval(_areas(runs, revealed, name, k)) for k in range(2)]
            cells = [f"{area.mean:.3f} ± {area.half:.3f}" for area in areas]
            if name == HEAD:
                cells += ["", ""]
            else:
                cells += [f"{d.mean:+.3f} ± {d.half:.3f}" for d in compared(runs, revealed, name)]
            lines.append(f"| {' | '.join([revealed, name, f'{passes:g}', *cells])} |")
    return lines


def compared(runs: list[dict[str, Any]], revealed: str, other: str) -> list[Interval]:
    """The area of a head minus that of another detector on the same texts, for random errors and for own ones."""
    pairs = [(_areas(runs, revealed, HEAD, k), _areas(runs, revealed, other, k)) for k in range(2)]
    return [interval([a - b for a, b in zip(*pair, strict=True)]) for pair in pairs]


def _areas(runs: list[dict[str, Any]], revealed: str, name: str, kind: int) -> list[float]:
    return [run["detection"][revealed][name][1 + kind] for run in runs]
