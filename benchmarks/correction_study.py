r"""What corrections of finished samples are worth, with confidence intervals: a world where the denoiser is wrong by a known amount.

Samples of few steps contradict themselves, and a published sampler also leaves noise in them. Each treatment below gets the
same samples; its gain is taken sample set by sample set, so that what is common to before and after cancels.
"""  # noqa: E501

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass

import torch
from torch import Generator, Tensor

from noiselab import AncestralSampler, Denoiser, InterpolatingProcess, SelfCorrection
from noiselab.bench.world import SampleMeasures, World
from noiselab.correctors.gibbs import GibbsCorrector
from noiselab.denoisers import ActiveOnly, CallCounter
from noiselab.evaluation.intervals import Interval, interval
from noiselab.typing import Tokens

BEFORE = "before"


@dataclass(frozen=True)
class CorrectionRow:
    """What a treatment did to samples.

    **Arguments:**

    - `process`, `treatment`: which; the row "before" holds the samples as they were.
    - `evaluations`: network evaluations for a sequence, without those for sampling; for "before" these.
    - `gap`: nats per token short of the data, afterwards.
    - `gain`: nats per token by which the treatment made samples likelier.
    - `forbidden`: share of forbidden transitions afterwards, and `mended` by how much it fell.
    - `entropy`: of a token given the one before, minus the data's; below 0 the samples are poorer than the data.
    - `pairs`: total variation of pairs afterwards.
    - `changed`: share of tokens that differ from those before.
    """

    process: str
    treatment: str
    evaluations: Interval
    gap: Interval
    gain: Interval
    forbidden: Interval
    mended: Interval
    entropy: Interval
    pairs: Interval
    changed: Interval


def measure_corrections(
    world: World,
    processes: Mapping[str, InterpolatingProcess],
    denoiser: Callable[[InterpolatingProcess], Denoiser],
    *,
    steps: int = 16,
    end: float | int = 0.0,
    time: float | int = 0.01,
    temperature: float | int = 0.1,
    correction_steps: int = 64,
    sweeps: int = 2,
    sequences: int = 500,
    seeds: Iterable[int] = range(10),
) -> list[CorrectionRow]:
    """Correct samples of few steps in several ways, and say with 95 % confidence what each is worth.

    | treatment | |
    |---|---|
    | one jump | every token drawn anew at t = `time`, once and by itself (`Sampler.clean`): an ordinary last step from there |
    | self-correction | `SelfCorrection` at that time, one token a step, as published |
    | Gibbs sweeps | each token in turn drawn from the prediction given all the others, at the lower end of time |
    | more steps | no correction: new samples, with one more step for each evaluation of self-correction |

    **Arguments:**

    - `denoiser`: makes the one of a process, such as `world.oracle`, or one with `Perturbed` around it. `CopyObserved` makes it
      what masked models are like.
    - `steps`: of the ancestral sampler, few.
    - `end`: the last time of the sampler. At 0 no noise is left. Above 0 the samples keep the noise of that time, as those of
      samplers that stop there; masks alone are filled in, since nobody would take them for text.
    - `time`, `temperature`, `correction_steps`: of self-correction, and of the jump.
    - `sweeps`: of Gibbs moves.
    - `sequences`: for each seed.
    - `seeds`: at least two.

    **Example:**

    ```python
    from correction_study import measure_corrections
    from noiselab.bench.world import World

    world = World.sharp(length=8)
    hybrid = {"gidd": world.processes()["gidd"]}
    rows = measure_corrections(world, hybrid, world.oracle, steps=4, sequences=50, seeds=range(2))
    assert [row.treatment for row in rows][:3] == ["before", "one jump", "self-correction"]
    ```
    """
    seeds = tuple(seeds)
    if len(seeds) < 2:
        raise ValueError(f"there must be at least two seeds, for an interval; got {len(seeds)}")
    rows = []
    for name, process in processes.items():
        patient = _Case(world, process, denoiser(process), sequences, end)
        found = [patient.treated(steps, seed, time, temperature, correction_steps, sweeps) for seed in seeds]
        rows += [_summarize(name, kind, [outcomes[kind] for outcomes in found], found) for kind in found[0]]
    return rows


@dataclass(frozen=True)
class _Outcome:
    measures: SampleMeasures
    changed: float
    evaluations: float


class _Case:
    """One process and its denoiser."""

    def __init__(self, world: World, process: InterpolatingProcess, denoiser: Denoiser, sequences: int, end: float):
        self.world, self.process, self.sequences = world, process, sequences
        self.counter = CallCounter(ActiveOnly(denoiser))
        self.sampler, self.low, self.high = AncestralSampler(process, self.counter), *process.domain
        self.end = max(end, self.low)

    def treated(
        self, few: int, seed: int, time: float, temperature: float, steps: int, sweeps: int
    ) -> dict[str, _Outcome]:
        """What becomes of the samples of one seed."""
        random = Generator().manual_seed(seed)
        correction = SelfCorrection(self.counter, time=time, temperature=temperature, support=self.process.support)
        self.counter.reset()
        x = self.drawn(few, random)
        outcomes = {BEFORE: self.outcome(x, x)}
        at = torch.full((len(x),), time, dtype=torch.float64)
        outcomes["one jump"] = self.outcome(x, self.sampler.clean(x, at, generator=random))
        corrected = correction.correct(x, steps=steps, generator=random)
        outcomes["self-correction"] = self.outcome(x, corrected)
        outcomes["Gibbs sweeps"] = self.outcome(x, self.swept(x, sweeps, random))
        more = self.drawn(few + round(outcomes["self-correction"].evaluations), random)
        self.counter.sequences -= round(outcomes[BEFORE].evaluations * len(x))  # only what is beyond the samples before
        outcomes["more steps"] = self.outcome(x, more)
        return outcomes

    def drawn(self, steps: int, random: Generator) -> Tokens:
        """Samples, with the noise of the last time, but for masks."""
        shape = (self.sequences, self.world.length)
        times = torch.linspace(self.high, self.end, steps + 1, dtype=torch.float64)
        z = self.sampler.sample(shape, times=times, clean=self.end == self.low, generator=random)
        shows = ~self.process.data_tokens()[z]
        if not shows.any():
            return z
        return torch.where(shows, self.sampler.clean(z, times[-1].expand(len(z)), generator=random), z)

    def swept(self, x: Tensor, sweeps: int, random: Generator) -> Tokens:
        """Each token drawn anew once a sweep, from left to right."""
        gibbs, at = GibbsCorrector(self.process, self.counter), torch.full((len(x),), self.low, dtype=torch.float64)
        with torch.no_grad():
            for i in list(range(x.shape[1])) * sweeps:
                x = gibbs.step(x, at, rows=(torch.arange(x.shape[1]) == i).expand(x.shape), generator=random)
        return x

    def outcome(self, before: Tensor, after: Tensor) -> _Outcome:
        """The measures of treated samples, and the evaluations since the last ones."""
        changed = (before != after).double().mean().item()
        found = _Outcome(self.world.measure(after), changed, self.counter.sequences / len(after))
        self.counter.reset()
        return found


def _summarize(process: str, treatment: str, after: list[_Outcome], found: list[dict[str, _Outcome]]) -> CorrectionRow:
    both = [(a.measures, outcomes[BEFORE].measures) for a, outcomes in zip(after, found, strict=True)]
    return CorrectionRow(
        process=process,
        treatment=treatment,
        evaluations=interval([a.evaluations for a in after]),
        gap=interval([a.gap for a, _ in both]),
        gain=interval([b.gap - a.gap for a, b in both]),
        forbidden=interval([a.forbidden for a, _ in both]),
        mended=interval([b.forbidden - a.forbidden for a, b in both]),
        entropy=interval([a.entropy for a, _ in both]),
        pairs=interval([a.pairs for a, _ in both]),
        changed=interval([a.changed for a in after]),
    )


def tabulate_corrections(rows: Iterable[CorrectionRow]) -> str:
    """The rows as a Markdown table."""
    lines = [
        "| process | treatment | evaluations | gain, nats per token | gap | forbidden | entropy | pairs | changed |",
        "| --- | --- | ---: | ---: | ---: | ---: | ---: | ---: | ---: |",
    ]
    for row in rows:
        forbidden = f"{row.forbidden.mean:.2%} ± {row.forbidden.half:.2%}"
        cells = [row.process, row.treatment, f"{row.evaluations.mean:.1f}", f"{row.gain}", f"{row.gap}", forbidden]
        cells += [f"{row.entropy.mean:+.3f}", f"{row.pairs.mean:.3f}", f"{row.changed.mean:.1%}"]
        lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines)
