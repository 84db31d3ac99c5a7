r"""The order of the training data: which rows a process gets in which step, whatever the number of processes and workers.

A step has G rows. Row i of step s is number $q = s G + i$ of the run. Process r of W takes the rows with $i \bmod W = r$, so
that row k of its micro-batch m is $i = (m B + k) W + r$.
"""

import hashlib
from collections.abc import Callable, Iterator
from functools import lru_cache
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.utils.data import DataLoader, IterableDataset, get_worker_info

from .noise import derive_seed
from .stopping import shielded


class Share(NamedTuple):
    """The part of each step's rows that belongs to this process.

    **Arguments:**

    - `batch`: rows in a step, over all processes.
    - `micro`: rows in a micro-batch of this process.
    - `rank`, `world`: the index of this process, and the number of processes.
    """

    batch: int
    micro: int
    rank: int = 0
    world: int = 1

    @property
    def accumulation(self) -> int:
        """Micro-batches in a step."""
        return self.batch // (self.micro * self.world)

    def rows(self, micro: int) -> list[int]:
        """The rows of a micro-batch, among those of its step."""
        return [(micro * self.micro + k) * self.world + self.rank for k in range(self.micro)]


class Loading(NamedTuple):
    """How rows are read.

    **Arguments:**

    - `collate`: makes a batch of rows.
    - `workers`: loader processes.
    - `pin`: whether batches are put where a GPU copies from.
    """

    collate: Callable[[list[Any]], dict[str, Tensor]]
    workers: int = 0
    pin: bool = False


SMALL = 2**16
"""The largest number of rows whose order is drawn at once."""
ROUNDS = 6


@lru_cache(maxsize=2)
def order_of_pass(seed: int, number: int, rows: int) -> "Tensor | LargeOrder":
    """The rows of a data set in the random order of one pass."""
    derived = derive_seed("order", seed, number)
    if rows > SMALL:
        return LargeOrder(rows, derived)
    return torch.randperm(rows, generator=torch.Generator().manual_seed(derived))


class LargeOrder:
    r"""A random order of many rows, of which each is computed when it is needed, so that none is held in memory.

    A number of 2k bits is divided into halves (a, b). Each round maps them to $(b, a \oplus F_r(b))$ with a hash F_r, which
    can be undone, so that different numbers stay different. A result that is no row is mapped again until it is one.

    **Arguments:**

    - `rows`: the number of rows.
    - `seed`: the seed.

    **Source:** Black and Rogaway (2002), "Ciphers with Arbitrary Finite Domains", method 2 (cycle walking).
    """

    def __init__(self, rows: int, seed: int) -> None:
        self.rows, self.seed = rows, seed
        self.half = max(1, -(-(rows - 1).bit_length() // 2))

    def __getitem__(self, index: int) -> int:
        mask, found = (1 << self.half) - 1, index
        while True:
            a, b = found >> self.half, found & mask
            for key in range(ROUNDS):
                a, b = b, a ^ (self._hash(key, b) & mask)
            found = a << self.half | b
            if found < self.rows:
                return found

    def _hash(self, key: int, value: int) -> int:
        digest = hashlib.blake2b(
            value.to_bytes(8, "little"), digest_size=8, key=self.seed.to_bytes(8, "little") + bytes([key])
        )
        return int.from_bytes(digest.digest(), "little")


class RowFeed:
    """Micro-batches of a data set with rows at random places: one random order after another, each row once in each.

    The position is the number of the step alone.

    **Arguments:**

    - `dataset`: has a length and rows.
    - `share`, `loading`: the part of this process, and how it is read.
    - `seed`: the seed of the orders.
    """

    contiguous = False

    def __init__(self, dataset: Any, share: Share, loading: Loading, *, seed: int):
        self.dataset, self.share, self.loading, self.seed = dataset, share, loading, seed

    def steps(self, step: int) -> Iterator[list[dict[str, Tensor]]]:
        """The micro-batches of this step and all later ones."""
        loader = DataLoader(
            self.dataset,
            batch_sampler=self._places(step),
            collate_fn=self.loading.collate,
            num_workers=self.loading.workers,
            pin_memory=self.loading.pin,
            generator=torch.Generator().manual_seed(0),  # else workers would be seeded from the global generator
        )
        batches = iter(shielded(loader))
        while True:
            yield [next(batches) for _ in range(self.share.accumulation)]

    def position(self) -> None:
        """Nothing: the step says all."""

    def resume(self, positions: list[Any]) -> None:
        """Nothing to restore."""

    def _places(self, step: int) -> Iterator[list[int]]:
        total = len(self.dataset)
        while True:
            for micro in range(self.share.accumulation):
                numbers = [step * self.share.batch + row for row in self.share.rows(micro)]
                yield [int(order_of_pass(self.seed, q // total, total)[q % total]) for q in numbers]
            step += 1


class StreamFeed:
    """Micro-batches of a stream with virtual readers, dealt to processes and loader workers.

    Row q of the run is the next one of reader q mod R, so that the order depends on R alone.

    **Arguments:**

    - `stream`: has `readers`, a multiple of processes times workers, and `read(reader, state)`, as
      `noiselab.data.TokenStream`.
    - `share`, `loading`: the part of this process, and how it is read.
    """

    contiguous = False

    def __init__(self, stream: Any, share: Share, loading: Loading):
        self.stream, self.share, self.loading = stream, share, loading
        self.states: dict[int, Any] = {}

    def steps(self, step: int) -> Iterator[list[dict[str, Tensor]]]:
        """The micro-batches of this step and all later ones; the readers must be where that step begins."""
        first = step * self.share.batch // self.share.world
        rows = _Dealt(self.stream, self.share, first, dict(self.states))
        loader = DataLoader(
            rows,
            batch_size=None,
            num_workers=self.loading.workers,
            generator=torch.Generator().manual_seed(0),
        )
        source = iter(shielded(loader))
        while True:
            yield [self._batch(source) for _ in range(self.share.accumulation)]

    def _batch(self, source: Iterator[Any]) -> dict[str, Tensor]:
        rows = []
        for _ in range(self.share.micro):
            reader, row, state = next(source)
            self.states[reader] = state
            rows.append(row)
        batch = self.loading.collate(rows)
        return {name: part.pin_memory() for name, part in batch.items()} if self.loading.pin else batch

    def position(self) -> list[list[Any]]:
        """The readers of this process that have begun, with their states, of JSON types."""
        return [[reader, state] for reader, state in sorted(self.states.items())]

    def resume(self, positions: list[Any]) -> None:
        """Put the readers where all processes of an earlier run had left them."""
        self.states = {int(reader): state for part in positions for reader, state in part or []}


class _Dealt(IterableDataset[Any]):
    """The rows of one process, or of one of its loader workers, with the states of their readers after them."""

    def __init__(self, stream: Any, share: Share, first: int, states: dict[int, Any]):
        self.stream, self.share, self.first, self.states = stream, share, first, states

    def __iter__(self) -> Iterator[tuple[int, Any, Any]]:
        worker = get_worker_info()
        number, workers = (0, 1) if worker is None else (worker.id, worker.num_workers)
        readers: dict[int, Iterator[Any]] = {}
        place = self.first + number  # among the rows of this process
        while True:
            reader = (place * self.share.world + self.share.rank) % self.stream.readers
            if reader not in readers:
                readers[reader] = iter(self.stream.read(reader, self.states.get(reader)))
            row, state = next(readers[reader])
            yield reader, row, state
            place += workers


class EndlessFeed:
    """Micro-batches of any endless stream: each process reads all of it and keeps its rows; a resumed run reads from the start.

    Rows that follow each other stay together, as in streams of rows of one length at a time: row k of micro-batch m of
    process r is $i = (m W + r) B + k$.

    **Arguments:** as for `StreamFeed`.
    """

    contiguous = True

    def __init__(self, stream: Any, share: Share, loading: Loading):
        self.stream, self.share, self.loading = stream, share, loading

    def steps(self, step: int) -> Iterator[list[dict[str, Tensor]]]:
        """The micro-batches of this step and all later ones."""
        loader = DataLoader(
            self.stream,
            batch_size=None,
            num_workers=self.loading.workers,
            generator=torch.Generator().manual_seed(0),
        )
        source = iter(shielded(loader))
        for _ in range(step * self.share.batch):
            next(source)
        while True:
            size = self.share.micro
            rows = [next(source) for _ in range(self.share.batch)]
            firsts = [(micro * self.share.world + self.share.rank) * size for micro in range(self.share.accumulation)]
            yield [self.loading.collate(rows[first : first + size]) for first in firsts]

    def position(self) -> None:
        """Nothing: the step says all."""

    def resume(self, positions: list[Any]) -> None:
        """Nothing to restore."""


def feed(dataset: Any, share: Share, loading: Loading, *, seed: int) -> RowFeed | StreamFeed | EndlessFeed:
    """The feed of a data set."""
    if not isinstance(dataset, IterableDataset):
        return RowFeed(dataset, share, loading, seed=seed)
    if hasattr(dataset, "readers") and hasattr(dataset, "read"):
        return StreamFeed(dataset, share, loading)
    return EndlessFeed(dataset, share, loading)
