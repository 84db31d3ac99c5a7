"""What the changes of a trace amount to, by who made them."""

from typing import NamedTuple

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from ..revisions import Outcome, count_outcome
from ..typing import Tokens


class ChangeSummary(NamedTuple):
    """What one kind of change did.

    **Arguments:**

    - `changes`: their number.
    - `stayed`: how many made a token that stands at the end.
    - `undone`: how many were taken back: a later change put the old token there again.
    - `p_old`, `p_new`: means of what the model found; `None` where it was not asked.
    - `outcome`: of the changed tokens, each change counted by itself; `None` where the right ones are not known.
    """

    changes: int
    stayed: int
    undone: int
    p_old: float | None
    p_new: float | None
    outcome: Outcome | None


def tallies(
    kinds: tuple[str, ...],
    changed: Int[Tensor, "change 5"],
    probs: Float[Tensor, "change 2"],
    truth: Tokens | None = None,
) -> dict[str, ChangeSummary]:
    """The tally of each kind; arguments as for `Trace`."""
    stayed, undone = fates(changed)
    numbers = {kind: number for number, kind in enumerate(dict.fromkeys(kinds[1:]))}
    of_stage = torch.tensor([-1, *(numbers[kind] for kind in kinds[1:])])
    found = {}
    for kind, number in numbers.items():
        mine = of_stage[changed[:, 0].long()] == number
        _, sequence, position, old, new = changed[mine].long().unbind(-1)
        asked = probs[mine][~probs[mine].isnan().any(-1)]
        p_old, p_new = asked.mean(0).tolist() if len(asked) else (None, None)
        worth = None if truth is None else count_outcome(old[None], new[None], truth.cpu()[sequence, position][None])
        found[kind] = ChangeSummary(len(old), int(stayed[mine].sum()), int(undone[mine].sum()), p_old, p_new, worth)
    return found


def fates(changed: Int[Tensor, "change 5"]) -> tuple[Bool[Tensor, " change"], Bool[Tensor, " change"]]:
    """For each change: whether its token stands at the end, and whether it was taken back."""
    later: dict[tuple[int, int], set[int]] = {}  # the tokens that are put at a place afterwards
    found = []
    for _, sequence, position, old, new in reversed(changed.tolist()):
        put = later.setdefault((sequence, position), set())
        found.append((not put, old in put))
        put.add(new)
    both = torch.tensor(found[::-1], dtype=torch.bool).view(-1, 2)
    return both[:, 0], both[:, 1]


def as_table(found: dict[str, ChangeSummary]) -> str:
    """Text to print, a line for each kind; columns of what is not known are left out."""
    asked = any(tally.p_old is not None for tally in found.values())
    judged = any(tally.outcome is not None for tally in found.values())
    head = ["kind", "changes", "stayed", "undone", *(["p old", "p new"] if asked else [])]
    lines = [[*head, *(["wrong to right", "right to wrong", "wrong to wrong"] if judged else [])]]
    for kind, tally in found.items():
        probs = ["-" if p is None else f"{p:.3f}" for p in (tally.p_old, tally.p_new)] if asked else []
        worth = [] if tally.outcome is None else [str(count) for count in tally.outcome[:3]]
        lines.append([kind, *(str(count) for count in tally[:3]), *probs, *worth])
    widths = [max(len(cell) for cell in column) for column in zip(*lines, strict=True)]
    return "\n".join(
        "  ".join([line[0].ljust(widths[0]), *(cell.rjust(w) for cell, w in zip(line[1:], widths[1:], strict=True))])
        for line in lines
    )
