"""The tables, the figure and the sentences of docs/studies/what_the_bound_does_not_see.md, from the rows of the networks."""

import io
import json
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import matplotlib as mpl
from matplotlib import pyplot as plt

from noiselab.bench.figures import GREY, MARKERS, PALETTE
from noiselab.evaluation.intervals import Interval, interval
from noiselab.files import write_text

from .world import NOISES

Row = Mapping[str, Any]
NAMES = {"masks": "masks", "uniform": "uniform"}
FEW = "8"
"""The number of steps of the second panel."""
MEASURES: Mapping[str, Callable[[Row], float]] = {
    "bound": lambda row: row["bound"],
    "samples": lambda row: row["limit"],
    "slack": lambda row: row["bound"] - row["limit"],
    "few": lambda row: row["steps"][FEW],
}


def write_page(out: Path, assets: Path) -> list[dict[str, Any]]:
    """Write rows.json, table.md, answer.md and unseen.svg.

    **Arguments:**

    - `out`: the files of networks; they are added to the rows that `assets` has.
    - `assets`: the folder of the documentation.
    """
    found = {place_of(row): row for row in read_rows(assets)}
    for path in sorted(out.glob("*.json")) if out.is_dir() else []:
        row = json.loads(path.read_text(encoding="utf-8"))
        found[place_of(row)] = rounded(row)
    rows = [found[place] for place in sorted(found)]
    write_text(assets / "rows.json", "[\n" + ",\n".join(json.dumps(row) for row in rows) + "\n]\n")
    write_text(assets / "table.md", tabulate(rows))
    write_text(assets / "answer.md", answer(rows))
    write_text(assets / "unseen.svg", draw(rows))
    return rows


def read_rows(assets: Path) -> list[dict[str, Any]]:
    """The rows that the documentation has."""
    path = assets / "rows.json"
    return json.loads(path.read_text(encoding="utf-8")) if path.is_file() else []


def place_of(row: Row) -> tuple[int, int, int]:
    """The place of a row among others: width, noise, seed."""
    return row["width"], NOISES.index(row["noise"]), row["seed"]


def rounded(part: Any) -> Any:
    """Numbers with six digits behind the point."""
    if isinstance(part, dict):
        return {name: rounded(value) for name, value in part.items()}
    return round(part, 6) if isinstance(part, float) else part


def name_of(noise: str) -> str:
    """How the page calls a noise."""
    return NAMES.get(noise, f"hybrid, {noise}")


def group(rows: Sequence[Row]) -> dict[tuple[int, str], list[Row]]:
    """The rows of each width and noise, by seed."""
    found: dict[tuple[int, str], list[Row]] = {}
    for row in sorted(rows, key=lambda row: row["seed"]):
        found.setdefault((row["width"], row["noise"]), []).append(row)
    return found


def mean_of(rows: Sequence[Row], measure: str) -> Interval:
    """The mean of a measure over training seeds."""
    return interval([MEASURES[measure](row) for row in rows])


def compare(rows: Sequence[Row], others: Sequence[Row], measure: str) -> Interval:
    """The difference to others of the same seeds: trained on the same texts, from the same first weights."""
    pairs = zip(rows, others, strict=True)
    return interval([MEASURES[measure](row) - MEASURES[measure](other) for row, other in pairs])


def tabulate(rows: Sequence[Row]) -> str:
    """Excess in nats per token of every width and noise, and the paired difference to masks."""
    groups = group(rows)
    head = ["width", "noise", "bound", "samples, many steps", "not seen by the bound", "samples, 8 steps"]
    head += ["bound, to masks", "samples, to masks", "8 steps, to masks"]
    lines = [f"| {' | '.join(head)} |", "| ---: | --- | ---: | ---: | ---: | ---: | ---: | ---: | ---: |"]
    for (width, noise), here in groups.items():
        values = [mean_of(here, name) for name in ("bound", "samples", "slack", "few")]
        share = values[2].mean / values[0].mean
        cells = [f"{value.mean:.4f} ± {value.half:.4f}" for value in values]
        cells[2] += f" ({100 * share:.0f} %)"
        masks = groups.get((width, "masks"))
        for name in ("bound", "samples", "few"):
            cells.append("" if noise == "masks" or not masks else str(compare(here, masks, name)))
        lines.append(f"| {width} | {name_of(noise)} | {' | '.join(cells)} |")
    return "\n".join(lines) + "\n"


def answer(rows: Sequence[Row]) -> str:
    """How many noises each measure tells apart from masks, for each width."""
    groups, lines = group(rows), []
    for width in sorted({width for width, _ in groups}):
        noises = [noise for noise in NOISES if (width, noise) in groups and noise != "masks"]
        for measure, words in (
            ("bound", "By the bound"),
            ("samples", "By the samples of many steps"),
            ("few", "By those of 8 steps"),
        ):
            better, worse, open_ = [], [], []
            for noise in noises:
                value = compare(groups[width, noise], groups[width, "masks"], measure)
                clear = abs(value.mean) > value.half
                (open_ if not clear else better if value.mean < 0 else worse).append(name_of(noise))
            parts = [
                f"{', '.join(names)} {words}"
                for names, words in ((better, "better than masks"), (worse, "worse"), (open_, "not told apart"))
                if names
            ]
            lines.append(f"- Width {width}. {words}: {'; '.join(parts)}.")
    return "\n".join(lines) + "\n"


def draw(rows: Sequence[Row]) -> str:
    """Two panels of the excess against that of the bound: a colour for each noise, a marker for each width."""
    with mpl.rc_context({"svg.hashsalt": "noiselab", "font.size": 9}):
        figure, panels = plt.subplots(1, 2, figsize=(9, 4.2), sharex=True)
        colours = dict(zip(NOISES, (GREY, *PALETTE), strict=False))
        widths = sorted({row["width"] for row in rows})
        for panel, measure, title in zip(panels, ("samples", "few"), ("many steps", "8 steps"), strict=True):
            for row in rows:
                panel.plot(
                    row["bound"],
                    MEASURES[measure](row),
                    MARKERS[widths.index(row["width"])],
                    color=colours[row["noise"]],
                    markersize=5,
                    markeredgecolor="white",
                    markeredgewidth=0.4,
                )
            low, high = min(row["bound"] for row in rows), max(row["bound"] for row in rows)
            panel.plot([low, high], [low, high], color="#888888", linewidth=0.8, zorder=0)
            panel.set(
                xscale="log", yscale="log", xlabel="excess of the bound, nats per token", title=f"samples of {title}"
            )
        panels[0].set_ylabel("excess of the samples (KL), nats per token")
        marks: list[Any] = [
            plt.Line2D([], [], marker="o", linestyle="", color=colours[noise], label=name_of(noise)) for noise in NOISES
        ]
        marks += [
            plt.Line2D([], [], marker=MARKERS[k], linestyle="", color="#555555", label=f"width {width}")
            for k, width in enumerate(widths)
        ]
        figure.legend(handles=marks, loc="lower center", ncols=9, frameon=False, columnspacing=1.0, handletextpad=0.2)
        figure.tight_layout(rect=(0, 0.07, 1, 1))
        written = io.StringIO()
        figure.savefig(written, format="svg", metadata={"Date": None})
        plt.close(figure)
    return "\n".join(line.rstrip() for line in written.getvalue().splitlines()) + "\n"
