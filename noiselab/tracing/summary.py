"""Summary statistics of the changes of a trace, by kind of change."""

from typing import NamedTuple

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from ..revisions import Outcome, count_outcome
from ..typing import Tokens


class ChangeSummary(NamedTuple):
    """Summary statistics of one kind of change.

    **Arguments:**

    - `changes`: the number of changes.
    - `stayed`: the number of changes whose token is part of the final sequence.
    - `undone`: the number of changes that were undone: a later change restored the old token.
    - `p_old`, `p_new`: the model's mean probabilities of the old and the new token; `None` if not evaluated.
    - `outcome`: the outcome of the changes, each counted separately; `None` if the correct tokens are not known.
    """

    changes: int
    stayed: int
    undone: int
    p_old: float | None
    p_new: float | None
    outcome: Outcome | None


def summarize_changes(
    kinds: tuple[str, ...],
    changed: Int[Tensor, "change 5"],
    probs: Float[Tensor, "change 2"],
    truth: Tokens | None = None,
) -> dict[str, ChangeSummary]:
    """Summarize the changes of each kind; arguments as for `Trace`."""
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
    """For each change: whether its token is part of the final sequence, and whether the change was undone."""
    later: dict[tuple[int, int], set[int]] = {}  # the tokens set later at each position
    found = []
    for _, sequence, position, old, new in reversed(changed.tolist()):
        put = later.setdefault((sequence, position), set())
        found.append((not put, old in put))
        put.add(new)
    both = torch.tensor(found[::-1], dtype=torch.bool).view(-1, 2)
    return both[:, 0], both[:, 1]


def as_table(found: dict[str, ChangeSummary]) -> str:
    """Format summaries as a text table with one line per kind; columns without values are omitted."""
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
