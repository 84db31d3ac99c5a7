"""The table and the figures of benchmarks/decoders.py, the same on every run from the same rows."""

import io
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import matplotlib as mpl
from matplotlib import pyplot as plt
from matplotlib.ticker import FuncFormatter, LogLocator

from noiselab.bench.figures import GREY, MARKERS, PALETTE
from samplers import STYLE

if TYPE_CHECKING:
    from decoders import DecoderRow

NOISES = {"masked": "masks", "gidd": "hybrid noise", "uniform": "uniform noise"}
# What the figures show; the table has all. Decoders of one kind share a colour.
SHOWN: Mapping[str, tuple[str, ...]] = {
    "masked": (
        "ancestral", "quota, most confident", "confidence", "entropy bound", "confidence, blocks of 8",
        "confidence, sliding blocks of 8", "local maxima", "remasking", "confidence of the drawn token",
        "drafts (most probable)",
    ),
    "gidd": (
        "ancestral", "ancestral, squared times", "ancestral, balanced jumps after", "ancestral, one informed Gibbs move after",
        "renoising, bound 0.1", "renoising, bound 1", "renoising, confidence 0.7", "renoising as in DiffusionGemma",
        "joint thresholds, no edits", "joint thresholds, edits above 0.9",
    ),
    "uniform": (
        "ancestral", "ancestral, squared times", "ancestral, balanced jumps after", "ancestral, one informed Gibbs move after",
        "renoising, bound 0.1", "renoising, bound 1", "renoising, confidence 0.7", "renoising as in DiffusionGemma",
        "committing", "committing, edits above 0.9",
    ),
}  # fmt: skip
_ANY = {
    "ancestral": ("16 steps",),
    "ancestral, squared times": ("32 steps", "16 steps", "8 steps"),
    "ancestral, balanced jumps after": ("16 steps", "8 steps", "4 steps"),
    "ancestral, one informed Gibbs move after": ("8 steps", "4 steps"),
    "renoising, bound 0.1": ("16 steps",),
    "renoising, bound 1": ("16 steps",),
    "renoising, confidence 0.7": ("16 steps",),
    "renoising as in DiffusionGemma": ("48 steps",),
}
# The rows of the short table.
MAIN: Mapping[str, Mapping[str, tuple[str, ...]]] = {
    "masked": {
        "first hitting": ("",),
        "confidence": ("1", "0.7", "0.5"),
        "ancestral": ("16 steps", "8 steps", "4 steps"),
        "remasking": ("16 steps",),
        "quota, most confident": ("2", "4"),
        "entropy bound": ("1", "2"),
        "factor": ("2",),
        "local maxima": ("0.5",),
        "confidence, blocks of 8": ("0.7",),
        "confidence, sliding blocks of 8": ("0.7",),
        "confidence of the drawn token": ("1",),
        "drafts (most probable)": ("0.7",),
    },
    "gidd": {**_ANY, "joint thresholds, edits above 0.9": ("0.7",)},
    "uniform": {**_ANY, "committing, edits above 0.9": ("16 steps",)},
}
COLOURS = (*PALETTE, GREY, "#b8860b", "#8f6fd1", "#44aa99")
MEASURES = {"divergence": "KL from the data, nats per token", "pairs": "total variation of pairs"}
LEGEND = 1.85  # inches below the panels
BOTTOM = {"divergence": 3e-4, "pairs": 4e-3}


def tabulate(rows: Sequence["DecoderRow"], chance: Mapping[str, tuple[float, float]]) -> str:
    """A table for each chain, noise and denoiser."""
    lines: list[str] = []
    for place in dict.fromkeys((row.world, row.noise, row.denoiser) for row in rows):
        here = [row for row in rows if (row.world, row.noise, row.denoiser) == place]
        kl, pairs = chance[place[0]]
        lines += [
            f"**{place[0]} chain, {NOISES[place[1]]}, {place[2]}** ({max(row.sequences for row in here)} sequences; exact "
            f"samples: KL {kl:.4f}, pairs {pairs:.3f})",
            "",
            "| decoder | setting | tokens per forward | KL, nats per token | pairs | gap, nats per token |",
            "| --- | --- | ---: | ---: | ---: | ---: |",
        ]
        first = list(dict.fromkeys(row.decoder for row in here))
        for row in sorted(here, key=lambda row: first.index(row.decoder)):
            one = row.sequences == 1
            cells = [
                row.decoder,
                row.setting,
                f"{row.tokens_per_forward:.2f}",
                f"{row.divergence:.4f}" + ("" if one else f" ± {row.divergence_error:.4f}"),
                f"{row.pairs:.3f}" + ("" if one else f" ± {row.pairs_error:.3f}"),
                f"{row.gap:+.3f}",
            ]
            lines.append(f"| {' | '.join(cells)} |")
        lines.append("")
    return "\n".join(lines)


def summarize(rows: Sequence["DecoderRow"]) -> str:
    """The KL of the rows of `MAIN`, and tokens per forward in brackets, for each chain and denoiser."""
    places = list(dict.fromkeys((row.world, row.denoiser) for row in rows))
    found = {(row.noise, row.decoder, row.setting, row.world, row.denoiser): row for row in rows}
    head = " | ".join(f"{world}, {denoiser.removesuffix(' denoiser')}" for world, denoiser in places)
    lines = [f"| noise | decoder | {head} |", f"| --- | --- |{' ---: |' * len(places)}"]
    for noise, chosen in MAIN.items():
        for decoder, settings in chosen.items():
            for setting in settings:
                here = [found[noise, decoder, setting, *place] for place in places]
                cells = [f"{row.divergence:.3f} ({row.tokens_per_forward:.1f})" for row in here]
                name = f"{decoder}: {setting}" if setting else decoder
                lines.append(f"| {NOISES[noise]} | {name} | {' | '.join(cells)} |")
    return "\n".join([*lines, ""])


def save_figures(rows: Sequence["DecoderRow"], chance: Mapping[str, tuple[float, float]], folder: Path) -> None:
    """A figure for each measure: columns are noises, rows are chains and denoisers."""
    for measure, name in (("divergence", "decoders"), ("pairs", "decoders_pairs")):
        with mpl.rc_context({**STYLE, "font.size": 8}):
            figure = draw(rows, measure, chance)
            buffer = io.StringIO()
            figure.savefig(buffer, format="svg", metadata={"Date": None}, facecolor="none")
            plt.close(figure)
        (folder / f"{name}.svg").write_text(buffer.getvalue(), encoding="utf-8")


def draw(rows: Sequence["DecoderRow"], measure: str, chance: Mapping[str, tuple[float, float]]) -> Any:
    """The panels and, below each column, its legend."""
    noises = [noise for noise in NOISES if any(row.noise == noise for row in rows)]
    places = list(dict.fromkeys((row.world, row.denoiser) for row in rows))
    height = 1.75 * len(places) + LEGEND + 0.2
    figure, axes = plt.subplots(len(places), len(noises), figsize=(8, height), sharex="col", sharey=True, squeeze=False)
    for j, noise in enumerate(noises):
        for i, place in enumerate(places):
            axis, floor = axes[i, j], chance[place[0]][measure == "pairs"]
            _panel(axis, [r for r in rows if r.noise == noise and (r.world, r.denoiser) == place], noise, measure)
            axis.axhspan(BOTTOM[measure], max(floor, BOTTOM[measure]), color=GREY, alpha=0.2, lw=0)
            axis.set_ylim(BOTTOM[measure], {"divergence": 4, "pairs": 1.1}[measure])
            if j == 0:
                axis.set_ylabel(f"{place[0]} chain,\n{place[1]}", color=GREY)
        axes[0, j].set_title(NOISES[noise], color=GREY, fontsize=10)
        axes[-1, j].set_xlabel("tokens per forward", color=GREY)
    figure.suptitle(MEASURES[measure], color=GREY, fontsize=9)
    figure.tight_layout(rect=(0, LEGEND / height, 1, 1), h_pad=0.6, w_pad=0.6)
    for j in range(len(noises)):
        box = axes[-1, j].get_position()
        figure.legend(
            *axes[0, j].get_legend_handles_labels(), loc="upper left", bbox_to_anchor=(box.x0 - 0.02, LEGEND / height),
            frameon=False, fontsize=7.5, labelcolor=GREY, handlelength=1.8, borderaxespad=0,
        )  # fmt: skip
    return figure


def _panel(axis: Any, rows: Sequence["DecoderRow"], noise: str, measure: str) -> None:
    """A line for each decoder, with intervals."""
    for k, name in enumerate(SHOWN[noise]):
        some = sorted((row for row in rows if row.decoder == name), key=lambda row: row.tokens_per_forward)
        y = [max(getattr(row, measure), 1.15 * BOTTOM[measure]) for row in some]
        error = [getattr(row, f"{measure}_error") for row in some]
        below = [min(e, v - BOTTOM[measure] / 2) for e, v in zip(error, y, strict=True)]
        axis.errorbar(
            [row.tokens_per_forward for row in some], y, yerr=(below, error), color=COLOURS[k],
            marker=MARKERS[k], ms=4, lw=1.1, elinewidth=0.8,
            label=name.replace("one informed Gibbs move", "informed Gibbs"),
        )  # fmt: skip
    axis.set(xscale="log", yscale="log")
    axis.xaxis.set_major_locator(LogLocator(2, numticks=20))
    axis.xaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
    axis.yaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
    axis.minorticks_off()
    axis.tick_params(colors=GREY, labelsize=7.5)
    axis.spines[["top", "right"]].set_visible(False)
    axis.spines[["left", "bottom"]].set_color(GREY)
    axis.grid(color=GREY, alpha=0.2, lw=0.5)
