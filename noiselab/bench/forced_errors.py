"""Forced errors: one benchmark, one table and one figure for everything that corrects itself.

A model may never make the errors that it could correct. So known errors are put into true sequences; a `Detector` scores
the units of the damaged sequences, a `Reviser` corrects them, and both are compared with the truth. Diffusion, backspaces,
regret and checks in the context all go through `measure_forced_errors`.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, NamedTuple

import torch
from jaxtyping import Bool, Int
from torch import Generator, Tensor, nn

from ..categorical import Randomness, uniforms
from ..evaluation.detection import measure_detection, select_units
from ..evaluation.intervals import Interval, interval
from ..evaluation.judge import generative_perplexity
from ..revisions import Detector, Outcome, Reviser, Unit, count_outcome, require_detector, require_reviser
from ..typing import Elementwise
from .figures import GREY, MARKERS, PALETTE

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure


class ForcedErrors(NamedTuple):
    """Sequences in which some tokens were replaced.

    **Arguments:**

    - `tokens`: with the replacements; `truth`: without.
    - `wrong`: where they differ.
    """

    tokens: Int[Tensor, "sequence length"]
    truth: Int[Tensor, "sequence length"]
    wrong: Bool[Tensor, "sequence length"]


def force_errors(
    x: Int[Tensor, "sequence length"],
    support: Int[Tensor, " token"],
    share: float,
    *,
    generator: Generator | None = None,
) -> ForcedErrors:
    """Replace a share of the tokens by other ones, each other token with the same probability.

    **Arguments:**

    - `x`: the true tokens; all of them must be in `support`. An answer is a sequence of one token, the chosen option.
    - `support`: the tokens to replace with, in rising order.
    - `share`: the probability that a token is replaced, in (0, 1).
    - `generator`: all randomness.

    **Raises:** `ValueError` for a share out of range, or tokens that are not in the support.

    **Example:**

    ```python
    import torch
    from noiselab.bench import force_errors

    forced = force_errors(torch.zeros(4, 100, dtype=torch.long), torch.arange(5), 0.1)
    assert torch.equal(forced.tokens != 0, forced.wrong) and 10 < forced.wrong.sum() < 80
    ```
    """
    if not 0 < share < 1:
        raise ValueError(f"share must lie in (0, 1); got {share}")
    u = uniforms(*x.shape, 2, generator=generator, device=x.device)
    wrong = u[..., 0] < share
    return ForcedErrors(torch.where(wrong, replace_tokens(x, support, u[..., 1]), x), x, wrong)


def replace_tokens(x: Int[Tensor, "*batch"], support: Int[Tensor, " token"], u: Elementwise) -> Int[Tensor, "*batch"]:
    """Replace each token by another one of the support, each with the same probability.

    **Arguments:**

    - `x`, `support`: as for `force_errors`.
    - `u`: uniform numbers in [0, 1), one for each token.

    **Raises:** `ValueError` for tokens that are not in the support, or a support of less than two.
    """
    if len(support) < 2:
        raise ValueError(f"support must have two tokens or more; got {len(support)}")
    place = torch.searchsorted(support, x.contiguous()).clamp(max=len(support) - 1)
    if not torch.equal(support[place], x):
        raise ValueError("the tokens must all be in the support; got others")
    steps = 1 + (u * (len(support) - 1)).long().clamp(max=len(support) - 2)
    return support[(place + steps) % len(support)]


@dataclass(frozen=True)
class ForcedErrorRow:
    """What a detector and a reviser did with sequences that hold forced errors: means over sets, with 95 % intervals.

    **Arguments:**

    - `model`: its name.
    - `unit`: what the detector scores.
    - `area`, `recall`: as in `Detection`, over units.
    - `mended`, `miscorrected`, `harmed`, `gain`, `evaluations_per_token`: as in `Outcome`, over tokens.
    - `truth`, `before`, `after`: nats per token by the judge of the true sequences, the damaged ones, and the revised ones.
    - `better`: before minus after, set by set.
    """

    model: str
    unit: Unit
    area: Interval
    recall: Interval
    mended: Interval
    miscorrected: Interval
    harmed: Interval
    gain: Interval
    evaluations_per_token: Interval
    truth: Interval | None = None
    before: Interval | None = None
    after: Interval | None = None
    better: Interval | None = None


OUTCOMES = ("mended", "miscorrected", "harmed", "gain", "evaluations_per_token")


def measure_forced_errors(
    model: str,
    sets: Sequence[ForcedErrors],
    detector: Detector,
    reviser: Reviser,
    *,
    judge: nn.Module | None = None,
    start: int | None = None,
    batch_size: int = 16,
    generator: Randomness = None,
) -> ForcedErrorRow:
    """Have a model detect and correct the forced errors of some sets of sequences.

    **Arguments:**

    - `model`: its name.
    - `sets`: damaged sequences, two sets or more, for the intervals; the same for all models that are compared.
    - `detector`: any `Detector`; a step or an answer is wrong if one of its tokens is.
    - `reviser`: any `Reviser`, with a threshold that was chosen on other sequences.
    - `judge`, `start`, `batch_size`: as for `generative_perplexity`; without a judge there are no nats. A judge prefers
      probable texts to true ones, so its nats can fall while right tokens are harmed.
    - `generator`: the randomness of the reviser.

    **Raises:** `ValueError` for less than two sets, anything but a detector and a reviser, invalid scores, or a set without
    both wrong and right units.

    **Example:**

    ```python
    import torch
    import noiselab as nl
    from noiselab.bench import force_errors, measure_forced_errors, tabulate_forced_errors
    from noiselab.correctors import BestGuessReviser, DenoiserDetector, CorrectorReviser
    from noiselab.evaluation import threshold_at

    process = nl.gidd(vocab_size=3, mask_id=2, p_uniform=0.2)
    oracle = nl.MarkovOracle(torch.tensor([0.5, 0.5]), torch.tensor([[0.95, 0.05], [0.05, 0.95]]), process)
    random = torch.Generator().manual_seed(0)
    others, *sets = (
        force_errors(oracle.sample(8, 32, generator=random), torch.arange(2), 0.1, generator=random) for _ in range(4)
    )
    detector = DenoiserDetector(oracle)
    threshold = threshold_at(detector(others.tokens), others.wrong)
    revisers = {
        "best guess": BestGuessReviser(oracle, threshold=threshold),
        "self-correction": CorrectorReviser(nl.SelfCorrection(oracle, process=process)),
    }
    rows = [measure_forced_errors(name, sets, detector, r, generator=random) for name, r in revisers.items()]
    print(tabulate_forced_errors(rows))
    ```
    """
    require_detector(detector)
    require_reviser(reviser)
    if len(sets) < 2:
        raise ValueError(f"there must be two sets or more, for the intervals; got {len(sets)}")
    found: list[dict[str, float]] = []
    for forced in sets:
        seen = measure_detection(*select_units(detector(forced.tokens), forced.wrong, detector.unit))
        revised = reviser(forced.tokens, generator=generator)
        outcome: Outcome = count_outcome(forced.tokens, revised.tokens, forced.truth, evaluations=revised.evaluations)
        measures = seen._asdict() | {name: getattr(outcome, name) for name in OUTCOMES}
        if judge is not None:
            texts = {"truth": forced.truth, "before": forced.tokens, "after": revised.tokens}
            for name, tokens in texts.items():
                measures[name] = generative_perplexity(judge, tokens, start=start, batch_size=batch_size).nats
            measures["better"] = measures["before"] - measures["after"]
        found.append(measures)
    return ForcedErrorRow(model, detector.unit, **{name: interval([each[name] for each in found]) for name in found[0]})


SHARES = {
    "recall": "found at 5 % false alarms",
    "mended": "wrong → right",
    "miscorrected": "wrong → other",
    "harmed": "right → wrong",
    "gain": "net gain",
}
NATS = {"truth": "nats of the truth", "before": "damaged", "after": "revised", "better": "better by"}


def tabulate_forced_errors(rows: Iterable[ForcedErrorRow]) -> str:
    """The rows as a Markdown table; nats only if there was a judge."""
    rows = list(rows)
    nats = {name: head for name, head in NATS.items() if any(getattr(row, name) is not None for row in rows)}
    heads = ["model", "unit", "area under ROC", *SHARES.values(), *nats.values(), "evaluations per token"]
    lines = [f"| {' | '.join(heads)} |", f"| --- | --- |{' ---: |' * (len(heads) - 2)}"]
    for row in rows:
        cells = [row.model, row.unit, _write_plain(row.area)]
        cells += [f"{getattr(row, name).mean:.1%} ± {getattr(row, name).half:.1%}" for name in SHARES]
        cells += [_write_plain(getattr(row, name)) for name in nats]
        lines.append(f"| {' | '.join([*cells, _write_plain(row.evaluations_per_token)])} |")
    return "\n".join(lines)


def _write_plain(value: Interval | None) -> str:
    return "" if value is None else f"{value.mean:.3f} ± {value.half:.3f}"


def plot_forced_errors(rows: Sequence[ForcedErrorRow]) -> "Figure":
    """The rows as a figure: detection, corrected against harmed tokens, and net gain against cost, with 95 % intervals.

    **Arguments:**

    - `rows`: of `measure_forced_errors`, of any units.

    **Returns:** a `matplotlib.figure.Figure` on a clear background.

    **Raises:** `ValueError` for no rows.
    """
    from matplotlib.figure import Figure

    if not rows:
        raise ValueError("there must be rows to plot; got none")
    figure = Figure(figsize=(12, 3.6 + 0.2 * len(rows)), layout="constrained", facecolor="none")
    detection, repair, cost = figure.subplots(1, 3)
    for number, row in enumerate(rows):
        style = {"color": PALETTE[number % len(PALETTE)], "marker": MARKERS[number % len(MARKERS)], "ls": "", "ms": 5}
        label = f"{row.model} ({row.unit})"
        detection.errorbar(row.area.mean, -number, xerr=row.area.half, label=label, **style)
        for axes, x, y in ((repair, row.harmed, row.mended), (cost, row.evaluations_per_token, row.gain)):
            axes.errorbar(x.mean, y.mean, xerr=x.half, yerr=y.half, elinewidth=0.7, **style)
    detection.axvline(0.5, color=GREY, lw=0.7, ls=":")
    detection.set_yticks([])
    detection.set_xlabel("area under the ROC curve, over units", fontsize=8, color=GREY)
    repair.set_xlabel("share of right tokens made wrong", fontsize=8, color=GREY)
    repair.set_ylabel("share of wrong tokens made right", fontsize=8, color=GREY)
    cost.axhline(0, color=GREY, lw=0.7, ls=":")
    cost.set_xscale("symlog", linthresh=0.1)
    cost.set_xlabel("network evaluations per token", fontsize=8, color=GREY)
    cost.set_ylabel("net gain, over wrong tokens", fontsize=8, color=GREY)
    for axes in (detection, repair, cost):
        _set_style(axes)
    handles, labels = detection.get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside lower center", ncols=3, fontsize=8, frameon=False, labelcolor=GREY)
    return figure


def _set_style(axes: "Axes") -> None:
    axes.set_facecolor("none")
    axes.tick_params(colors=GREY, labelsize=8)
    axes.spines[["top", "right"]].set_visible(False)
    axes.spines[["left", "bottom"]].set_color(GREY)
    axes.grid(color=GREY, alpha=0.2, lw=0.5)
