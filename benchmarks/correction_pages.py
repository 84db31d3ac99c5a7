"""The pages of benchmarks/correction_table.py, from its rows: the table, and the sentences that name its numbers."""

import json
import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from noiselab.bench.corrections import CorrectionSummary, tabulate_corrections
from noiselab.evaluation.intervals import Interval
from noiselab.files import write_text

LAW = ("gap", "divergence", "pairs")
SHOWN = (
    "GIDD, as published",
    "GIDD, one token",
    "GIDD, two tokens",
    "informed Gibbs, 2 moves",
    "balanced",
    "balanced, temperature 0.7",
    "balanced, temperature 0.5",
)

KINDS = {  # methods of each kind, on trained networks: the noise, the denoiser, the method
    "balanced jumps (the recommended rule)": ("gidd", "trained", "balanced, temperature 0.7"),
    "GIDD's rule, two tokens": ("gidd", "trained", "GIDD, two tokens"),
    "edits by threshold, 0.5": ("gidd", "trained", "edits by threshold, 0.5"),
    "edits by threshold, 0.9": ("gidd", "trained", "edits by threshold, 0.9"),
    "generated again, joint thresholds": ("gidd", "trained", "joint thresholds (LLaDA2.1)"),
    "quality head": ("masked", "trained to correct", "quality head (PRISM), 5 % alarms"),
    "draft corrector": ("masked", "trained to correct", "draft corrector (ProSeCo)"),
    "generated again, ProSeCo's sampler": (
        "masked",
        "trained to correct",
        "draft sampler (ProSeCo), on ProSeCo's network",
    ),
    "balanced jumps, one by one": ("masked", "trained, each token masked in turn", "balanced, temperature 0.7"),
    "backspaces, one reading": ("edit", "trained", "backspaces, one reading, 5 % alarms"),
    "backspace, then written on": ("edit", "trained", "backspace, then written on from there"),
    "written anew, with backspaces": ("edit", "trained", "written anew, with backspaces"),
}


def as_text(content: Mapping) -> str:
    """The content as JSON, a row in each line, with five digits; NaN is null."""

    def short(part: Any) -> Any:
        if isinstance(part, Mapping):
            return {name: short(value) for name, value in part.items()}
        if isinstance(part, list):
            return [short(value) for value in part]
        if isinstance(part, float):
            return None if math.isnan(part) else round(part, 5)
        return part

    return json.dumps(short(content), separators=(",", ":")).replace('},{"noise', '},\n{"noise') + "\n"


def read_rows(path: Path) -> tuple[list[CorrectionSummary], dict]:
    """The rows of a run, and its settings."""
    written = json.loads(path.read_text(encoding="utf-8"))
    rows = []
    for row in written["rows"]:
        measures = {name: _interval(**value) for name, value in row.pop("measures").items()}
        rows.append(CorrectionSummary(**row, measures=measures))
    return rows, written["settings"]


def _interval(mean: float | None, half: float | None) -> Interval:
    return Interval(*(math.nan if value is None else value for value in (mean, half)))


def write_pages(rows: list[CorrectionSummary], settings: Mapping, folder: Path) -> None:
    """The table, and the sentences that name its numbers."""
    write_text(folder / "table.md", tabulate_corrections(rows) + "\n")
    write_text(folder / "answer.md", answer(rows, settings))


def answer(rows: list[CorrectionSummary], settings: Mapping) -> str:
    """What the trained networks say about each rule: the rows of one size of correction beside each other."""
    found = {(row.noise, row.denoiser, row.method): row.measures for row in rows}
    lines = [
        f"Samples of 8 steps of small networks ({settings['training_steps']} training steps), before and after; means of "
        f"{settings['seeds']} training seeds, ± 95 % over these:",
        "",
        "| noise | method | gap, nats per token | KL, nats per token | pairs, TV | evaluations |",
        "| --- | --- | ---: | ---: | ---: | ---: |",
    ]
    noises = [noise for noise in ("gidd", "uniform") if (noise, "trained", SHOWN[0]) in found]
    for noise in noises:
        first = found[noise, "trained", SHOWN[0]]
        lines.append(_line(noise, "before", *(first[f"before_{name}"] for name in LAW), None))
        for method in SHOWN:
            one = found[noise, "trained", method]
            lines.append(_line(noise, method, *(one[name] for name in LAW), one["evaluations"]))
    nearest = []
    for noise in noises:
        own = {method: measures for (*place, method), measures in found.items() if place == [noise, "trained"]}
        best = min(own, key=lambda method: own[method]["divergence"].mean)
        nearest.append(
            f"{noise}: {best} ({own[best]['divergence'].mean:.3f} nats, {own[best]['evaluations'].mean:.1f})"
        )
    lines += ["", f"Smallest divergence of all methods, and its evaluations: {'; '.join(nearest)}."]
    return "\n".join([*lines, *kinds(found)]) + "\n"


def kinds(found: Mapping[tuple[str, str, str], Mapping[str, Interval]]) -> list[str]:
    """A table with one method of each kind of correction; nothing if a run has left some out."""
    if not all(place in found for place in KINDS.values()):
        return []
    lines = [
        "",
        "One method of each kind, on trained networks (KL and pairs before and after; each noise has samples of its own):",
        "",
        "| noise | correction | area under ROC | wrong → right | right → wrong | KL, nats per token | pairs, TV "
        "| evaluations |",
        "| --- | --- | ---: | ---: | ---: | ---: | ---: | ---: |",
    ]
    for name, place in KINDS.items():
        one = found[place]
        cells = [place[0], name, f"{one['area'].mean:.3f} ± {one['area'].half:.3f}"]
        for share in ("mended", "harmed"):
            value = one[share]
            cells.append("–" if math.isnan(value.mean) else f"{value.mean:.1%} ± {value.half:.1%}")
        for law in ("divergence", "pairs"):
            cells.append(f"{one[f'before_{law}'].mean:.3f} → {one[law].mean:.3f} ± {one[law].half:.3f}")
        cells.append(f"{one['evaluations'].mean:.1f}")
        lines.append(f"| {' | '.join(cells)} |")
    return lines


def _line(noise: str, method: str, gap: Interval, kl: Interval, pairs: Interval, evaluations: Interval | None) -> str:
    cells = [noise, method, f"{gap.mean:+.3f} ± {gap.half:.3f}"]
    cells += [f"{value.mean:.3f} ± {value.half:.3f}" for value in (kl, pairs)]
    return f"| {' | '.join([*cells, '' if evaluations is None else f'{evaluations.mean:.1f}'])} |"
