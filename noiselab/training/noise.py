"""Randomness of a training step as a function of its place: no state to save, and the same on any number of processes.

Every number is drawn from a generator whose seed is a hash of (seed, step, row), where `row` counts the sequences of a
step over micro-steps, batch rows and processes (`Place.numbers`). Therefore a resumed run draws the same numbers as an
uninterrupted one, two processes draw the same numbers as one process on the joint batch, and no two sequences share
their noise.
"""

import hashlib
from functools import lru_cache
from typing import Any, NamedTuple, Protocol, runtime_checkable

import torch
from torch import Generator, Tensor

from ..times import stratified_times
from ..typing import PerSequence, PerToken, Times


@runtime_checkable
class TimesOfStep(Protocol):
    """The times of all sequences of an optimizer step, for example `noiselab.times.block_times` with its block bound."""

    def __call__(self, batch: int, length: int, *, generator: Generator) -> Tensor | tuple[Tensor, Tensor]:
        """Times [batch] or [batch, length], or such times and the weight of each; `batch` counts the sequences of the
        step, over all micro-steps and processes.
        """
        ...


def derive_seed(*parts: int | str) -> int:
    """A seed for `torch.Generator`: a hash (BLAKE2b) of the parts, in [0, 2^63)."""
    digest = hashlib.blake2b(repr(parts).encode(), digest_size=8).digest()
    return int.from_bytes(digest, "big") >> 1


class Place(NamedTuple):
    """The position of a batch in a run.

    **Arguments:**

    - `step`: the number of completed optimizer steps.
    - `micro`, `accumulation`: the index of this batch among the micro-batches of its optimizer step on this process,
      and their number.
    - `rank`, `world`: the index of this process, and the number of processes.
    - `seed`: the seed of the run's noise.
    - `row`, `rows`: the index of the first sequence of the batch in its step, and the number of sequences in the step,
      where batches differ in size, as in evaluation; by default they follow from the others.
    - `contiguous`: whether the sequences of a batch follow each other in the step, as those of streams whose rows must stay
      together, and where transformers' `Trainer` distributes them. By default they are dealt to the processes in turn.
    """

    step: int
    micro: int = 0
    accumulation: int = 1
    rank: int = 0
    world: int = 1
    seed: int = 0
    row: int | None = None
    rows: int | None = None
    contiguous: bool = False

    def numbers(self, batch: int) -> range:
        r"""The index within its step of each of `batch` sequences.

        Sequence k of micro-batch m on process r of W has index $(m B + k) W + r$, in batches of B: one process that takes
        the sequences of a step in order, and W processes that take them in turn, give each the same index. If
        `contiguous`, it is $(m W + r) B + k$.
        """
        if self.row is not None:
            return range(self.row, self.row + batch)
        if self.contiguous:
            first = (self.micro * self.world + self.rank) * batch
            return range(first, first + batch)
        first = self.micro * batch * self.world + self.rank
        return range(first, first + batch * self.world, self.world)

    def total(self, batch: int) -> int:
        """The number of sequences in a step, over all micro-steps and processes, each with `batch`."""
        if self.rows is not None:
            return self.rows
        return self.accumulation * self.world * batch


def row_generators(place: Place, batch: int, device: torch.device) -> list[Generator]:
    """Return one generator for the noise of each of `batch` sequences."""
    seeds = (derive_seed("noise", place.seed, place.step, row) for row in place.numbers(batch))
    return [Generator(device).manual_seed(seed) for seed in seeds]


def step_times(place: Place, batch: int, low: float, high: float, device: torch.device) -> PerSequence:
    """Return stratified times in [low, high) for `batch` sequences; the strata cover *all* sequences of the optimizer
    step.

    Each of n equal intervals contains one time, where n is the number of sequences over all micro-steps and processes. In
    a step of batches of any size (`place.rows`), intervals are assigned to sequences at random.

    **Returns:** float64.
    """
    numbers = list(place.numbers(batch))
    if place.rows is not None:
        return _shuffled_times(place.seed, place.step, place.rows, low, high)[numbers].to(device)
    generator = Generator().manual_seed(derive_seed("time", place.seed, place.step))  # one shift for the whole step
    whole = stratified_times(place.total(batch), low=low, high=high, generator=generator)
    return whole[numbers].to(device, non_blocking=True)


@lru_cache(maxsize=2)
def _shuffled_times(seed: int, step: int, rows: int, low: float, high: float) -> PerSequence:
    """Stratified times in random order: evaluation data are often sorted, and a time must not depend on the order."""
    generator = Generator().manual_seed(derive_seed("time", seed, step))
    times = stratified_times(rows, low=low, high=high, generator=generator)
    return times[torch.randperm(rows, generator=generator)]


def drawn_times(
    place: Place, batch: int, length: int, times: TimesOfStep, device: torch.device
) -> tuple[Times, PerToken | None]:
    """Return the times that a function draws for `batch` sequences of the optimizer step, and their weights, if it
    returns any.

    Each process draws those of the whole step, with an equally seeded generator, and selects its own. In a step of batches
    of any size (`place.rows`), they are assigned to sequences at random.

    **Arguments:**

    - `place`: the position of the batch in the run.
    - `times`: called with the number of sequences in the step, `length` and a `generator` on the CPU.

    **Returns:** float64 [batch] or [batch, length] each; the weights have the shape of the times.

    **Raises:** `ValueError` if the function returns other shapes.
    """
    draw: Any = _times_of_step
    try:
        hash(times)
    except TypeError:  # such as a dataclass that is not frozen
        draw = draw.__wrapped__
    t, weight = draw(times, place.seed, place.step, place.total(batch), length, place.rows is not None)
    numbers = list(place.numbers(batch))
    own = t[numbers].to(device, non_blocking=True)
    return own, None if weight is None else weight[numbers].to(device, non_blocking=True)


@lru_cache(maxsize=1)  # one step is drawn once for all of its micro-batches
def _times_of_step(
    times: Any, seed: int, step: int, rows: int, length: int, shuffled: bool
) -> tuple[Tensor, Tensor | None]:
    generator = Generator().manual_seed(derive_seed("time", seed, step))
    drawn = times(rows, length, generator=generator)
    t, weight = drawn if isinstance(drawn, tuple) else (drawn, None)
    if t.shape not in ((rows,), (rows, length)) or (weight is not None and weight.shape != t.shape):
        came = f"{list(t.shape)}{'' if weight is None else f' with weights {list(weight.shape)}'}"
        raise ValueError(f"times must be [{rows}] or [{rows}, {length}], and weights have the same shape; got {came}")
    if shuffled:
        order = torch.randperm(rows, generator=generator)
        t, weight = t[order], None if weight is None else weight[order]
    return t.double(), None if weight is None else weight.double()
