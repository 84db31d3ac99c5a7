"""Windows of tokens: which places of each sequence are evaluated, with the keys and values of places before them."""

from typing import NamedTuple

import torch
from torch import Tensor


class Text(NamedTuple):
    """The sequences with active rows.

    **Arguments:**

    - `rows`: their indices in the batch; `None` for all of it.
    - `z`, `t`, `asked`: tokens, times, and the mask of active rows.
    - `real`: the mask of real tokens; `None` if all are.
    - `positions`: their positions, [batch or 1, length]; `None` for the places.
    - `block`: the number of the block of each place, [batch or 1, length].
    """

    rows: Tensor | None
    z: Tensor
    t: Tensor
    asked: Tensor
    real: Tensor | None
    positions: Tensor | None
    block: Tensor

    @property
    def these(self) -> slice | Tensor:
        """What selects the sequences from the batch."""
        return slice(None) if self.rows is None else self.rows

    @property
    def begin(self) -> Tensor:
        """Where the block of the first active place begins, in each sequence."""
        return self.block_begin(self.asked.to(torch.uint8).argmax(1))

    @property
    def last(self) -> Tensor:
        """Where the block of the last active place begins."""
        return self.block_begin(self._last_place)

    @property
    def end(self) -> Tensor:
        """Where the block of the last active place ends."""
        return (self.block <= self._block_of(self._last_place)).sum(1)

    @property
    def _last_place(self) -> Tensor:
        return self.z.shape[1] - 1 - self.asked.flip(1).to(torch.uint8).argmax(1)

    def _block_of(self, place: Tensor) -> Tensor:
        return self.block.expand(len(place), -1).gather(1, place[:, None])

    def block_begin(self, place: Tensor) -> Tensor:
        """Where the block of a place of each sequence begins; the length for the place after the last."""
        length = self.z.shape[1]
        begin = (self.block < self._block_of(place.clamp(max=length - 1))).sum(1)
        return torch.where(place < length, begin, length)

    def marks(self) -> list[Tensor]:
        """All that the keys and values of a place depend on, each [batch, length]."""
        place = torch.arange(self.z.shape[1], device=self.z.device)[None]
        real = torch.ones_like(place) if self.real is None else self.real.long()
        positions = place if self.positions is None else self.positions.to(self.z.device)
        return [one.expand(self.z.shape) for one in (self.z, self.t, real, positions, self.block)]


class Window(NamedTuple):
    """The places that are evaluated.

    **Arguments:**

    - `places`: the places, [batch or 1, width]; `inside`: which of them are not there to fill the window.
    - `start`: the first place of each sequence; keys and values of all places before it are known.
    - `past`: the number of places of which keys and values are given.
    - `whole`: whether the windows of all sequences are the same.
    """

    places: Tensor
    inside: Tensor
    start: Tensor
    past: int
    whole: bool

    def at(self, values: Tensor) -> Tensor:
        """Values at these places, [batch or 1, width]."""
        rows = max(len(values), len(self.places))
        return values.expand(rows, -1).gather(1, self.places.expand(rows, -1))

    def pairs(self, text: Text) -> Tensor | None:
        """Which tokens of the window (second axis) attend to which keys (third axis): those given, then the window's.

        `None` if all attend to all.
        """
        block, device = self.at(text.block), self.places.device
        if self.whole and text.real is None and bool((block == block[:, :1]).all()):
            return None
        width = self.places.shape[1]
        known = torch.arange(self.past, device=device) < self.start[:, None]
        seen = (block[:, None] <= block[:, :, None]) & self.inside[:, None]
        itself = ~self.inside
        if text.real is not None:
            real = self.at(text.real)
            known, seen, itself = known & text.real[:, : self.past], seen & real[:, None], itself | ~real
        # Padding attends to itself too, so that its states are finite.
        seen = seen | (itself[:, :, None] & torch.eye(width, dtype=torch.bool, device=device))
        rows = max(len(known), len(seen))
        return torch.cat((known[:, None].expand(rows, width, -1), seen.expand(rows, -1, -1)), 2)

    def positions(self, text: Text) -> Tensor:
        """The positions of the tokens, on the CPU if they are the places, where networks check their range."""
        if text.positions is not None:
            return self.at(text.positions.to(self.places.device))
        return torch.arange(self.past, self.past + self.places.shape[1])[None] if self.whole else self.places


def window(text: Text, start: Tensor) -> Window:
    """The window of each sequence from `start` to the end of its last active block."""
    end, length = text.end, text.z.shape[1]
    bounds = torch.stack((start, end, end - start)).tolist()
    past, width = max(bounds[0]), max(bounds[2])
    whole = len(set(bounds[0])) == len(set(bounds[1])) == 1
    places = start[:, None] + torch.arange(width, device=start.device)
    inside = places < end[:, None]
    places = places.clamp(max=length - 1)
    return (
        Window(places[:1], inside[:1], start[:1], past, True) if whole else Window(places, inside, start, past, False)
    )
