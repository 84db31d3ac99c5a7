"""The sampler benchmark: the distance of a sampler's distribution from known data, against its cost."""

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
"""A function that builds a sampler, for example a sampler class."""


@dataclass(frozen=True)
class Row(SampleMeasures):
    """The cost of a method at one number of evaluations, and the measures of its samples.

    **Arguments:** those of `SampleMeasures`, and

    - `world`, `process`, `denoiser`, `method`: their names.
    - `budget`: the target number of evaluations per sequence.
    - `steps`: the number of steps.
    - `evaluations`: the counted number of network evaluations per sequence.
    - `needed`: the same without evaluations in which no token of the sequence was active: the cost of a sequence alone.
    - `sequences`: the number of sequences.
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

    The number of steps is found by counting: a method with two evaluations per step gets half the number of steps. A
    method whose cost does not grow with the number of steps, such as `FirstHittingSampler`, gets one row.

    **Arguments:**

    - `catalogue`: name -> factory(process, denoiser), for example a sampler class.
    - `denoiser`: the denoiser; by default the exact one.
    - `evaluations`: target numbers of evaluations per sequence.
    - `sequences`: the number of sequences for each row and seed.
    - `seeds`: seeds of independent sets of samples, which are pooled.
    - `name`, `label`: the names of the process and of the denoiser, for tables.

    **Returns:** a row for each method and number of evaluations.

    **Raises:** `ValueError` if a number is too small, or the world has impossible transitions and the denoiser is
    exact: its prediction is undefined for impossible sequences.

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
                break  # the cost does not depend on the number of steps
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
    """Samples and their cost."""

    x: Tensor
    steps: int
    evaluations: float
    needed: float


class _Run(NamedTuple):
    """A sampler that is called with a number of steps."""

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
    """Samples with about `budget` evaluations, from an initial guess of steps, and whether the cost is independent of
    steps.
    """
    batch, flat = run(steps), False
    while batch.evaluations > 1.1 * budget and batch.steps > 1 and not flat:
        share = batch.steps * budget / batch.evaluations
        fewer = run(max(1, min(batch.steps - 1, int(share + 1e-6))))
        flat, batch = fewer.steps <= batch.steps / 1.5 and fewer.evaluations > 0.95 * batch.evaluations, fewer
    return batch, flat
