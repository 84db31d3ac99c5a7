"""What samplers keep from step to step of one walk, so that the sampler itself has no state.

Each walk has one `WalkState`; samplers find it in the step (`current_state`). A wrapper that runs the walk of its inner sampler
several times, such as `BlockSampler`, makes one for the whole.
"""

import threading
from collections.abc import Hashable
from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn.functional import pad

from ..categorical import Randomness
from ..typing import RowLogits, Selection
from .base import Advance, Stage


class Kept(NamedTuple):
    """What one sampler keeps.

    **Arguments:**

    - `tensors`: numbers per token, [batch, length], by name; those of a longer sequence are 0 at its new tokens.
    - `steps`: the number of the step in the current block of each sequence, from 0.
    - `moving`: the tokens that moved in it.
    - `rows`, `logits`: the last predictions of the network, and where they are.
    """

    tensors: dict[str, Tensor]
    steps: Tensor
    moving: Selection
    rows: Selection | None = None
    logits: RowLogits | None = None


class WalkState:
    """What the samplers of one walk keep from step to step."""

    def __init__(self) -> None:
        self._kept: dict[Hashable, Kept] = {}

    def read(self, owner: Hashable, moving: Selection) -> Kept:
        """What the sampler has kept, for a step in which these tokens move; `steps` is the number of this step.

        **Raises:** `ValueError` if these are not the sequences of the walk.
        """
        old = self._kept.get(owner)
        if old is None:
            return Kept({}, torch.zeros(len(moving), dtype=torch.long, device=moving.device), moving)
        if len(old.steps) != len(moving):
            raise ValueError(f"a walk must keep its {len(old.steps)} sequences in all steps; got {len(moving)}")
        length = moving.shape[1]
        before = fit(old.moving, length)
        # Other tokens move in another block.
        steps = torch.where((before == moving).all(-1), old.steps + 1, 0)
        rows = None if old.rows is None else fit(old.rows, length)
        tensors = {name: fit(values, length) for name, values in old.tensors.items()}
        return Kept(tensors, steps, moving, rows, old.logits)

    def write(self, owner: Hashable, kept: Kept) -> None:
        """Keep this for the next step."""
        self._kept[owner] = kept


def fit(values: Tensor, length: int) -> Tensor:
    """Numbers per token for sequences of this length, of which more may be seen than before."""
    return values if values.shape[1] == length else pad(values, (0, length - values.shape[1]))


class _Current(threading.local):
    """The state of the walk whose step is being computed in this thread, if there is one."""

    state: WalkState | None = None


_CURRENT = _Current()


def current_state() -> WalkState:
    """That of the walk; outside of a walk an empty one."""
    return WalkState() if _CURRENT.state is None else _CURRENT.state


def with_state(advance: Advance) -> Advance:
    """The function that makes one step of a walk, with a state for this walk.

    Of two such functions in each other, the inner one counts, which belongs to the outermost walk: the step of a wrapper is
    made within that of the sampler inside, whose walk it uses.
    """
    state = WalkState()

    def within_walk(z: Tensor, t: Tensor, s: Tensor, *, generator: Randomness = None) -> list[Stage]:
        before, _CURRENT.state = _CURRENT.state, state
        try:
            return advance(z, t, s, generator=generator)
        finally:
            _CURRENT.state = before

    return within_walk
