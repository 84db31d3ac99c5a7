"""The sampler bench: how far from the data a sampler's law is, against what it costs, where the truth is known."""

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any, NamedTuple, TypeAlias

import torch
from torch import Generator, Tensor

from ..denoisers import ActiveOnly, CallCounter, Denoiser
from ..denoisers.base import in_a_line
from ..process import InterpolatingProcess
from ..samplers import Sampler
from .world import SampleMeasures, World

Factory: TypeAlias = Callable[[InterpolatingProcess, Denoiser], Sampler]
"""Makes a sampler; a sampler class is one."""


@dataclass(frozen=True)
class Row(SampleMeasures):
    """A method at one number of evaluations: what it cost, and what its samples are like.

    **Arguments:** those of `SampleMeasures`, and

    - `world`, `process`, `denoiser`, `method`: which.
    - `budget`: the evaluations per sequence that were aimed at.
    - `steps`: the steps that were taken for it.
    - `evaluations`: how often the network was asked about a sequence, as counted.
    - `needed`: the same, without the times that no token of the sequence needed an answer: what a sequence costs alone.
    - `sequences`: how many there were.
    """

    world: str
    process: str
    denoiser: str
    method: str
    budget: int
    steps: int
    evaluations: float
    needed: float
    sequences: int


def bench(
    catalogue: Mapping[str, Factory],
    world: World,
    process: InterpolatingProcess,
    denoiser: Denoiser | None = None,
    *,
    evaluations: Sequence[int] = (8, 16, 32, 64, 128, 256),
    sequences: int = 2000,
    seeds: Iterable[int] = (0,),
    name: str | None = None,
    label: str | None = None,
) -> list[Row]:
    """Sample with each method at about the same numbers of network evaluations, and measure exactly.

    The number of steps is found by counting: a method that asks twice in a step gets half as many. One that does not get
    dearer with more steps, such as `FirstHittingSampler`, gets one row.

    **Arguments:**

    - `catalogue`: name -> factory(process, denoiser); a sampler class is one.
    - `denoiser`: the exact one by default.
    - `evaluations`: numbers of evaluations per sequence to aim at.
    - `sequences`: how many for each row and seed.
    - `seeds`: of independent sets of samples, which are put together.
    - `name`, `label`: of the process and of the denoiser, for tables.

    **Returns:** a row for each method and number of evaluations.

    **Raises:** `ValueError` for numbers that are too small, and for a world with impossible transitions if the denoiser is
    exact: it has no answer to a sequence that cannot be.

    **Example:**

    ```python
    import noiselab as nl
    from noiselab.bench.runner import bench
    from noiselab.bench.figures import table
    from noiselab.bench.world import World

    world = World.sharp(length=8)
    process = nl.gidd(vocab_size=world.states + 1, mask_id=world.states, p_uniform=0.2)
    rows = bench({"mine": nl.AncestralSampler}, world, process, evaluations=(4, 8), sequences=300)
    print(table(rows))
    ```
    """
    seeds, budgets, rows = tuple(seeds), sorted(evaluations), []
    if not budgets or budgets[0] < 1 or sequences < 2 or not seeds:
        raise ValueError(
            "evaluations must be at least 1, sequences at least 2, and there must be a seed; got "
            f"{tuple(evaluations)}, {sequences}, {seeds}"
        )
    if denoiser is None and not (world.transition > 0).all():
        raise ValueError(
            "transitions must be positive for the exact denoiser, or give another denoiser; got a transition of probability 0"
        )
    if label is None:
        label = "exact denoiser" if denoiser is None else in_a_line(denoiser)
    labels: dict[str, Any] = {
        "world": world.name,
        "process": repr(process) if name is None else name,
        "denoiser": label,
    }
    counter = CallCounter(ActiveOnly(world.oracle(process) if denoiser is None else denoiser))
    for method, factory in catalogue.items():
        run, last = _Run(factory(process, counter), counter, (sequences, world.length), seeds), None
        for budget in budgets:
            cost = 1.0 if last is None else last.evaluations / last.steps
            steps = max(1, min(budget, int(budget / max(cost, 1e-9) + 1e-6)))
            if last is not None and steps == last.steps:
                continue
            batch, flat = _near(run, budget, steps)
            if last is not None and batch.steps > 1.5 * last.steps and batch.evaluations < 1.05 * last.evaluations:
                break  # more steps cost nothing: it has done all that it can
            last = batch
            rows.append(
                Row(
                    **asdict(world.measure(batch.x)),
                    **labels,
                    method=method,
                    budget=budget,
                    steps=batch.steps,
                    evaluations=batch.evaluations,
                    needed=batch.needed,
                    sequences=len(batch.x),
                )
            )
            if flat:
                break
    return rows


class _Batch(NamedTuple):
    """Samples, and what they cost."""

    x: Tensor
    steps: int
    evaluations: float
    needed: float


class _Run(NamedTuple):
    """A sampler, ready to be asked for samples in so many steps."""

    sampler: Sampler
    counter: CallCounter
    shape: tuple[int, int]
    seeds: tuple[int, ...]

    def __call__(self, steps: int) -> _Batch:
        self.counter.reset()
        x = torch.cat(
            [self.sampler.sample(self.shape, steps=steps, generator=Generator().manual_seed(s)) for s in self.seeds]
        )
        return _Batch(x, steps, self.counter.sequences / len(x), self.counter.active / len(x))


def _near(run: _Run, budget: int, steps: int) -> tuple[_Batch, bool]:
    """Samples for about so many evaluations, from a first guess; and whether the number of steps makes no difference."""
    batch, flat = run(steps), False
    while batch.evaluations > 1.1 * budget and batch.steps > 1 and not flat:
        share = batch.steps * budget / batch.evaluations
        fewer = run(max(1, min(batch.steps - 1, int(share + 1e-6))))
        flat, batch = fewer.steps <= batch.steps / 1.5 and fewer.evaluations > 0.95 * batch.evaluations, fewer
    return batch, flat
