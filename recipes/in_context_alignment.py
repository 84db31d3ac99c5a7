"""Does a transformer learn in-context gradient descent on a ranking of answers? Prediction errors and ablations.

    python recipes/in_context_alignment.py demo                      # two CPU cores: an hour and a half with --parallel 2
    python recipes/in_context_alignment.py demo --only transformer --seeds 1 --steps 300
    python recipes/in_context_alignment.py published --parallel 8    # on a GPU: the published sizes
    python recipes/in_context_alignment.py demo --help               # all fields

A context is a question, answers to it and their rewards; the model predicts a better answer. It is trained on the ranking of
the answers in its context. It is compared with gradient descent on that ranking, the mean of the answers, the answer with the
highest reward, and a line fitted to the answers, on the same contexts, in which a share of the rewards is wrong. Each arm
differs from the first in one property: linear attention, no feed-forward layer, number of heads at equal width, or number of
layers. All are causal. The error is one minus the cosine similarity of the prediction and the best answer. Finished runs are
not repeated. Tables are printed and written to OUTPUT/table.json; the plot is OUTPUT/errors.png.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from alignment.measures import NOISES, PRESETS, Alignment, count_answers_read, measure_baselines, measure_runs
from alignment.models import list_arms
from noiselab.evaluation import interval
from noiselab.files import new_file, write_json
from noiselab.training.options import command_line, run_recipe

PUBLISHED = {0.0: 0.297, 0.25: 0.399, 0.5: 0.624, 0.75: 0.837, 1.0: 1.083}
"""Of a transformer of 20 layers and 3 heads, after 15 answers on a line: from the output of the released notebook."""
REPLICATED_DESCENT = {0.0: 0.288, 0.25: 0.332, 0.5: 0.440, 0.75: 0.663, 1.0: 1.047}
"""Of gradient descent, replicated once from the released code on 256 contexts; its own errors are up to 0.038."""


def main(arguments: Sequence[str] | None = None) -> dict[str, Any]:
    """Train the missing models, compare, and write tables and plots; returns the content of table.json."""
    options = command_line(PRESETS, arguments)
    arms = list_arms(options.shape)
    if unknown := sorted(set(options.only) - set(arms)):
        raise ValueError(f"only must be among {list(arms)}; got {unknown}")
    if not options.only or not options.seeds or not options.laws or options.answers < 4 or options.parallel < 1:
        raise ValueError(
            "there must be arms, seeds and laws, answers must be at least 4 and parallel at least 1; got "
            f"{options.only}, {options.seeds}, {options.laws}, {options.answers}, {options.parallel}"
        )
    jobs = [
        (law, name, seed)
        for law in options.laws
        for name in (options.only if law == "line" else options.only[:1])
        for seed in options.seeds
    ]
    rows = []
    for row in measure_runs(options, jobs):
        rows.append(row)
        said = ", ".join(f"{noise} {row['errors'][noise][-1]:.3f}" for noise in row["errors"])
        print(f"{row['law']}, {row['arm']}, seed {row['seed']}: {said}  ({row['seconds']:.0f} s)", flush=True)
    found = {"rows": rows, "baselines": {law: measure_baselines(options, law) for law in options.laws}}
    write_json(options.output / "table.json", found)
    for law in options.laws:
        kind = "on a line" if law == "line" else "scattered about a line"
        print(f"\nAnswers {kind}, error after {count_answers_read(options)} of them\n")
        print(tabulate_errors(options, law, rows, found["baselines"][law]))
    plot_errors(rows, found["baselines"], options.output / "errors.png")
    return found


def tabulate_errors(
    options: Alignment, law: str, rows: list[dict[str, Any]], simple: dict[str, dict[str, list[float]]]
) -> str:
    """A table of errors after the last answer, one column per share of wrong rewards; ± is the 95 % interval over seeds."""
    lines = [
        f"| {'wrong rewards'} | {' | '.join(f'{noise:.0%}' for noise in NOISES)} |",
        f"| --- | {' | '.join(['---:'] * len(NOISES))} |",
    ]
    for name in dict.fromkeys(row["arm"] for row in rows if row["law"] == law):
        own = [row["errors"] for row in rows if row["law"] == law and row["arm"] == name]
        cells = []
        for noise in NOISES:
            values = [errors[str(noise)][-1] for errors in own]
            found = interval(values) if len(values) > 1 else None
            cells.append(f"{found.mean:.3f} ± {found.half:.3f}" if found else f"{values[0]:.3f}")
        lines.append(f"| {name} | {' | '.join(cells)} |")
    for name, errors in simple.items():
        lines.append(f"| *{name}* | {' | '.join(f'{errors[str(noise)][-1]:.3f}' for noise in NOISES)} |")
    if law == "line" and count_answers_read(options) == 15:
        published = {"published, 20 layers": PUBLISHED, "replicated, gradient descent": REPLICATED_DESCENT}
        for name, known in published.items():
            lines.append(f"| *{name}* | {' | '.join(f'{known[noise]:.3f}' for noise in NOISES)} |")
    return "\n".join(lines)


def plot_errors(rows: list[dict[str, Any]], simple: dict[str, dict[str, dict[str, list[float]]]], file: Path) -> None:
    """Plot error against the number of answers: by share of wrong rewards (left), by arm and baseline (right)."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    laws = list(simple)
    figure = Figure(figsize=(11, 4 * len(laws)), layout="constrained")
    FigureCanvasAgg(figure)
    grid = figure.subplots(len(laws), 2, squeeze=False)
    for (left, right), law in zip(grid, laws, strict=True):
        arms = dict.fromkeys(row["arm"] for row in rows if row["law"] == law)
        first = next(iter(arms))
        for number, noise in enumerate(NOISES):
            curve = average_curves(rows, law, first, noise)
            at = range(2, 2 + len(curve))
            left.plot(at, curve, color=f"C{number}", label=f"{noise:.0%} wrong")
            left.plot(at, simple[law]["gradient descent"][str(noise)], "--", color=f"C{number}")
        left.set(title=f"{law}: {first} (solid), gradient descent (dashed)", ylabel="error", xlabel="answers read")
        left.set_ylim(0, 1.3)
        for name in arms:
            curve = average_curves(rows, law, name, 0.0)
            right.plot(range(2, 2 + len(curve)), curve, label=name)
        for style, (name, errors) in zip(("--", ":", "-.", (0, (1, 4))), simple[law].items(), strict=True):
            right.plot(range(2, 2 + len(curve)), errors["0.0"], color="black", ls=style, lw=1, label=name)
        right.set(title=f"{law}: all rewards right", xlabel="answers read", ylim=(-0.02, 1.02))
        for axes in (left, right):
            axes.legend(fontsize=7, ncols=3, loc="upper right")
            axes.grid(alpha=0.3)
    with new_file(file) as temporary:
        figure.savefig(temporary, dpi=120, format="png")


def average_curves(rows: list[dict[str, Any]], law: str, name: str, noise: float) -> list[float]:
    """The mean error over seeds, after each number of answers."""
    curves = [row["errors"][str(noise)] for row in rows if row["law"] == law and row["arm"] == name]
    return [sum(values) / len(values) for values in zip(*curves, strict=True)]


if __name__ == "__main__":
    run_recipe(main)
