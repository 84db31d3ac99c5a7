"""Randomness of a training step as a function of its place: no state to save, and the same on any number of processes.

Every number is drawn from a generator whose seed is a hash of (seed, step, row), where `row` counts the sequences of a
step over micro-steps, processes and batch rows. Therefore a resumed run draws the same numbers as an uninterrupted one,
two processes draw the same numbers as one process on the joint batch, and no two sequences share their noise.
"""

import hashlib
from functools import lru_cache
from typing import NamedTuple

import torch
from torch import Generator

from ..times import stratified_times
from ..typing import PerSequence


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
    """

    step: int
    micro: int = 0
    accumulation: int = 1
    rank: int = 0
    world: int = 1
    seed: int = 0
    row: int | None = None
    rows: int | None = None

    def first(self, batch: int) -> int:
        """The index within its step of the first of `batch` sequences."""
        if self.row is not None:
            return self.row
        return (self.micro * self.world + self.rank) * batch

    def total(self, batch: int) -> int:
        """The number of sequences in a step, over all micro-steps and processes, each with `batch`."""
        if self.rows is not None:
            return self.rows
        return self.accumulation * self.world * batch


def row_generators(place: Place, batch: int, device: torch.device) -> list[Generator]:
    """Return one generator for the noise of each of `batch` sequences."""
    first = place.first(batch)
    return [
        Generator(device).manual_seed(derive_seed("noise", place.seed, place.step, row))
        for row in range(first, first + batch)
    ]


def step_times(place: Place, batch: int, low: float, high: float, device: torch.device) -> PerSequence:
    """Return stratified times in [low, high) for `batch` sequences; the strata cover *all* sequences of the optimizer
    step.

    Each of n equal intervals contains one time, where n is the number of sequences over all micro-steps and processes. In
    a step of batches of any size (`place.rows`), intervals are assigned to sequences at random.

    **Returns:** float64.
    """
    if place.rows is not None:
        first = place.first(batch)
        return _shuffled_times(place.seed, place.step, place.rows, low, high)[first : first + batch].to(device)
    generator = Generator().manual_seed(derive_seed("time", place.seed, place.step))  # one shift for the whole step
    times = stratified_times(
        batch, first=place.first(batch), total=place.total(batch), low=low, high=high, generator=generator
    )
    return times.to(device, non_blocking=True)


@lru_cache(maxsize=2)
def _shuffled_times(seed: int, step: int, rows: int, low: float, high: float) -> PerSequence:
    """Stratified times in random order: evaluation data are often sorted, and a time must not depend on the order."""
    generator = Generator().manual_seed(derive_seed("time", seed, step))
    times = stratified_times(rows, low=low, high=high, generator=generator)
    return times[torch.randperm(rows, generator=generator)]
