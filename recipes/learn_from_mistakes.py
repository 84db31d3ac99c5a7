"""Does training on mistakes and backspaces help? Accuracy on problems, by kind and rate of mistakes.

    python recipes/learn_from_mistakes.py demo                       # one CPU core: 20 minutes per arm
    python recipes/learn_from_mistakes.py demo --only "error-free" "retry 0.5" --seeds 1 2 3
    python recipes/learn_from_mistakes.py medium --parallel 16       # on a GPU, all arms in parallel
    python recipes/learn_from_mistakes.py demo --help                # all fields

Every arm is the same Llama, trained on the same number of tokens; an arm with mistakes therefore sees fewer problems. All arms
are tested on the same problems, some of which have more operations than the training problems. Finished arms are not trained
again. The table is printed and written to OUTPUT/table.json with all verdicts; its plot is OUTPUT/accuracy.png.
"""

from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from noiselab.evaluation import Interval, interval, paired_difference
from noiselab.files import new_file, write_json
from noiselab.training.options import command_line, run_recipe
from problems.measures import DIFFUSION, measure_arms
from problems.models import ARMS, PRESETS


def main(arguments: Sequence[str] | None = None) -> list[dict[str, Any]]:
    """Train the missing arms, evaluate, and write the table; returns its rows."""
    options = command_line(PRESETS, arguments)
    unknown = sorted(set(options.only) - set(ARMS))
    if unknown or not options.only or not options.seeds:
        raise ValueError(
            f"only must be among {list(ARMS)}, and there must be seeds; got {unknown or options.only}, {options.seeds}"
        )
    if options.parallel < 1:
        raise ValueError(f"parallel must be at least 1; got {options.parallel}")
    reference: dict[int, dict[str, list[bool]]] = {}
    rows: list[dict[str, Any]] = []
    for row in measure_arms(
        options, dict.fromkeys(("error-free", *options.only, *(DIFFUSION if options.gidd else ())))
    ):
        for cell, found in row["cells"].items():
            right = found["verdicts"]
            found["gain"] = asdict(
                paired_difference(right, reference.setdefault(row["seed"], {}).setdefault(cell, right))
            )
        rows.append(row)
        shares = ", ".join(f"{cell} {found['right']:.1%}" for cell, found in row["cells"].items())
        print(f"{row['arm']}, seed {row['seed']}: {shares}", flush=True)
        write_json(options.run.output / "table.json", {"rows": rows})
    print("\n" + tabulate_arms(rows))
    plot_accuracies(rows, options.run.output / "accuracy.png")
    return rows


def tabulate_arms(rows: list[dict[str, Any]]) -> str:
    """The rows as a Markdown table: means over seeds, with 95 % intervals over seeds, or over problems for one seed.

    Retries and unnecessary steps are those of right solutions, and empty if there are none.
    """
    cells = list(rows[0]["cells"])
    hardest = cells[-1]
    lines = [
        f"| arm | {' | '.join(cells)} | gain at {hardest} | retries, as in training | retries, {hardest} | unnecessary steps |",
        f"| --- | {' | '.join(['---:'] * (len(cells) + 4))} |",
    ]
    for name in dict.fromkeys(row["arm"] for row in rows):
        own = [row["cells"] for row in rows if row["arm"] == name]
        shares = [format_share([cell[c]["right"] for cell in own], own[0][c]) for c in cells]
        gains = [cell[hardest]["gain"] for cell in own]
        gain = interval([g["mean"] for g in gains]) if len(gains) > 1 else Interval(**gains[0])
        counts = [mean_of_solved(own, *what) for what in ((cells[0], "retries"), (hardest, "retries"))]
        counts.append(mean_of_solved(own, hardest, "unnecessary"))
        said = [
            *shares,
            f"{100 * gain.mean:+.1f} ± {100 * gain.half:.1f}",
            *("" if count is None else f"{count:.2f}" for count in counts),
        ]
        lines.append(f"| {name} | {' | '.join(said)} |")
    lines += [
        "",
        "± is over seeds; of an arm with one seed it is over problems, and does not cover another training run.",
    ]
    return "\n".join(lines)


def mean_of_solved(runs: list[dict[str, Any]], cell: str, measure: str) -> float | None:
    """The mean over runs of a count in right solutions; runs that solve nothing are left out."""
    found = [run[cell][measure] for run in runs if run[cell]["right"] > 0]
    return sum(found) / len(found) if found else None


def format_share(shares: list[float], only: dict[str, Any]) -> str:
    """A share in per cent with its 95 % interval."""
    if len(shares) > 1:
        found = interval(shares)
        return f"{100 * found.mean:.1f} ± {100 * found.half:.1f}"
    return f"{100 * only['right']:.1f} ({100 * only['low']:.1f} to {100 * only['high']:.1f})"


def plot_accuracies(rows: list[dict[str, Any]], file: Path) -> None:
    """Plot accuracy against the number of operations, one line per arm."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    cells = list(rows[0]["cells"])
    figure = Figure(figsize=(8, 5), layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.subplots()
    for number, name in enumerate(dict.fromkeys(row["arm"] for row in rows)):
        own = [row["cells"] for row in rows if row["arm"] == name]
        shares = [[100 * cell[c]["right"] for cell in own] for c in cells]
        means = [sum(share) / len(share) for share in shares]
        style = "-" if number < 10 else "--"
        (line,) = axes.plot(cells, means, style, marker="o", markersize=4, label=name)
        if len(own) > 1:
            axes.fill_between(
                cells, [min(s) for s in shares], [max(s) for s in shares], alpha=0.12, color=line.get_color()
            )
    axes.set(ylabel="right solutions, per cent", ylim=(0, 102))
    axes.legend(fontsize=8, loc="lower left")
    axes.grid(alpha=0.3)
    with new_file(file) as temporary:
        figure.savefig(temporary, dpi=120, format="png")


if __name__ == "__main__":
    run_recipe(main)
