"""Tables, sentences and the figure of benchmarks/how_much.py, from its rows."""

import io
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import matplotlib as mpl
from matplotlib.figure import Figure

from noiselab.bench.figures import GREY, MARKERS, PALETTE
from noiselab.files import write_text

STYLE = {"svg.fonttype": "none", "svg.hashsalt": "noiselab", "font.size": 9}
PUBLISHED, BALANCED = ("GIDD", "temperature 0.1"), ("balanced", "level 0.01")
SHOWN = (
    PUBLISHED,
    ("informed Gibbs", "temperature 1"),
    ("random Gibbs", "temperature 1"),
    ("last jump", "temperature 1"),
    BALANCED,
)
PILOT = ("sharp", "gidd", "exact", 8)  # the case of the figure


class Found:
    """The rows of a run, by case (chain, noise, denoiser, steps) and rule (its name, its setting).

    **Arguments:**

    - `rows`: of `run_all`.
    """

    def __init__(self, rows: Sequence[dict[str, Any]]):
        names = ("chain", "noise", "denoiser", "start", "rule", "setting")
        self.rows = {tuple(row[name] for name in names): row for row in rows}
        self.cases = list(dict.fromkeys(key[:4] for key in self.rows))
        self.rules = list(dict.fromkeys(key[4:] for key in self.rows))
        self.steps = len(rows[0]["gap"]) - 1 if rows else 0

    def only(self, wanted: Callable[[tuple], bool]) -> "Found":
        """The cases that are wanted."""
        return Found([row for key, row in self.rows.items() if wanted(key[:4])])

    def at(self, case: tuple, rule: tuple[str, str], name: str, k: int) -> float:
        """A measure after k steps."""
        return self.rows[(*case, *rule)][name][k]

    def cost(self, case: tuple, rule: tuple[str, str]) -> float:
        """The network evaluations of a sequence in all steps."""
        return self.rows[(*case, *rule)]["evaluations"]

    def at_gap(self, case: tuple, rule: tuple[str, str], gap: float, name: str) -> float | None:
        """A measure where the rule has reached a gap for the first time, by linear interpolation between steps."""
        row = self.rows[(*case, *rule)]
        gaps, values = row["gap"], row[name]
        for k in range(self.steps):
            if gaps[k] >= gap >= gaps[k + 1]:
                share = (gaps[k] - gap) / max(gaps[k] - gaps[k + 1], 1e-12)
                return values[k] + share * (values[k + 1] - values[k])
        return None


def tabulate(found: Found) -> str:
    """For each case the law before, and after 1, 2, 4 and 16 steps of each rule."""
    shown = (1, 2, 4, 16)
    lines: list[str] = []
    for case in found.cases:
        chain, noise, denoiser, start = case
        first = found.rules[0]
        before = ", ".join(f"{name} {found.at(case, first, name, 0):.3f}" for name in ("gap", "divergence", "pairs"))
        lines += [
            f"**{chain} chain, {noise} noise, {denoiser} denoiser, {start} steps** (before: {before})",
            "",
            f"| rule | setting | {' | '.join(f'after {k}' for k in shown)} | evaluations |",
            f"| --- | --- |{' ---: |' * (len(shown) + 1)}",
        ]
        for rule in found.rules:
            cells = []
            for k in shown:
                gap, kl, pairs = (found.at(case, rule, name, k) for name in ("gap", "divergence", "pairs"))
                cells.append(f"{gap:+.3f} / {kl:.3f} / {pairs:.3f}")
            evaluations = found.cost(case, rule)
            lines.append(f"| {' | '.join([*rule, *cells, f'{evaluations:.1f}'])} |")
        lines.append("")
    return "\n".join(lines)


def plot(found: Found, case: tuple) -> Figure:
    """Left: the gap after each step. Right: pairs against the gap, so that rules are compared at equal gain."""
    figure = Figure(figsize=(8.4, 3.6), layout="constrained", facecolor="none")
    left, right = figure.subplots(1, 2)
    for number, rule in enumerate(SHOWN):
        style: dict[str, Any] = {"color": PALETTE[number], "marker": MARKERS[number], "ms": 3.5, "lw": 1.2}
        gap, pairs = (found.rows[(*case, *rule)][name] for name in ("gap", "pairs"))
        left.plot(range(found.steps + 1), gap, label=", ".join(rule), **style)
        right.plot(gap, pairs, **style)
    left.axhline(0, color=GREY, lw=0.7, ls=":")
    right.axvline(0, color=GREY, lw=0.7, ls=":")
    left.set_xlabel("steps of the correction", fontsize=8, color=GREY)
    left.set_ylabel("gap, nats per token (0: as probable as data)", fontsize=8, color=GREY)
    right.set_xlabel("gap, nats per token", fontsize=8, color=GREY)
    right.set_ylabel("distance of pairs from the data, TV", fontsize=8, color=GREY)
    right.invert_xaxis()
    for axes in (left, right):
        axes.set_facecolor("none")
        axes.tick_params(colors=GREY, labelsize=8)
        axes.spines[["top", "right"]].set_visible(False)
        axes.spines[["left", "bottom"]].set_color(GREY)
        axes.grid(color=GREY, alpha=0.2, lw=0.5)
    figure.legend(loc="outside lower center", ncols=3, fontsize=8, frameon=False, labelcolor=GREY)
    return figure


def compare(
    found: Found, name: str, mine: tuple[str, str] = BALANCED, other: tuple[str, str] = PUBLISHED
) -> dict[str, Any]:
    """How often a rule has a smaller measure than another one at equal gain in nats, and by what factor.

    The gain is that of the first rule at its end; the other one is taken where it first reaches it. Cases in which it
    never does are counted apart.
    """
    better, worse, factors = 0, 0, []
    for case in found.cases:
        gap = found.at(case, mine, "gap", found.steps)
        against = found.at_gap(case, other, gap, name)
        if against is None:
            continue
        own = found.at(case, mine, name, found.steps)
        better, worse = better + (own < against), worse + (own >= against)
        factors.append(against / own)
    factors.sort()
    median = factors[len(factors) // 2] if factors else float("nan")
    return {"better": better, "of": better + worse, "left out": len(found.cases) - better - worse, "median": median}


def answer(found: Found, minutes: float) -> str:
    """The sentences that name numbers of this run, and the table of the case in the figure."""
    case = PILOT if PILOT in found.cases else found.cases[0]
    exact, wrong = (found.only(lambda c, same=same: (c[2] == "exact") == same) for same in (True, False))
    parts = [
        headline(exact, case),
        "",
        *case_table(found, case),
        "",
        remarks(exact),
        "",
        cooler(exact),
        "",
        *comparisons(exact, wrong),
    ]
    return "\n".join([*parts, "", f"The run took {minutes:g} minutes of one core.", ""])


def remarks(exact: Found) -> str:
    """What balanced jumps do not do."""
    end, jump = exact.steps, ("last jump", "temperature 1")
    pairs, divergence = (compare(exact, name, BALANCED, jump) for name in ("pairs", "divergence"))
    least = max(exact.cases, key=lambda case: exact.at(case, BALANCED, "gap", end))
    own = [exact.at(least, BALANCED, "gap", k) for k in (0, end)]
    sharper = ("balanced", "level 0.01, temperature 0.7")
    after = exact.at(least, sharper, "gap", end)
    return (
        "**What it does not do.** One last jump is as close to the data: at equal gain balanced jumps are nearer in pairs in "
        f"{pairs['better']} of {pairs['of']} cases, and in divergence in {divergence['better']} of {divergence['of']} (median "
        f"factors {pairs['median']:.2f} and {divergence['median']:.2f}). But repeated jumps overshoot, and a single one cannot "
        "be made to correct more or less. Where wrong tokens are not improbable, balanced jumps leave them: at worst (chain "
        f'"{least[0]}", {least[1]} noise, {least[3]} steps) the gap falls from {own[0]:+.3f} to {own[1]:+.3f} only; with the '
        f"prediction at temperature 0.7, to {after:+.3f}."
    )


def cooler(exact: Found) -> str:
    """What a prediction at temperature 0.7 changes, with the exact denoiser."""
    end, rule = exact.steps, ("balanced", "level 0.01, temperature 0.7")
    nearer = [c for c in exact.cases if exact.at(c, rule, "divergence", end) < exact.at(c, BALANCED, "divergence", end)]
    factors = [exact.at(c, rule, "divergence", end) / exact.at(c, BALANCED, "divergence", end) for c in exact.cases]
    gaps = [exact.at(c, rule, "gap", end) for c in exact.cases]
    against = compare(exact, "pairs", rule)
    return (
        "**The prediction at temperature 0.7** corrects more: balanced jumps then end between "
        f"{min(gaps):+.3f} and {max(gaps):+.3f} nats of the data. With the exact denoiser it is nearer in divergence in "
        f"{len(nearer)} of {len(factors)} cases, most of few steps, and up to {max(factors):.1f} times farther in the others, "
        "where samples were good already; at equal gain its pairs are closer than those of GIDD's rule in "
        f"{against['better']} of {against['of']} cases."
    )


def headline(exact: Found, case: tuple) -> str:
    """The answer in three sentences."""
    end, first = exact.steps, compare(exact, "pairs")
    cost = exact.cost(case, BALANCED)
    over = sum(exact.at(c, PUBLISHED, "gap", 2) < 0 for c in exact.cases)
    ends = [exact.at(c, BALANCED, "gap", end) for c in exact.cases]
    return (
        "**The answer.** Redraw only the tokens that the model finds improbable, and stop when there are none: balanced jumps. "
        f"At equal gain in nats their pairs are closer to the data than those of GIDD's rule in {first['better']} of "
        f"{first['of']} cases (median factor {first['median']:.1f}), with {cost:.1f} network evaluations per sequence of 16 "
        "tokens in the case of the figure. "
        "A fixed number of steps overshoots: after two tokens by GIDD's rule, samples are more probable than data in "
        f"{over} of {len(exact.cases)} cases, while balanced jumps end between {min(ends):+.3f} and {max(ends):+.3f} nats "
        "per token of the data."
    )


def case_table(found: Found, case: tuple) -> list[str]:
    """All rules in one case."""

    def law(rule: tuple[str, str], k: int) -> str:
        gap, pairs = (found.at(case, rule, name, k) for name in ("gap", "pairs"))
        return f"{gap:+.3f} / {pairs:.3f}"

    halves = [found.rows[(*case, *rule)]["half"] for rule in found.rules]
    widest = {name: max(half[name] for half in halves) for name in ("gap", "pairs")}
    lines = [
        f"{case[0].capitalize()} chain, {case[1]} noise, {case[2]} denoiser, samples of {case[3]} steps: gap in nats per "
        f"token / total variation of pairs, means of three sets of samples; before {law(PUBLISHED, 0)}. After the last "
        f"step the 95 % intervals over these sets are at most ± {widest['gap']:.3f} and ± {widest['pairs']:.3f}.",
        "",
        "| rule | one step | two | four | sixteen | evaluations |",
        "| --- | ---: | ---: | ---: | ---: | ---: |",
    ]
    for rule in found.rules:
        cells = [law(rule, k) for k in (1, 2, 4, found.steps)]
        evaluations = f"{found.cost(case, rule):.1f}"
        lines.append(f"| {' | '.join([', '.join(rule), *cells, evaluations])} |")
    return lines


def comparisons(exact: Found, wrong: Found) -> list[str]:
    """Balanced jumps against other rules at equal gain."""
    lines = [
        "Balanced jumps (level 0.01) at the end of their walk, against another rule where it first reaches the same gain "
        "in nats, over all chains, noises and numbers of steps:",
        "",
        "| denoiser | other rule | measure | closer to the data | median factor | never at that gain |",
        "| --- | --- | --- | ---: | ---: | ---: |",
    ]
    for name, some in (("exact", exact), ("wrong by 0.5", wrong)):
        for other in found_rules(some):
            for measure in ("pairs", "divergence"):
                row = compare(some, measure, BALANCED, other)
                cells = [name, ", ".join(other), measure, f"{row['better']} of {row['of']}"]
                cells += [f"{row['median']:.2f}" if row["of"] else "", f"{row['left out']}"]
                lines.append(f"| {' | '.join(cells)} |")
    return lines


def found_rules(found: Found) -> list[tuple[str, str]]:
    """The rules of other kinds than balanced jumps, if there are any cases."""
    return [rule for rule in found.rules if rule[0] != BALANCED[0]] if found.cases else []


def write_pages(rows: Sequence[dict[str, Any]], minutes: float, folder: Path) -> str:
    """Write the table, the sentences and the figure; returns the sentences."""
    found = Found(rows)
    write_text(folder / "table.md", tabulate(found) + "\n")
    text = answer(found, minutes)
    write_text(folder / "answer.md", text)
    with mpl.rc_context(STYLE):
        figure, buffer = plot(found, PILOT if PILOT in found.cases else found.cases[0]), io.StringIO()
        figure.savefig(buffer, format="svg", metadata={"Date": None}, facecolor="none")
    write_text(folder / "how_much.svg", buffer.getvalue())
    return text
