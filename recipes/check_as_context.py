"""Do self-checks improve answers? By accuracy of the check, its kind, and the number of rounds.

    python recipes/check_as_context.py demo                          # trains three small chat models on two CPU cores
    python recipes/check_as_context.py demo --bbq FOLDER             # also evaluates the first one on BBQ, from its jsonl files
    python recipes/check_as_context.py chat --model NAME --bbq FOLDER    # any chat model of transformers; a GPU is advised
    python recipes/check_as_context.py demo --help                   # all fields

The answer, its review and the repeated question stay in the context. Reviews are either given, with a set accuracy, or written by
the model itself, in three kinds. Accuracies are compared with the law a' = c a + c (1 - a) / 2 for three options, a checker that
is right with probability c, and a model that follows it. Tables are printed and written to OUTPUT/checks.json, the plot to
OUTPUT/checks.png; answers to BBQ are written to OUTPUT/bbq.json, their plot to OUTPUT/bbq.png.
"""  # noqa: E501

import math
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import transformers

from checks.answers import correction_law
from checks.measures import CHECKERS, CheckOptions, measure_bbq, measure_given_reviews, measure_own_reviews, replace_nan
from checks.models import CheckModel, load_or_train_model
from noiselab.dialogue import Chat
from noiselab.evaluation import interval
from noiselab.files import new_file, write_json
from noiselab.networks.model_folders import load_weights_of, model_folder, open_tokenizer
from noiselab.training.options import Optimization, Run, command_line, run_recipe

CPU = Optimization(
    steps=5_000, batch=32, micro_batch=32, learning_rate=5e-3, warmup=100, weight_decay=0.01, optimizer="muon"
)
RUN = Run(Path("runs/check_as_context"), log_every=100, evaluate_every=0, save_every=500)
PRESETS = {
    "demo": ("small models, trained here on two CPU cores", CheckOptions(CheckModel(optimization=CPU, run=RUN))),
    "chat": (
        "a chat model of transformers, named by --model",
        CheckOptions(CheckModel(optimization=CPU, run=RUN), seeds=(1,), rounds=2, temperature=0.0, answer_tokens=10),
    ),
}


def main(arguments: Sequence[str] | None = None) -> dict[str, Any]:
    """Train the missing models, evaluate all, and write tables and plots; returns the content of checks.json."""
    options = command_line(PRESETS, arguments)
    if not options.seeds or options.questions < 2 or options.rounds < 1:
        raise ValueError(
            "there must be seeds, questions must be at least 2 and rounds at least 1; got "
            f"{options.seeds}, {options.questions}, {options.rounds}"
        )
    transformers.logging.set_verbosity_error()
    output = options.train.run.output
    found: dict[str, Any] = {"told": [], "own": []}
    for number, (seed, chat) in enumerate(load_chats(options)):
        found["told"] += measure_given_reviews(chat, options, seed)
        found["own"] += measure_own_reviews(chat, options, seed)
        write_json(output / "checks.json", replace_nan(found))
        if options.bbq is not None and number == 0:
            rows = measure_bbq(chat, options)
            write_json(output / "bbq.json", replace_nan(rows))
            print(f"\nBBQ, {len(rows['answers'])} questions\n\n{tabulate_bbq(rows)}\n")
            plot_bbq(rows, output / "bbq.png")
    given, own = tabulate_given_reviews(found["told"]), tabulate_own_reviews(found["own"])
    print(f"\nGiven reviews\n\n{given}\n\nThe model's own reviews\n\n{own}")
    plot_accuracies(found, output / "checks.png")
    return found


def load_chats(options: CheckOptions) -> Any:
    """Yield the chat models: the named one, or one for each seed, trained if it does not exist."""
    if options.model is not None:
        from transformers import AutoModelForCausalLM

        folder = model_folder(options.model)
        network = load_weights_of(AutoModelForCausalLM, folder, device_map="auto")
        yield 0, Chat(network, open_tokenizer(folder))
        return
    for seed in options.seeds:
        run = replace(options.train.run, output=options.train.run.output / f"seed_{seed}")
        model = replace(options.train, optimization=replace(options.train.optimization, seed=seed), run=run)
        network, tokenizer = load_or_train_model(model)
        yield seed, Chat(network, tokenizer)


def _format_share(values: list[float], low: float = float("nan"), high: float = float("nan")) -> str:
    if len(values) > 1:
        found = interval(values)
        return f"{100 * found.mean:.1f} ± {100 * found.half:.1f}"
    return f"{100 * values[0]:.1f} ({100 * low:.1f} to {100 * high:.1f})"


def predict_accuracies(start: float, checker: float, rounds: int) -> list[float]:
    """The accuracies that the law predicts for three options; NaN if no first answer could be parsed."""
    return [start] * (rounds + 1) if math.isnan(start) else correction_law(start, checker, 3, rounds).tolist()


def tabulate_given_reviews(rows: list[dict[str, Any]]) -> str:
    """A table of accuracies in per cent by accuracy of the given reviews; predictions of the law in brackets."""
    rounds = len(rows[0]["rounds"]) - 1
    lines = [
        f"| reviews right | first answer | {' | '.join(f'round {n}' for n in range(1, rounds + 1))} | reviews followed |",
        f"| --- | {' | '.join(['---:'] * (rounds + 2))} |",
    ]
    for checker in dict.fromkeys(row["checker"] for row in rows):
        own = [row for row in rows if row["checker"] == checker]
        law = predict_accuracies(_mean_right([row["rounds"] for row in own], 0), checker, rounds)
        cells = [
            _format_share(
                [row["rounds"][n]["right"] for row in own], own[0]["rounds"][n]["low"], own[0]["rounds"][n]["high"]
            )
            + (f" [{100 * law[n]:.1f}]" if n else "")
            for n in range(rounds + 1)
        ]
        followed = (
            _format_share([row["followed"] for row in own]) if len(own) > 1 else f"{100 * own[0]['followed']:.1f}"
        )
        lines.append(f"| {100 * checker:.0f} % | {' | '.join(cells)} | {followed} |")
    return "\n".join(lines)


def tabulate_own_reviews(rows: list[dict[str, Any]]) -> str:
    """A table of accuracies in per cent by kind of check."""
    rounds = len(rows[0]["rounds"]) - 1
    heads = ["reviews right", "no verdict", "first answer", *(f"round {n}" for n in range(1, rounds + 1))]
    heads += ["wrong → right", "right → wrong"]
    lines = [f"| check | {' | '.join(heads)} |", f"| --- | {' | '.join(['---:'] * len(heads))} |"]
    for name in dict.fromkeys(row["check"] for row in rows):
        own = [row for row in rows if row["check"] == name]
        cells = [
            _format_share(
                [row["self_check"]["right"] for row in own], own[0]["self_check"]["low"], own[0]["self_check"]["high"]
            )
        ]
        cells.append(
            f"{100 * sum(row['self_check']['untold'] / row['self_check']['of'] for row in own) / len(own):.1f}"
        )
        cells += [
            _format_share(
                [row["rounds"][n]["right"] for row in own], own[0]["rounds"][n]["low"], own[0]["rounds"][n]["high"]
            )
            for n in range(rounds + 1)
        ]
        for change in ("wrong_to_right", "right_to_wrong"):
            cells.append(f"{100 * sum(row[change] / row['questions'] for row in own) / len(own):.1f}")
        lines.append(f"| {name} | {' | '.join(cells)} |")
    return "\n".join(lines)


def _format_number(value: float, form: str) -> str:
    """A formatted number; a dash for NaN."""
    return "-" if math.isnan(value) else format(value, form)


def tabulate_bbq(rows: dict[str, Any]) -> str:
    """A table of accuracy and bias of the first → last answers, and of answers that cannot be parsed, by category.

    Ambiguous and disambiguated contexts are counted separately; missing values are dashes.
    """
    kinds = ("ambiguous", "disambiguated")
    heads = ["questions", "undecidable", *(f"right, {kind}" for kind in kinds), "wrong → right", "right → wrong"]
    heads += ["reviews right", *(f"bias, {kind}" for kind in kinds)]
    lines = [f"| category | {' | '.join(heads)} |", f"| --- | {' | '.join(['---:'] * len(heads))} |"]
    for name, row in rows["categories"].items():
        both = row["bias_first"], row["bias_last"]
        right = [" → ".join(_format_number(100 * each[f"accuracy_{kind}"], ".1f") for each in both) for kind in kinds]
        bias = [" → ".join(_format_number(each[kind], "+.3f") for each in both) for kind in kinds]
        cells = [str(row["questions"]), f"{100 * row['undecidable']:.1f}", *right]
        cells += [
            str(row["wrong_to_right"]),
            str(row["right_to_wrong"]),
            _format_number(100 * row["check"], ".1f"),
            *bias,
        ]
        lines.append(f"| {name} | {' | '.join(cells)} |")
    return "\n".join(lines)


def plot_accuracies(found: dict[str, Any], file: Path) -> None:
    """Plot accuracy against the checker's accuracy and against rounds, and the gain of a round against the accuracy of reviews.

    Points are means over seeds, bars their range. The law is linear in the accuracy of the first answers, so the law of their
    mean is its mean.
    """
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(14, 4.5), layout="constrained")
    FigureCanvasAgg(figure)
    left, middle, right = figure.subplots(1, 3)
    told, own = found["told"], found["own"]
    start = _mean_right([row["rounds"] for row in told], 0)
    rounds = len(told[0]["rounds"]) - 1
    fine = [n / 100 for n in range(101)]
    for n in range(1, rounds + 1):
        left.plot(fine, [predict_accuracies(start, c, rounds)[n] for c in fine], f"C{n}", label=f"law, round {n}")
        for checker in CHECKERS:
            _plot_point(
                left, checker, [row["rounds"][n]["right"] for row in told if row["checker"] == checker], f"C{n}"
            )
    left.axhline(start, color="grey", ls=":", label="first answers")
    left.set(xlabel="accuracy of given reviews", ylabel="right answers", title="given reviews: law and measured")
    for number, checker in enumerate(CHECKERS[::2]):
        mine = [row["rounds"] for row in told if row["checker"] == checker]
        middle.plot(
            [_mean_right(mine, n) for n in range(rounds + 1)],
            "o",
            color=f"C{number}",
            label=f"given, {checker:.0%} right",
        )
        middle.plot(predict_accuracies(start, checker, rounds), color=f"C{number}")
    for number, name in enumerate(dict.fromkeys(row["check"] for row in own)):
        mine = [row["rounds"] for row in own if row["check"] == name]
        middle.plot(
            [_mean_right(mine, n) for n in range(rounds + 1)], "s--", color=f"C{number + 5}", label=f"own, {name}"
        )
    middle.set(xlabel="rounds", title="more rounds", xticks=range(rounds + 1), ylim=(0, 1.25))
    right.plot(fine, [predict_accuracies(start, c, 1)[1] - start for c in fine], "k-", lw=1, label="law")
    for checker in CHECKERS:
        mine = [row for row in told if row["checker"] == checker]
        _plot_point(
            right, checker, [_first_gain(row) for row in mine], "C0", label="given" if checker == CHECKERS[0] else None
        )
    for number, name in enumerate(dict.fromkeys(row["check"] for row in own)):
        mine = [row for row in own if row["check"] == name]
        at = sum(row["first_check"] for row in mine) / len(mine)
        _plot_point(right, at, [_first_gain(row) for row in mine], f"C{number + 5}", marker="s", label=name)
    right.axhline(0, color="grey", lw=0.5)
    right.set(xlabel="accuracy of reviews", ylabel="gain of one round", title="gain and self-check")
    for axes in (left, middle, right):
        axes.legend(fontsize=7, ncols=2 if axes is middle else 1, loc="upper left")
        axes.grid(alpha=0.3)
    with new_file(file) as temporary:
        figure.savefig(temporary, dpi=120, format="png")


def plot_bbq(rows: dict[str, Any], file: Path) -> None:
    """Plot the gain in each category against the accuracy of its reviews."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(6, 4.5), layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.subplots()
    for name, row in rows["categories"].items():
        if name != "all":
            axes.plot(row["check"], row["last"] - row["first"], "o")
            axes.annotate(name, (row["check"], row["last"] - row["first"]), fontsize=7)
    axes.axhline(0, color="grey", lw=0.5)
    axes.set(xlabel="share of reviews that are right", ylabel="right answers, last minus first")
    axes.grid(alpha=0.3)
    with new_file(file) as temporary:
        figure.savefig(temporary, dpi=120, format="png")


def _plot_point(
    axes: Any, at: float, values: list[float], colour: str, *, marker: str = "o", label: str | None = None
) -> None:
    mean = sum(values) / len(values)
    ends = [[mean - min(values)], [max(values) - mean]]
    axes.errorbar(at, mean, ends, marker=marker, ms=4, ls="", lw=1, color=colour, label=label)


def _first_gain(row: dict[str, Any]) -> float:
    return row["rounds"][1]["right"] - row["rounds"][0]["right"]


def _mean_right(rows: list[list[dict[str, Any]]], n: int) -> float:
    return sum(row[n]["right"] for row in rows) / len(rows)


if __name__ == "__main__":
    run_recipe(main)
