"""What the steps of a walk take from their times, evaluated once for the whole grid."""

import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor

from ..process import NoiseProcess
from ..typing import Grid, Times


class _Row(NamedTuple):
    """The times of one step, and the weights of the process at both, if they are read."""

    process: NoiseProcess | None
    t: Tensor
    s: Tensor
    weights: Tensor | None


class _Current(threading.local):
    """The row of the step that is being computed in this thread."""

    row: _Row | None = None


_CURRENT = _Current()


class TimeTable:
    """The weights of a process at all times of a grid (`NoiseProcess.time_weights`).

    **Arguments:**

    - `process`: the noise process; `None` if no step reads the weights.
    - `times`: the grid of the walk.
    - `batch`: the number of sequences.
    """

    def __init__(self, process: NoiseProcess | None, times: Grid, batch: int):
        self.process = process
        # Rows of memory of their own: what as_token_times would copy in every step.
        self.times: Sequence[Tensor] = times[:, None].expand(-1, batch).contiguous().unbind()
        with torch.no_grad():
            found = None if process is None else process.time_weights(times[None])
        self.pairs: Sequence[Tensor] | None = None
        if found is not None:
            pairs = torch.stack([found[0, 1:], found[0, :-1]], 1)[:, None]
            self.pairs = pairs.expand(-1, batch, -1, -1).unbind()

    @contextmanager
    def step(self, k: int) -> Iterator[tuple[Tensor, Tensor]]:
        """Context manager for the step from time k to k + 1 of the grid: inside, `known_weights` finds its weights.

        **Returns:** both times, [batch].
        """
        t, s = self.times[k], self.times[k + 1]
        before = _CURRENT.row
        _CURRENT.row = _Row(self.process, t, s, None if self.pairs is None else self.pairs[k])
        try:
            yield t, s
        finally:
            _CURRENT.row = before


def on_grid(t: Times, s: Times) -> bool:
    """Whether these are the times of the walk's step as it takes them from its grid, so that every sequence moves."""
    row = _CURRENT.row
    return row is not None and row.t is t and row.s is s


def known_weights(process: NoiseProcess, t: Times, s: Times) -> Float[Tensor, "batch times parts"] | None:
    """The weights of the process at s and t from the table of the walk; `None` for other times than those of its step."""
    row = None if torch.compiler.is_compiling() else _CURRENT.row
    return row.weights if row is not None and row.process is process and row.t is t and row.s is s else None
