"""Tables and figures of the sampler benchmark."""

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from ..plotting import COLOURS, KEPT
from .runner import Row

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

GREY = "#808080"  # legible on white and on black
PALETTE = (KEPT, *(colour for colour in COLOURS if colour not in ("#f0e442", "#999999")), "#56b4e9")
MARKERS, LINES = "osD^vPX*<>", ("-", "--", ":")


def table(rows: Sequence[Row]) -> str:
    """The rows as Markdown tables, one for each world, process and denoiser."""
    lines: list[str] = []
    before = None
    for row in rows:
        place = (row.world, row.process, row.denoiser)
        if place != before:
            lines += [*([""] if lines else []), f"**{row.world} chain, {row.process}, {row.denoiser}**", "", *HEAD]
            before = place
        gap = f"{row.gap:+.4f} ± {row.error:.4f}" if not math.isnan(row.error) else f"{row.gap:+.4f}"
        cells = [
            row.method,
            f"{row.steps}",
            f"{row.evaluations:.1f}",
            f"{row.needed:.1f}",
            gap,
            f"{row.entropy:+.3f}",
            f"{row.pairs:.3f} ({row.pairs_floor:.3f})",
            f"{row.triples:.3f} ({row.triples_floor:.3f})",
            f"{row.forbidden:.2%}",
        ]
        if row.residue:
            cells[-1] += f", {row.residue:.2%} of the tokens are no data"
        if not math.isnan(row.pvalue):
            cells[-1] += f", p = {row.pvalue:.3g}"
        lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines)


HEAD = (
    "| method | steps | evaluations | needed | gap, nats per token | entropy | pairs (floor) | triples (floor) | forbidden |",
    "| --- | ---: | ---: | ---: | ---: | ---: | ---: | ---: | ---: |",
)
MEASURES = {
    "gap": "nats per token less likely than the data",
    "pairs": "total variation of pairs",
    "triples": "total variation of triples",
    "forbidden": "share of forbidden transitions",
}


COSTS = {"evaluations": "evaluations of the network", "needed": "evaluations that a sequence needs"}


def plot(rows: Sequence[Row], measure: str = "gap", *, cost: str = "evaluations") -> "Figure":
    """Plot a measure against its cost, both logarithmic, with one panel for each world and process.

    Hollow points have a negative gap: their samples are more likely than the data. The grey area is below the
    resolution of this number of samples.

    **Arguments:**

    - `rows`: the result of `bench`, or several results concatenated.
    - `measure`: "gap", "pairs", "triples" or "forbidden".
    - `cost`: "evaluations", as counted in a batch, or "needed", those of a sequence sampled alone.

    **Returns:** a `matplotlib.figure.Figure` with a transparent background, legible on white and on black.

    **Raises:** `ValueError` for an unknown measure or cost, or if there are no rows.
    """
    from matplotlib.figure import Figure

    if measure not in MEASURES or cost not in COSTS or not rows:
        raise ValueError(
            f"measure must be one of {tuple(MEASURES)}, cost one of {tuple(COSTS)}, of at least one row; got {measure!r}, "
            f"{cost!r}, {len(rows)} rows"
        )
    worlds = list(dict.fromkeys((row.world, row.denoiser) for row in rows))
    processes = list(dict.fromkeys(row.process for row in rows))
    methods = list(dict.fromkeys(row.method for row in rows))
    figure = Figure(figsize=(1 + 3.2 * len(processes), 1.2 + 2.6 * len(worlds)), layout="constrained", facecolor="none")
    axes = figure.subplots(len(worlds), len(processes), sharex=True, sharey="row", squeeze=False)
    for line, (world, denoiser) in zip(axes, worlds, strict=True):
        beside = [row for row in rows if (row.world, row.denoiser) == (world, denoiser)]
        bottom = _bottom(beside, measure)
        for axis, process in zip(line, processes, strict=True):
            here = [row for row in beside if row.process == process]
            _panel(axis, here, methods, measure, cost, bottom)
            title = f"{world} chain, {process}, {denoiser}" if len(worlds) > 1 else process
            axis.set_title(title, fontsize=9, color=GREY)
    for axis in axes[-1]:
        axis.set_xlabel(COSTS[cost], fontsize=8, color=GREY)
    figure.supylabel(MEASURES[measure], fontsize=9, color=GREY)
    handles: dict[str, Any] = {}
    for axis in axes.flat:
        handles |= dict(zip(*reversed(axis.get_legend_handles_labels()), strict=True))
    for handle in handles.values():
        handle.set_markersize(4.5)
    figure.legend(
        [handles[method] for method in methods if method in handles],
        [method for method in methods if method in handles],
        loc="outside lower center",
        ncols=min(4, len(methods)),
        fontsize=8,
        frameon=False,
        labelcolor=GREY,
    )
    return figure


def _panel(axis: "Axes", rows: Sequence[Row], methods: Sequence[str], measure: str, cost: str, bottom: float) -> None:
    from matplotlib.ticker import FuncFormatter, LogLocator

    axis.set_facecolor("none")
    axis.set(xscale="log", yscale="log")
    for i, method in enumerate(methods):
        mine = [row for row in rows if row.method == method and math.isfinite(getattr(row, measure))]
        if not mine:
            continue
        colour, marker = PALETTE[i % len(PALETTE)], MARKERS[i % len(MARKERS)]
        x, value = [getattr(row, cost) for row in mine], [getattr(row, measure) for row in mine]
        y = [max(abs(v), 1.2 * bottom) for v in value]
        line = LINES[i // len(PALETTE) % len(LINES)]
        axis.plot(x, y, ls=line, lw=1.8 if i == 0 else 1.1, color=colour, marker=marker, ms=0, label=method)
        above, below = ([j for j, v in enumerate(value) if (v < 0) == sign] for sign in (False, True))
        for face, some in ((colour, above), ("none", below)):
            points: dict[str, Any] = {"ls": "", "marker": marker, "ms": 4.5, "color": colour, "mfc": face, "zorder": 3}
            axis.plot([x[j] for j in some], [y[j] for j in some], **points)
        if measure == "gap":
            ends = [[max(abs(row.gap) + k * row.error, 1.2 * bottom) for row in mine] for k in (-1, 1)]
            axis.vlines(x, ends[0], ends[1], color=colour, lw=1)
    axis.set_ylim(bottom=bottom)
    axis.axhspan(bottom, max(_floor(rows, measure), bottom), color=GREY, alpha=0.15, lw=0)
    ticks = sorted({row.budget for row in rows})
    axis.set_xticks(ticks, [str(tick) for tick in ticks])
    axis.yaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
    axis.yaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
    axis.minorticks_off()
    axis.tick_params(colors=GREY, labelsize=8)
    axis.spines[["top", "right"]].set_visible(False)
    axis.spines[["left", "bottom"]].set_color(GREY)
    axis.grid(color=GREY, alpha=0.2, lw=0.5)


def _bottom(rows: Sequence[Row], measure: str) -> float:
    """The lower end of the axis: gaps far below the resolution are not shown."""
    floor, values = _floor(rows, measure), [abs(getattr(row, measure)) for row in rows]
    positive = [value for value in values if 0 < value < math.inf]
    return floor / 4 if measure == "gap" and floor else 0.8 * min([*positive, floor or 1.0])


def _floor(rows: Sequence[Row], measure: str) -> float:
    """The resolution: the average over exact samples of the same number, or two standard errors."""
    if measure == "gap":
        errors = sorted(row.error for row in rows if not math.isnan(row.error))
        return 2 * errors[len(errors) // 2] if errors else 0.0
    floors = {"pairs": [row.pairs_floor for row in rows], "triples": [row.triples_floor for row in rows]}
    return max(floors.get(measure, []), default=0.0)
