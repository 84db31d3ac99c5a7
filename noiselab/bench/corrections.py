"""Everything that corrects finished sequences, measured in a world whose law is known: one row for each method.

Two kinds of sequences are corrected. True ones with forced errors show what is detected, mended and harmed. A model's own
samples show what becomes of their distribution: their distance from the law of the data before and after. A correction
that only makes sequences more probable lowers `gap` below 0 and raises `pairs` and `divergence`.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, fields
from typing import NamedTuple

import torch

from ..categorical import Randomness
from ..evaluation.detection import measure_detection
from ..evaluation.intervals import Interval, interval
from ..revisions import Detector, Reviser, count_outcome, require_detector, require_reviser
from ..typing import Tokens
from .forced_errors import ForcedErrors
from .world import World, frequencies


class LawError(NamedTuple):
    r"""The distance of samples from the law of a known chain.

    **Arguments:**

    - `gap`: nats per token by which they are less probable than data, as in `SampleMeasures`; below 0 they are more
      probable.
    - `divergence`: the KL divergence per token of their law of followers from the chain's, in nats, at least 0:
      $\sum_{ab} f(ab) \log \frac{f(b \mid a)}{P(b \mid a)}$ with f the frequencies of neighbours.
    - `pairs`: total variation between the frequencies of neighbours and the chain's, in [0, 1].
    """

    gap: float
    divergence: float
    pairs: float


def measure_law(world: World, x: Tokens) -> LawError:
    """The distance of samples from the law of the world's chain.

    **Arguments:**

    - `x`: finished samples, of the world's length.

    **Raises:** `ValueError` for samples of another length, or tokens that are no states.

    **Example:**

    ```python
    import torch
    from noiselab.bench.corrections import measure_law
    from noiselab.bench.world import World

    world = World.sharp()
    exact = measure_law(world, world.sample(2000, generator=torch.Generator().manual_seed(0)))
    noise = measure_law(world, torch.randint(8, (2000, 16), generator=torch.Generator().manual_seed(0)))
    assert abs(exact.gap) < 0.02 and exact.divergence < 0.01 and exact.pairs < 0.02
    assert noise.gap > 1 and noise.divergence > 1 and noise.pairs > 0.5
    ```
    """
    if (x >= world.states).any() or x.shape[1] != world.length:
        raise ValueError(
            f"x must be tokens below {world.states}, [sample, {world.length}]; got {list(x.shape)}, largest {x.max()}"
        )
    x = x.cpu()
    pairs = frequencies(x, 2, world.states).view(world.states, world.states)
    followers = pairs / pairs.sum(-1, keepdim=True).clamp(min=1e-300)
    divergence = (torch.special.xlogy(pairs, followers) - torch.special.xlogy(pairs, world.transition)).sum().item()
    gap = (-world.chain.log_prob(x).mean() / world.length).item() - world.entropy
    return LawError(gap, divergence, world.variation(x, 2))


@dataclass(frozen=True)
class CorrectionMeasures:
    """What a reviser did with one set of sequences.

    **Arguments:**

    - `area`, `recall`: of the detector, at forced errors, as in `Detection`; NaN without a detector.
    - `mended`, `miscorrected`, `harmed`: of the reviser, at forced errors, as in `Outcome`.
    - `before_gap`, `before_divergence`, `before_pairs`: the samples before, as in `LawError`; `gap`, `divergence`,
      `pairs`: the same after the revision.
    - `changed`: the share of the tokens of samples that differ afterwards.
    - `evaluations`: network evaluations for each sample.
    """

    area: float
    recall: float
    mended: float
    miscorrected: float
    harmed: float
    before_gap: float
    gap: float
    before_divergence: float
    divergence: float
    before_pairs: float
    pairs: float
    changed: float
    evaluations: float


@torch.no_grad()
def measure_correction(
    world: World,
    reviser: Reviser,
    forced: ForcedErrors,
    samples: Tokens,
    *,
    detector: Detector | None = None,
    generator: Randomness = None,
) -> CorrectionMeasures:
    """Correct true sequences with forced errors, and samples, and compare both with the known law.

    **Arguments:**

    - `reviser`: what corrects.
    - `forced`: true sequences of the world with forced errors.
    - `samples`: a model's samples, finished.
    - `detector`: the score by which the reviser finds errors, of units "token"; without one, detection is not measured.
    - `generator`: the randomness of the reviser.

    **Raises:** `ValueError` for anything but a reviser and a detector of tokens, or samples as for `measure_law`.

    **Example:**

    ```python
    import torch
    import noiselab as nl
    from noiselab.bench import World, force_errors, measure_correction
    from noiselab.correctors import BalancedCorrector, CorrectorReviser, DenoiserDetector

    world, random = World.sharp(), torch.Generator().manual_seed(0)
    process = world.processes()["gidd"]
    oracle = world.oracle(process)
    samples = nl.AncestralSampler(process, oracle).sample((500, world.length), steps=8, generator=random)
    forced = force_errors(world.sample(200, generator=random), torch.arange(world.states), 0.1, generator=random)
    reviser = CorrectorReviser(BalancedCorrector(process, oracle))
    found = measure_correction(
        world, reviser, forced, samples, detector=DenoiserDetector(oracle), generator=random
    )
    assert found.area > 0.9 and found.mended > found.harmed and found.pairs < found.before_pairs
    ```
    """
    require_reviser(reviser)
    area = recall = torch.nan
    if detector is not None:
        area, recall = measure_detection(require_detector(detector, "token")(forced.tokens), forced.wrong)
    outcome = count_outcome(forced.tokens, reviser(forced.tokens, generator=generator).tokens, forced.truth)
    revised = reviser(samples, generator=generator)
    before, after = measure_law(world, samples), measure_law(world, revised.tokens)
    return CorrectionMeasures(
        area=area,
        recall=recall,
        mended=outcome.mended,
        miscorrected=outcome.miscorrected,
        harmed=outcome.harmed,
        before_gap=before.gap,
        gap=after.gap,
        before_divergence=before.divergence,
        divergence=after.divergence,
        before_pairs=before.pairs,
        pairs=after.pairs,
        changed=(revised.tokens != samples).double().mean().item(),
        evaluations=revised.evaluations / len(samples),
    )


@dataclass(frozen=True)
class CorrectionSummary:
    """The means of `CorrectionMeasures` over sets, with 95 % confidence intervals, of one method.

    **Arguments:**

    - `noise`, `denoiser`, `method`: their names.
    - `measures`: the interval of each measure, by its name.
    """

    noise: str
    denoiser: str
    method: str
    measures: dict[str, Interval]


def summarize_corrections(
    noise: str, denoiser: str, method: str, sets: Sequence[CorrectionMeasures]
) -> CorrectionSummary:
    """The mean of each measure over independent sets, such as networks of different training seeds.

    **Arguments:**

    - `noise`, `denoiser`, `method`: their names, for tables.
    - `sets`: at least two.

    **Raises:** `ValueError` for fewer sets.

    **Example:**

    ```python
    from noiselab.bench.corrections import CorrectionMeasures, summarize_corrections

    sets = [CorrectionMeasures(*[value] * 13) for value in (0.0, 1.0)]
    assert summarize_corrections("gidd", "exact", "none", sets).measures["pairs"].mean == 0.5
    ```
    """
    names = [field.name for field in fields(CorrectionMeasures)]
    measures = {name: interval([getattr(one, name) for one in sets]) for name in names}
    return CorrectionSummary(noise, denoiser, method, measures)


HEADS = {
    "area": "area under ROC",
    "mended": "wrong → right",
    "harmed": "right → wrong",
    "gap": "gap, nats per token",
    "divergence": "KL, nats per token",
    "pairs": "pairs, TV",
    "evaluations": "evaluations",
}
SHARES = ("mended", "harmed")


def tabulate_corrections(rows: Iterable[CorrectionSummary]) -> str:
    """The rows as Markdown tables, one for each noise and denoiser; the samples before the correction are in its title.

    A measure that has no meaning for a method (NaN) is a dash.
    """
    lines: list[str] = []
    place = None
    for row in rows:
        if (row.noise, row.denoiser) != place:
            place = (row.noise, row.denoiser)
            before = ", ".join(
                f"{name} {row.measures[f'before_{name}'].mean:+.3f}" for name in ("gap", "divergence", "pairs")
            )
            title = f"**{row.noise} noise, {row.denoiser}** (samples before: {before})"
            lines += [*([""] if lines else []), title, "", f"| method | {' | '.join(HEADS.values())} |"]
            lines.append(f"| --- |{' ---: |' * len(HEADS)}")
        lines.append(f"| {' | '.join([row.method, *(_cell(name, row.measures[name]) for name in HEADS)])} |")
    return "\n".join(lines)


def _cell(name: str, value: Interval) -> str:
    if value.mean != value.mean:
        return "–"
    if name in SHARES:
        return f"{value.mean:.1%} ± {value.half:.1%}"
    if name == "evaluations":
        return f"{value.mean:.1f}"
    sign = "+" if name == "gap" else ""
    return f"{value.mean:{sign}.3f} ± {value.half:.3f}"
