"""Decoders of masked models where the truth is known: python benchmarks/decoders.py [--quick].

Each rule of `ThresholdSampler` at several settings, on two Markov chains (few followers for each token, or many), with the
exact denoiser and one that is wrong by a known amount: how far drawn sequences are from the data against tokens per forward.
Prints a table; writes it and figures into docs/assets/decoders. About ten minutes on one core.
"""

import argparse
import io
import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import matplotlib as mpl
from matplotlib import pyplot as plt

import noiselab as nl
from noiselab.bench.catalogue import OnGrid
from noiselab.bench.figures import LINES, MARKERS, PALETTE
from noiselab.bench.runner import Factory, Row, bench
from noiselab.bench.world import World
from noiselab.samplers import (
    AncestralSampler,
    ConfidenceThreshold,
    EntropyBound,
    EntropyThreshold,
    Factor,
    LocalMaxima,
    Quota,
    StableConfidence,
    ThresholdSampler,
    even_grid,
)
from samplers import STYLE, perturb_oracle

FOLDER = Path(__file__).parents[1] / "docs" / "assets" / "decoders"
LENGTH = 32
DECODERS: Mapping[str, Mapping[str, Callable[[], Any]]] = {
    "quota, most confident": {f"{n}": lambda n=n: Quota(n) for n in (1, 2, 4, 8)},
    "confidence": {f"{p}": lambda p=p: ConfidenceThreshold(p) for p in (1, 0.9, 0.8, 0.7, 0.5)},
    "confidence of the drawn token": {
        f"{p}": lambda p=p: ConfidenceThreshold(p, confidence="proposed") for p in (1, 0.9, 0.8, 0.7, 0.5)
    },
    "entropy": {f"{h}": lambda h=h: EntropyThreshold(h) for h in (0, 0.4, 0.7, 1.0, 1.5)},
    "entropy bound": {f"{h}": lambda h=h: EntropyBound(h) for h in (0, 0.5, 1, 2, 4)},
    "factor": {f"{f}": lambda f=f: Factor(f) for f in (0, 0.5, 1, 2, 3)},
    "local maxima": {f"{p}": lambda p=p: LocalMaxima(p, max(p, 0.9)) for p in (0.9, 0.7, 0.5, 0.3)},
    "stable": {f"{p}": lambda p=p: StableConfidence(0.05, p) for p in (0.95, 0.8, 0.5)},
}
"""The decoders by name, each with its settings."""
STEPS = (32, 16, 8, 4)  # of the ancestral sampler, for comparison


def factories() -> dict[str, Factory]:
    """Every decoder at every setting, with the steps that it needs."""

    def make(rule: Callable[[], Any]) -> Factory:
        return lambda p, d: OnGrid(ThresholdSampler(p, d, rule(), draw=True), lambda p, steps: even_grid(p, LENGTH))

    found = {f"{name}, {setting}": make(rule) for name, rules in DECODERS.items() for setting, rule in rules.items()}
    for steps in STEPS:
        found[f"ancestral, {steps}"] = lambda p, d, n=steps: OnGrid(
            AncestralSampler(p, d), lambda p, steps: even_grid(p, n)
        )
    return found


def family(row: Row) -> str:
    """The name of the decoder without its setting."""
    return row.method.rpartition(", ")[0]


def divergence(row: Row) -> float:
    """KL(samples || data) per token of a chain with the pairs of the samples: at most that of the samples, but for noise."""
    return row.gap - row.entropy


def tabulate(rows: Sequence[Row]) -> str:
    """A table for each world and denoiser."""
    lines: list[str] = []
    for place in dict.fromkeys((row.world, row.denoiser) for row in rows):
        here = [row for row in rows if (row.world, row.denoiser) == place]
        lines += [
            f"**{place[0]} chain, {place[1]}** ({here[0].sequences} sequences of {LENGTH} tokens; "
            f"total variation of pairs of exact samples {here[0].pairs_floor:.3f})",
            "",
            "| decoder, setting | tokens per forward | KL from the data, nats per token | gap, nats per token | pairs |",
            "| --- | ---: | ---: | ---: | ---: |",
        ]
        for row in here:
            gap = f"{row.gap:+.3f} ± {row.error:.3f}"
            cells = [row.method, f"{LENGTH / row.needed:.2f}", f"{divergence(row):.3f}", gap, f"{row.pairs:.3f}"]
            lines.append(f"| {' | '.join(cells)} |")
        lines.append("")
    return "\n".join(lines)


def save_figure(rows: Sequence[Row], folder: Path) -> None:
    """Divergence and pairs against tokens per forward, the same on every run from the same rows."""
    places = list(dict.fromkeys((row.world, row.denoiser) for row in rows))
    with mpl.rc_context(STYLE):
        figure, axes = plt.subplots(
            2, len(places), figsize=(3.2 * len(places), 6), sharex=True, sharey="row", squeeze=False
        )
        for place, column in zip(places, axes.T, strict=True):
            here = [row for row in rows if (row.world, row.denoiser) == place]
            for k, name in enumerate(dict.fromkeys(map(family, here))):
                some = sorted((row for row in here if family(row) == name), key=lambda row: -row.needed)
                x = [LENGTH / row.needed for row in some]
                style: dict[str, Any] = {
                    "color": PALETTE[k % len(PALETTE)], "marker": MARKERS[k % len(MARKERS)], "ms": 4, "lw": 1,
                    "ls": LINES[k // len(PALETTE)], "label": name,
                }  # fmt: skip
                column[0].plot(x, [max(divergence(row), 1e-4) for row in some], **style)
                column[1].plot(x, [row.pairs for row in some], **style)
            column[0].set(title=f"{place[0]} chain, {place[1]}", xscale="log", yscale="log")
            column[1].axhline(here[0].pairs_floor, color="#808080", lw=0.8, ls=":")
            column[1].set(xlabel="tokens per forward", yscale="log")
        axes[0, 0].set_ylabel("KL from the data, nats per token")
        axes[1, 0].set_ylabel("total variation of pairs")
        figure.legend(*axes[0, 0].get_legend_handles_labels(), loc="outside lower center", ncols=5, frameon=False)
        figure.tight_layout(rect=(0, 0.07, 1, 1))
        buffer = io.StringIO()
        figure.savefig(buffer, format="svg", metadata={"Date": None}, facecolor="none")
        plt.close(figure)
    (folder / "decoders.svg").write_text(buffer.getvalue(), encoding="utf-8")


def main() -> None:
    """Run all, print and write."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--quick", action="store_true", help="few sequences")
    parser.add_argument("--sequences", type=int, default=2000)
    parser.add_argument("--folder", type=Path, default=FOLDER)
    options = parser.parse_args()
    sequences = 200 if options.quick else options.sequences
    rows: list[Row] = []
    for world in (World.sharp(length=LENGTH), World.soft(length=LENGTH)):
        process = nl.masked(vocab_size=world.states + 1, mask_id=world.states)
        for label, make in (("exact denoiser", world.oracle), ("wrong by 0.5", perturb_oracle(0.5, world))):
            rows += bench(
                factories(), world, process, make(process), evaluations=(LENGTH,), sequences=sequences, name="masked",
                label=label,
            )  # fmt: skip
            print(f"{world.name} chain, {label}: {len(rows)} rows", flush=True)
    text = tabulate(rows)
    print(text)
    options.folder.mkdir(parents=True, exist_ok=True)
    (options.folder / "table.md").write_text(text, encoding="utf-8")
    (options.folder / "rows.json").write_text(json.dumps([asdict(row) for row in rows]), encoding="utf-8")
    save_figure(rows, options.folder)


if __name__ == "__main__":
    main()
