"""What a network attends to in the current batch: masks of real tokens, pairs of tokens that attend, and positions."""

from typing import NamedTuple

import torch
from jaxtyping import Bool, Int
from torch import Tensor

from ..typing import MayAttend, Positions, Selection, Tokens


class Attended(NamedTuple):
    """What a network attends to in the current batch; set by `attending_to` and `selected_sequences`.

    **Arguments:**

    - `masks`: masks of real tokens, of which all must hold.
    - `sequences`: the indices of the sequences in the batch that `self.attention_mask` is for; `None` for all.
    - `pairs`: masks of pairs of tokens that attend, of which all must hold.
    - `positions`: the positions of the tokens; `None` for 0, 1, 2, ...
    - `clean`: the clean text, if it is known.
    """

    masks: tuple[Tensor, ...] = ()
    sequences: Tensor | None = None
    pairs: tuple[Tensor, ...] = ()
    positions: Tensor | None = None
    clean: Tensor | None = None

    def more(
        self,
        real: Selection | None,
        may_attend: MayAttend | None = None,
        positions: Positions | None = None,
        clean: Tokens | None = None,
    ) -> "Attended":
        """The same with another mask of each kind, and with these positions and this clean text if they are given."""
        return self._replace(
            masks=self.masks if real is None else (*self.masks, real),
            pairs=self.pairs if may_attend is None else (*self.pairs, may_attend),
            positions=self.positions if positions is None else positions,
            clean=self.clean if clean is None else clean,
        )

    def selected(self, index: Bool[Tensor, " batch"] | Int[Tensor, " selected"]) -> "Attended":
        """The same for some of the sequences."""
        index = index.nonzero()[:, 0] if index.dtype == torch.bool else index
        return Attended(
            tuple(_of_sequences(mask, index) for mask in self.masks),
            index if self.sequences is None else self.sequences[index],
            tuple(_of_sequences(pair, index) for pair in self.pairs),
            None if self.positions is None else _of_sequences(self.positions, index),
            None if self.clean is None else self.clean[index],
        )

    def all_masks(self, own: Tensor | None) -> list[Tensor]:
        """All masks of these sequences, with the denoiser's own."""
        return [*self.masks, *([] if own is None else [_of_sequences(own, self.sequences)])]


def _of_sequences(mask: Tensor, index: Tensor | None) -> Tensor:
    """The rows of a mask; one row is that of every sequence."""
    return mask if index is None or len(mask) == 1 else mask[index]


def check_pairs(may_attend: Tensor, z: Tokens) -> Tensor:
    """Check that a mask of pairs is one of these tokens, and return it.

    **Raises:** `ValueError` if it is not Bool or of another shape.
    """
    length = z.shape[1]
    if may_attend.dtype != torch.bool or may_attend.shape not in ((len(z), length, length), (1, length, length)):
        raise ValueError(
            f"may_attend must be Bool [{len(z)} or 1, {length}, {length}], which tokens (second axis) attend to which (third "
            f"axis); got {may_attend.dtype} {list(may_attend.shape)}"
        )
    return may_attend


def check_positions(positions: Tensor, z: Tokens) -> Tensor:
    """Check that positions are those of these tokens, and return them.

    **Raises:** `ValueError` if they are no integers or have another shape.
    """
    if positions.dtype not in (torch.long, torch.int32) or positions.shape not in (z.shape, (1, z.shape[1])):
        raise ValueError(
            f"positions must be integers of the shape of the tokens {list(z.shape)} or [1, {z.shape[1]}]; got "
            f"{positions.dtype} {list(positions.shape)}"
        )
    return positions


def real_pairs(may_attend: MayAttend, real: Selection | None) -> MayAttend:
    """The pairs whose keys are real tokens; padding attends to itself, so that its states are finite.

    **Arguments:**

    - `may_attend`: which tokens (second axis) attend to which (third axis).
    - `real`: the mask of real tokens; `None` if all are real.
    """
    if real is None:
        return may_attend
    itself = torch.eye(may_attend.shape[-1], dtype=torch.bool, device=may_attend.device)
    return (may_attend & real[:, None, :]) | (itself & ~real[:, :, None])
