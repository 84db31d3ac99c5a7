"""Self-correction of a trained model's samples over temperatures and steps, measured by a judge, with baselines.

A judge prefers likely text, and less diverse text is more likely. Each row therefore also gives the improvement over
fresh samples of *equal entropy*, which sampling at a lower temperature provides without correction.
"""

import math
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import astuple, dataclass

import numpy as np
import torch
from torch import Generator, Tensor, nn

from ..correctors import SelfCorrection
from ..denoisers import Denoiser, Support, Temperature
from ..denoisers.modes import evaluating
from ..distributed import Processes, is_sharded, require_processes
from ..numerics import require_count, require_number
from ..process import InterpolatingProcess
from ..samplers import AncestralSampler
from ..typing import Tokens
from .intervals import Interval, interval
from .judge import generative_perplexity

BEFORE, JUMP, CORRECTED, AGAIN, COOLER = "before", "one jump", "self-correction", "jump, then self-correction", "cooler"
KINDS = BEFORE, JUMP, CORRECTED, AGAIN, COOLER
COOLER_TEMPERATURES = (0.9, 0.8, 0.7, 0.6, 0.5)


@dataclass(frozen=True)
class Treated:
    """Samples after a treatment.

    **Arguments:**

    - `treatment`: "before"; "one jump", all tokens resampled at the correction's time in one evaluation;
      "self-correction"; "jump, then self-correction", at the first temperature only; or "cooler", fresh samples at a
      lower temperature.
    - `temperature`, `steps`: those of the treatment, or 0.
    - `nats`, `entropy`, `distinct`: of the judge: -log p, the entropy within a sample, the fraction of distinct pairs.
    - `changed`: the fraction of tokens that differ from those before; 1 for fresh samples.
    """

    treatment: str
    temperature: float
    steps: int
    nats: float
    entropy: float
    distinct: float
    changed: float


@dataclass(frozen=True)
class GridRow:
    """One treatment over all seeds, in nats per token with 95 % confidence intervals.

    **Arguments:**

    - `treatment`, `temperature`, `steps`: as in `Treated`.
    - `nats`: the judge's -log p; `gain`: its decrease.
    - `beyond`: the decrease relative to fresh samples of the same entropy, by a least-squares line through those of all
      temperatures: the gain beyond that of less diverse text. NaN if no temperature gives an entropy this low.
    - `entropy`: the entropy of the tokens within a sample; `distinct`: the fraction of distinct pairs among all pairs
      of tokens.
    - `changed`: the fraction of tokens that differ.
    """

    treatment: str
    temperature: float
    steps: int
    nats: Interval
    gain: Interval
    beyond: Interval
    entropy: Interval
    distinct: Interval
    changed: Interval


def correction_grid(
    process: InterpolatingProcess,
    denoiser: Denoiser,
    judge: nn.Module,
    length: int,
    *,
    samples: int = 32,
    sampling_steps: int = 64,
    end: float | int = 0.0,
    time: float | int = 0.01,
    temperatures: Sequence[float] = (0.1,),
    steps: Sequence[int] = (64,),
    tokens_per_step: int = 1,
    cooler: Sequence[float] = COOLER_TEMPERATURES,
    start: int | None = None,
    seeds: Iterable[int] = range(5),
    processes: Processes | None = None,
) -> list[GridRow]:
    """Generate samples, correct them at each temperature for each number of steps, and score all of them with a judge.

    Each seed generates one set of samples, which is used by all treatments; gains are computed seed by seed.

    **Arguments:**

    - `denoiser`: the denoiser of the trained model; only tokens in the process's support are sampled.
    - `judge`: a causal model with the same tokenizer; `start` as for `generative_perplexity`.
    - `length`: the number of tokens of a sample; `samples`: the number of samples for each seed.
    - `sampling_steps`: the steps of the ancestral sampler, uniform from the upper end of time to `end`. If `end` is
      above 0, samples keep the noise of that time, as published ones do; only masks are filled in.
    - `time`, `temperatures`, `steps`, `tokens_per_step`: settings of self-correction.
    - `cooler`: temperatures below 1 for the fresh samples used as baseline.
    - `seeds`: at least two seeds.
    - `processes`: those that divide the seeds among them, from `noiselab.distributed.join_processes`; by default this one
      does all. The result is the same.

    **Raises:** `ValueError` if there are too few seeds, the sampler or self-correction rejects a setting, or processes are
    given and the weights are sharded.

    **Source:** the treatment and its grid: von Ruette et al. (2025), arXiv 2503.04482, section 5.3; entropy beside perplexity:
    Zheng et al. (2024), arXiv 2409.02908.

    **Example:**

    ```python
    import torch
    import noiselab as nl
    from noiselab.evaluation import correction_grid

    process = nl.gidd(vocab_size=3, mask_id=2, p_uniform=0.2)
    oracle = nl.MarkovOracle(torch.tensor([0.5, 0.5]), torch.tensor([[0.9, 0.1], [0.2, 0.8]]), process)

    class Judge(torch.nn.Module):
        def forward(self, input_ids, attention_mask):
            return oracle.transition.log()[input_ids]

    rows = correction_grid(process, oracle, Judge(), 8, samples=8, sampling_steps=4, steps=(4,), seeds=range(2))
    assert [row.treatment for row in rows][:3] == ["before", "one jump", "self-correction"]
    ```
    """
    seeds = tuple(seeds)
    for name, count in (("length", length), ("samples", samples), ("sampling_steps", sampling_steps)):
        require_count(name, count)
    require_number("end", end, process.domain[0], process.domain[1])
    if len(seeds) < 2:
        raise ValueError(f"there must be at least two seeds, for an interval; got {len(seeds)}")
    if not (temperatures and steps):
        raise ValueError(f"temperatures and steps must be given; got {list(temperatures)} and {list(steps)}")
    allowed = denoiser if process.support is None else Support(denoiser, process.support)
    if processes is not None and (is_sharded(denoiser) or is_sharded(judge)):
        raise ValueError(
            "processes must be None with sharded weights, because sets take different numbers of network calls"
        )

    def work(numbers: Sequence[int]) -> Iterator[list[Tensor]]:
        for seed in (seeds[number] for number in numbers):
            study = _Set(process, allowed, judge, (samples, length), sampling_steps, end, start, seed)
            corrections = [
                SelfCorrection(
                    allowed, time=time, temperature=t, tokens_per_step=tokens_per_step, support=process.support
                )
                for t in temperatures
            ]
            yield [_as_numbers([*study.treated(corrections, steps), *study.cooler(cooler)])]

    about = [
        "grid",
        seeds,
        length,
        samples,
        sampling_steps,
        end,
        time,
        temperatures,
        steps,
        tokens_per_step,
        cooler,
        start,
    ]
    with torch.no_grad(), evaluating(allowed):
        found = require_processes(processes).collect(work, len(seeds), about=about)
    return _summary([_from_numbers(numbers) for (numbers,) in found])


def _as_numbers(treated: Sequence[Treated]) -> Tensor:
    rows = [[KINDS.index(one.treatment), *astuple(one)[1:]] for one in treated]
    return torch.tensor(rows, dtype=torch.float64)


def _from_numbers(rows: Tensor) -> list[Treated]:
    return [Treated(KINDS[int(kind)], heat, int(steps), *rest) for kind, heat, steps, *rest in rows.tolist()]


class _Set:
    """The samples of one seed and their treatments."""

    def __init__(
        self,
        process: InterpolatingProcess,
        denoiser: Denoiser,
        judge: nn.Module,
        shape: tuple[int, int],
        steps: int,
        end: float,
        start: int | None,
        seed: int,
    ):
        self.process, self.denoiser, self.judge, self.shape, self.start = process, denoiser, judge, shape, start
        low, high = process.domain
        self.end = max(end, low)
        self.times = torch.linspace(high, self.end, steps + 1, dtype=torch.float64)
        self.random = Generator().manual_seed(seed)
        self.samples = self.drawn(denoiser)

    def drawn(self, denoiser: Denoiser) -> Tokens:
        """Generate samples that keep the noise of the last time, except masks."""
        sampler, last = AncestralSampler(self.process, denoiser), self.end == self.process.domain[0]
        z = sampler.sample(self.shape, times=self.times, clean=last, generator=self.random)
        shows = ~self.process.data_tokens(z.device)[z]
        if not shows.any():
            return z
        return torch.where(shows, sampler.clean(z, self.times[-1].expand(len(z)), generator=self.random), z)

    def judged(self, treatment: str, x: Tensor, temperature: float = 0.0, steps: int = 0) -> Treated:
        changed = (x != self.samples).double().mean().item() if treatment != COOLER else 1.0
        judgement = generative_perplexity(self.judge, x, start=self.start, batch_size=64)
        found = judgement.nats, judgement.entropy, judgement.distinct[1]
        return Treated(treatment, temperature, steps, *found, changed)

    def treated(self, corrections: Sequence[SelfCorrection], steps: Sequence[int]) -> list[Treated]:
        """The samples before and after each treatment."""
        x = self.samples
        at = torch.full((len(x),), corrections[0].time, dtype=torch.float64, device=x.device)
        jumped = AncestralSampler(self.process, self.denoiser).clean(x, at, generator=self.random)
        results = [self.judged(BEFORE, x), self.judged(JUMP, jumped, steps=1)]
        for treatment, first, some in ((CORRECTED, x, corrections), (AGAIN, jumped, corrections[:1])):
            for correction in some:
                walk = [first, *correction.walk(first, steps=max(steps), generator=self.random)]
                results += [
                    self.judged(treatment, walk[min(n, len(walk) - 1)], correction.temperature, n) for n in steps
                ]
        return results

    def cooler(self, temperatures: Sequence[float]) -> list[Treated]:
        """Fresh samples at lower temperatures."""
        return [self.judged(COOLER, self.drawn(Temperature(self.denoiser, t)), t) for t in temperatures]


def _summary(found: list[list[Treated]]) -> list[GridRow]:
    rows, fresh = [], _Fresh([treated for seed in found for treated in seed])
    for k, first in enumerate(found[0]):
        after = [treated[k] for treated in found]
        rows.append(
            GridRow(
                treatment=first.treatment,
                temperature=first.temperature,
                steps=first.steps,
                nats=interval([a.nats for a in after]),
                gain=interval([t[0].nats - a.nats for t, a in zip(found, after, strict=True)]),
                beyond=interval(fresh.beyond(after)),
                entropy=interval([a.entropy for a in after]),
                distinct=interval([a.distinct for a in after]),
                changed=interval([a.changed for a in after]),
            )
        )
    return rows


class _Fresh:
    """The least-squares line through nats and entropies of all fresh samples, at all temperatures."""

    def __init__(self, treated: list[Treated]):
        points = [t for t in treated if t.treatment in (BEFORE, COOLER)]
        x, y = (np.array([getattr(point, name) for point in points]) for name in ("entropy", "nats"))
        self.known = float(np.ptp(x)) > 0
        line: tuple[float, float] = tuple(np.polyfit(x, y, 1)) if self.known else (0.0, 0.0)
        self.slope, self.level = line
        self.coolest = min(
            (
                float(np.mean([t.entropy for t in treated if (t.treatment, t.temperature) == kind]))
                for kind in {(t.treatment, t.temperature) for t in treated if t.treatment in (BEFORE, COOLER)}
            ),
            default=math.inf,
        )

    def beyond(self, after: list[Treated]) -> list[float]:
        """The distance below the line, set by set; NaN if fresh samples never have an entropy this low."""
        entropies = [a.entropy for a in after]
        if not self.known or float(np.mean(entropies)) < self.coolest - 1e-9:
            return [math.nan] * len(after)
        return [float(self.level + self.slope * a.entropy) - a.nats for a in after]


def correction_grid_table(rows: Iterable[GridRow]) -> str:
    """The rows as a Markdown table."""
    lines = [
        "| treatment | temperature | steps | judge, nats per token | gain | beyond equal entropy | entropy | pairs | changed |",
        "| --- | ---: | ---: | ---: | ---: | ---: | ---: | ---: | ---: |",
    ]
    for row in rows:
        setting = [f"{row.temperature:g}" if row.temperature else "", f"{row.steps}" if row.steps else ""]
        numbers = [f"{row.nats.mean:.3f} ± {row.nats.half:.3f}", _signed(row.gain), _signed(row.beyond)]
        rest = [f"{row.entropy.mean:.3f}", f"{row.distinct.mean:.3f}", f"{row.changed.mean:.1%}"]
        lines.append(f"| {' | '.join([row.treatment, *setting, *numbers, *rest])} |")
    return "\n".join(lines)


def _signed(value: Interval) -> str:
    return "" if math.isnan(value.mean) else f"{value.mean:+.3f} ± {value.half:.3f}"
