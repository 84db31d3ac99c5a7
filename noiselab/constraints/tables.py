"""Tables of an automaton: which states are of use, which tokens are alike, and which transitions share their tokens."""

from typing import TypeAlias

import numpy as np
from numpy.typing import NDArray

Integers: TypeAlias = NDArray[np.int64]
Flags: TypeAlias = NDArray[np.bool_]


def table_of_edges(edges: Integers, states: int, vocab_size: int) -> tuple[Integers, Integers]:
    """The class of each token, [vocab], and the table of the classes, [states, classes]; -1 where there is no transition.

    Two tokens are of one class if they lead from each state to the same state.

    **Arguments:**

    - `edges`: state, token and next state of each transition, [edges, 3].
    """
    edges = edges[np.argsort(edges[:, 0], kind="stable")]
    classes, used = np.zeros(vocab_size, dtype=np.int64), 1
    # The classes are split state by state: memory is that of the transitions, and not of states times tokens.
    for some in np.split(edges, np.flatnonzero(np.diff(edges[:, 0])) + 1):
        token, after = some[:, 1], some[:, 2]
        _, split = np.unique(classes[token] * states + after, return_inverse=True)
        classes[token] = used + split
        used += int(split.max(initial=-1)) + 1
    _, classes = np.unique(classes, return_inverse=True)
    table = np.full((states, int(classes.max()) + 1), -1, dtype=np.int64)
    table[edges[:, 0], classes[edges[:, 1]]] = edges[:, 2]
    return classes, table


def trimmed(table: Integers, accepting: Flags, start: int) -> tuple[Integers, Flags, int] | None:
    """Only the states on a way from the start to an accepting state; `None` if the start is on none."""
    source, column = (table >= 0).nonzero()
    pairs = np.unique(np.stack((source, table[source, column]), 1), axis=0)
    begin = np.zeros(len(table), dtype=np.bool_)
    begin[start] = True
    useful = _reached(begin, pairs) & _reached(accepting, pairs[:, ::-1])
    if not useful[start]:
        return None
    number = np.where(useful, np.cumsum(useful) - 1, -1)
    kept = table[useful]
    return np.where(kept >= 0, number[kept], -1), accepting[useful], int(number[start])


def merged(table: Integers, classes: Integers) -> tuple[Integers, Integers]:
    """The table and the classes of the tokens, without classes that are alike or have no token."""
    used, classes = np.unique(classes, return_inverse=True)
    columns, which = np.unique(table[:, used], axis=1, return_inverse=True)
    return columns, which.reshape(-1)[classes]


def labelled(table: Integers) -> tuple[Integers, Integers]:
    """The pairs of states that some class joins, with a label, [pairs, 3], and the classes of each label, [members, 2].

    Pairs that are joined by the same classes share a label, so that the mass of these is summed once.
    """
    source, column = (table >= 0).nonzero()
    after = table[source, column]
    order = np.lexsort((column, after, source))
    source, column, after = source[order], column[order], after[order]
    new = np.flatnonzero(np.diff(source) | np.diff(after)) + 1
    labels: dict[bytes, int] = {}
    sets: list[Integers] = []
    pairs = []
    for first, some in zip([0, *new.tolist()], np.split(column, new), strict=True):
        if not len(some):
            continue  # an automaton of the empty sequence alone
        label = labels.setdefault(some.tobytes(), len(labels))
        if label == len(sets):
            sets.append(some)
        pairs.append((source[first], after[first], label))
    members = [np.stack((np.full(len(some), label), some), 1) for label, some in enumerate(sets)]
    return np.array(pairs, dtype=np.int64).reshape(-1, 3), np.concatenate([np.zeros((0, 2), dtype=np.int64), *members])


def _reached(found: Flags, pairs: Integers) -> Flags:
    while True:
        more = found.copy()
        more[pairs[found[pairs[:, 0]], 1]] = True
        if (more == found).all():
            return found
        found = more
