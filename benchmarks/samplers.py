"""Every sampler where the truth is known: python benchmarks/samplers.py [--quick].

Two Markov chains (few followers for each token, or many), three noises, the exact denoiser and one that is wrong by a known
amount; how far samples are from the data against evaluations of the network. Then what corrections of finished samples are
worth. Prints tables; writes figures, `table.md` and `rows.json` into docs/assets/samplers. About twenty minutes on one core.

With `--methods renoising`, only methods whose names contain this are run, and their lines are put into the tables of
`table.md`: each method has random numbers of its own, so that they are those of a complete run. All else stays as it is.
"""

import argparse
import io
import json
import math
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict
from pathlib import Path

import matplotlib as mpl
import torch

import noiselab as nl
from correction_study import measure_corrections, tabulate_corrections
from noiselab.bench.catalogue import catalogue
from noiselab.bench.figures import plot, table
from noiselab.bench.runner import Row, bench
from noiselab.bench.world import World
from noiselab.denoisers.copy_observed import CopyObserved
from noiselab.denoisers.perturbed import Perturbed
from noiselab.networks.approximate_cache import DualCache, PrefixCache
from noiselab.networks.huggingface import TransformersDenoiser

sys.path.append(str(Path(__file__).parents[1] / "recipes"))
from demo_report.known_world import train_in_world

FOLDER = Path(__file__).parents[1] / "docs" / "assets" / "samplers"
# What draws each token once, and what draws tokens anew; "ancestral" is drawn beside both.
ONCE = (
    "ancestral",
    "ancestral, squared times",
    "tau-leaping",
    "Euler",
    "deterministic",
    "deterministic, half",
    "stopping early",
    "first hitting",
    "least entropy first",
    "entropy-bounded, 0.1",
    "entropy-bounded, 1",
)
AGAIN = (
    "ancestral",
    "remasking",
    "remasking loop",
    "Gibbs",
    "Gibbs at the end",
    "forward-backward",
    "DFM corrector",
    "self-correction",
    "path planning",
    "most confident first",
)
TABLES_ONLY = ("renoising, 0.1", "renoising, 1")
STYLE = {"svg.fonttype": "none", "svg.hashsalt": "noiselab", "font.size": 9}


def perturb_oracle(scale: float, world: World) -> Callable[[nl.InterpolatingProcess], nl.Denoiser]:
    """Makes denoisers that are wrong by so much, and believe what a network for masks believes."""

    def make(process: nl.InterpolatingProcess) -> nl.Denoiser:
        generator = torch.Generator().manual_seed(0)
        return CopyObserved(
            Perturbed(world.oracle(process), scale, vocab_size=process.vocab_size, generator=generator), process
        )

    return make


def run_methods(
    world: World,
    label: str,
    make: Callable[[nl.InterpolatingProcess], nl.Denoiser],
    evaluations: Sequence[int],
    sequences: int,
    wanted: str = "",
) -> list[Row]:
    """All methods under the three noises, or those whose names contain `wanted`."""
    rows: list[Row] = []
    for name, process in world.processes().items():
        start = time.monotonic()
        rows += bench(
            {name: make for name, make in catalogue(process).items() if wanted in name},
            world,
            process,
            make(process),
            evaluations=evaluations,
            sequences=sequences,
            name=name,
            label=label,
        )
        print(f"{world.name} chain, {name}, {label}: {time.monotonic() - start:.0f} s", flush=True)
    return rows


def tabulate_methods(rows: Sequence[Row]) -> str:
    """One line for each method: the gap, and in brackets the total variation of pairs, by budget."""
    lines: list[str] = []
    for place in dict.fromkeys((row.world, row.process, row.denoiser) for row in rows):
        here = [row for row in rows if (row.world, row.process, row.denoiser) == place]
        budgets = sorted({row.budget for row in here})
        floor, error = here[0].pairs_floor, sorted(row.error for row in here)[len(here) // 2]
        lines += [
            f"**{place[0]} chain, {place[1]}, {place[2]}** (gap, nats per token, ± {error:.3f}; in brackets total variation "
            f"of pairs, {floor:.3f} for exact samples)",
            "",
            f"| method | {' | '.join(map(str, budgets))} |",
            f"| --- |{' ---: |' * len(budgets)}",
        ]
        order = {name: place for place, name in enumerate(dict.fromkeys(ONCE + AGAIN + TABLES_ONLY))}
        for method in sorted({row.method for row in here}, key=lambda name: order.get(name, len(order))):
            by_budget = {row.budget: row for row in here if row.method == method}
            cells = [format_cell(by_budget.get(budget)) for budget in budgets]
            lines.append(f"| {method} | {' | '.join(cells)} |")
        lines.append("")
    return "\n".join(lines)


def insert_methods(text: str, more: str) -> str:
    """Tables with the methods of other tables of the same heads, in place of those that are there or at the end."""
    found = split_tables(text)
    for head, rows in split_tables(more).items():
        if head not in found:
            raise ValueError(f"table.md must have a table of {head}; it has {list(found)}")
        title = next(iter(found[head].values()))
        # By the names of columns: a method that ends early has none for the largest numbers of evaluations.
        columns = next(iter(rows.values()))
        new = {
            name: [dict(zip(columns, cells, strict=True)).get(column, "") for column in title]
            for name, cells in rows.items()
            if cells is not columns
        }
        before, after = (format_table(lines) for lines in (found[head], found[head] | new))
        if before not in text:
            raise ValueError(f"table.md must be as this program writes it; the table of {head} is not")
        text = text.replace(before, after, 1)
    return text


def split_tables(text: str) -> dict[str, dict[str, list[str]]]:
    """The cells of each line of the tables of methods, by the name of the table and of the method; first the titles."""
    found: dict[str, dict[str, list[str]]] = {}
    head = ""
    for line in text.splitlines():
        if line.startswith("**"):
            head = line.split("**")[1]
        elif line.startswith("| ") and not line.startswith("| --- |"):
            name, *cells = (cell.strip() for cell in line.removeprefix("|").removesuffix("|").split("|"))
            found.setdefault(head, {})[name] = cells
    return found


def format_table(rows: Mapping[str, Sequence[str]]) -> str:
    """The lines of a table; the first of `rows` has the titles."""
    title, *lines = (f"| {' | '.join([name, *cells])} |" for name, cells in rows.items())
    return "\n".join([title, f"| --- |{' ---: |' * len(next(iter(rows.values())))}", *lines])


def format_cell(row: Row | None) -> str:
    """Gap and pairs, and what it cost if that is not what was aimed at."""
    if row is None:
        return ""
    cost = "" if abs(math.log(row.evaluations / row.budget)) < 0.25 else f" at {row.evaluations:.0f}"
    return f"{row.gap:+.3f} ({row.pairs:.3f}){cost}"


def save_figures(rows: Sequence[Row], name: str, measure: str, folder: Path) -> None:
    """Two figures, the same on every run from the same rows."""
    for kind, methods in (("once", ONCE), ("again", AGAIN)):
        some = sorted((row for row in rows if row.method in methods), key=lambda row: methods.index(row.method))
        save_figure(some, f"{name}_{kind}_{measure}", measure, folder)


def save_figure(rows: Sequence[Row], name: str, measure: str, folder: Path) -> None:
    """A figure, the same on every run from the same rows."""
    with mpl.rc_context(STYLE):
        figure, buffer = plot(rows, measure), io.StringIO()
        figure.savefig(buffer, format="svg", metadata={"Date": None}, facecolor="none")
    (folder / f"{name}.svg").write_text(buffer.getvalue(), encoding="utf-8")


def compare_corrections(world: World, sequences: int, seeds: int) -> str:
    """Tables of what corrections are worth: exact and wrong denoisers, with and without noise that was left."""
    noises = {name: process for name, process in world.processes().items() if name != "uniform"}
    parts = []
    for label, make in (("exact denoiser", world.oracle), ("wrong by 0.5", perturb_oracle(0.5, world))):
        for end in (0.0, 1e-4):
            rows = measure_corrections(world, noises, make, steps=8, end=end, sequences=sequences, seeds=range(seeds))
            left = "no noise is left" if end == 0 else f"noise of t = {end:g} is left"
            parts += [f"**{world.name} chain, {label}, 8 steps, {left}**", "", tabulate_corrections(rows), ""]
    return "\n".join(parts)


def measure_caches(world: World, training_steps: int, steps: Sequence[int], sequences: int) -> list[Row]:
    """Blocks of four by a trained network for masks: what frozen keys and values cost in quality, and save in work."""
    process = world.processes()["masked"]
    trained = train_in_world(world, process, steps=training_steps)
    assert isinstance(trained, TransformersDenoiser)
    kept = {
        "blocks, nothing kept": PrefixCache(trained.model, refresh=1),
        "prefix cache": PrefixCache(trained.model),
        "dual cache": DualCache(trained.model),
    }
    rows = []
    for method, denoiser in kept.items():
        sampler = nl.samplers.BlockSampler(nl.AncestralSampler(process, denoiser), 4)
        for n in steps:
            denoiser.evaluated = 0
            x = sampler.sample((sequences, world.length), steps=n, generator=torch.Generator().manual_seed(0))
            tokens = denoiser.evaluated / x.numel()  # of the network, in units of a whole sequence
            rows.append(
                Row(
                    **asdict(world.measure(x)),
                    world=world.name,
                    process="masked",
                    denoiser="trained network",
                    method=method,
                    budget=n * world.length // 4,
                    steps=n,
                    evaluations=tokens,
                    needed=tokens,
                    sequences=sequences,
                )
            )
    return rows


def run_all(
    worlds: Sequence[World],
    evaluations: Sequence[int],
    fewer: Sequence[int],
    sequences: int,
    *,
    quick: bool,
    wanted: str = "",
) -> tuple[list[Row], list[Row]]:
    """The rows of all methods, or of those whose names contain `wanted`, with the exact denoiser and with wrong ones."""
    exact = [
        row
        for world in worlds
        for row in run_methods(world, "exact denoiser", world.oracle, evaluations, sequences, wanted)
    ]
    # The chain of few followers to the end, where errors are small, and must be distinguished from chance by fewer.
    if not quick:
        many = (256, 512, 1024)
        exact += run_methods(worlds[0], "exact denoiser", worlds[0].oracle, many, sequences // 2, wanted)
    wrong = []
    for scale in (0.5,) if quick else (0.25, 0.5):
        make = perturb_oracle(scale, worlds[0])
        wrong += run_methods(worlds[0], f"wrong by {scale:g}", make, fewer, sequences, wanted)
    return exact, wrong


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="few sequences and evaluations: half a minute")
    parser.add_argument("--out", type=Path, default=FOLDER, help="where figures and tables go")
    parser.add_argument("--methods", default="", help="run only methods whose names contain this, into the tables")
    options = parser.parse_args()
    torch.set_num_threads(1)  # small tensors: more threads would only wait for each other
    start = time.monotonic()
    quick = options.quick
    evaluations, fewer = ((8, 16), (16,)) if quick else ((8, 16, 32, 64, 128), (16, 32, 64))
    sequences = 200 if quick else 2000
    worlds = [World.sharp()] if quick else [World.sharp(), World.soft()]

    exact, wrong = run_all(worlds, evaluations, fewer, sequences, quick=quick, wanted=options.methods)
    if options.methods:
        path = options.out / "table.md"
        text = insert_methods(path.read_text(encoding="utf-8"), f"{tabulate_methods(exact)}\n{tabulate_methods(wrong)}")
        path.write_text(text, encoding="utf-8")
        return
    frozen = measure_caches(worlds[0], 50 if quick else 1000, (2, 4) if quick else (2, 4, 8, 16, 32), sequences)
    study = compare_corrections(worlds[0], sequences // 4, 3 if quick else 10)

    options.out.mkdir(parents=True, exist_ok=True)
    for measure in ("gap", "pairs"):
        for world in worlds:
            save_figures([row for row in exact if row.world == world.name], world.name, measure, options.out)
        save_figures(wrong, "wrong", measure, options.out)
        save_figure(frozen, f"caches_{measure}", measure, options.out)
    text = "\n".join([tabulate_methods(exact), tabulate_methods(wrong), table(frozen), "", study])
    (options.out / "table.md").write_text(text, encoding="utf-8")
    (options.out / "rows.json").write_text(json.dumps([asdict(row) for row in exact + wrong + frozen], indent=1))
    print(text)
    print(f"{time.monotonic() - start:.0f} s; figures and tables are in {options.out}")


if __name__ == "__main__":
    main()
