"""The record of who changed when, and what it was worth: one vocabulary for everything that corrects itself."""

from collections.abc import Iterable
from typing import NamedTuple

from .typing import Tokens


class Revision(NamedTuple):
    """One token replaced by another.

    **Arguments:**

    - `sequence`, `position`: where.
    - `step`: when, counted from 1.
    - `old`, `new`: the tokens.
    - `kind`: who did it, for example "denoise" or "self-correct".
    """

    sequence: int
    position: int
    step: int
    old: int
    new: int
    kind: str


def revisions(start: Tokens, states: Iterable[Tokens], kind: str) -> list[Revision]:
    """Every change along a walk.

    **Arguments:**

    - `start`: the tokens before the first step.
    - `states`: what a `walk` yields.
    - `kind`: the label of these changes.
    """
    found: list[Revision] = []
    for step, z in enumerate(states, 1):
        where = z != start
        rows = zip(where.nonzero().tolist(), start[where].tolist(), z[where].tolist(), strict=True)
        found += [Revision(sequence, position, step, old, new, kind) for (sequence, position), old, new in rows]
        start = z
    return found


class Outcome(NamedTuple):
    """What changes were worth where the right token is known; counts of tokens."""

    wrong_to_right: int
    right_to_wrong: int
    wrong_to_wrong: int
    wrong_before: int
    right_before: int

    @property
    def net_gain(self) -> int:
        """Tokens put right minus tokens spoiled."""
        return self.wrong_to_right - self.right_to_wrong


def outcome(before: Tokens, after: Tokens, truth: Tokens) -> Outcome:
    """Compare tokens before and after with the right ones."""
    wrong, still = before != truth, after != truth
    return Outcome(
        wrong_to_right=int((wrong & ~still).sum()),
        right_to_wrong=int((~wrong & still).sum()),
        wrong_to_wrong=int((wrong & still & (before != after)).sum()),
        wrong_before=int(wrong.sum()),
        right_before=int((~wrong).sum()),
    )
