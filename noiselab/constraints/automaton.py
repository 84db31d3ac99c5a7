"""Finite automata over the tokens of a vocabulary."""

from collections.abc import Sequence
from typing import Literal

import numpy as np
import torch
from jaxtyping import Bool, Int
from torch import Tensor, nn

from ..numerics import require_count, require_sequences, require_tensor, require_token
from ..typing import Tokens
from .tables import Flags, Integers, labelled, merged, table_of_edges, trimmed


class TokenAutomaton(nn.Module):
    """A deterministic finite automaton over tokens: a set of sequences, such as those of a regular expression.

    It reads a sequence token by token, from the state `start`; the sequence is accepted if each transition exists and the last
    state is accepting. States that lie on no way from the start to an accepting state are left out, and tokens that lead from
    each state to the same state form one class: all sums over tokens are made once for each class.

    `noiselab.data.regex_automaton` and `json_automaton` make one for a tokenizer.

    **Arguments:**

    - `transitions`: the next state for each state and token, or -1 where there is none, [states, vocab].
    - `accepting`: the accepting states.
    - `start`: the state before the first token.

    **Raises:** `ValueError` for states that do not exist, or if no sequence is accepted.

    **Example:** an even number of ones.

    ```python
    import torch
    import noiselab as nl

    even = nl.constraints.TokenAutomaton(torch.tensor([[0, 1], [1, 0]]), accepting=[0])
    assert even.accepts(torch.tensor([[1, 0, 1], [0, 0, 1]])).tolist() == [True, False]
    ```
    """

    classes: Tensor
    table: Tensor
    accepting: Tensor
    pairs: Tensor
    members: Tensor

    def __init__(self, transitions: Int[Tensor, "states vocab"], accepting: Sequence[int], start: int = 0):
        super().__init__()
        table = require_tensor("transitions", transitions, "states", "vocab", ids=True).cpu()
        states, vocab_size = table.shape
        if table.min() < -1 or table.max() >= states:
            raise ValueError(
                f"transitions must be states in [0, {states}), or -1 where there is none; got {int(table.min())} to "
                f"{int(table.max())}"
            )
        source, token = (table >= 0).nonzero(as_tuple=True)
        edges = torch.stack((source, token, table[source, token].long()), 1).numpy()
        self._set(*table_of_edges(edges, states, vocab_size), *_ends(accepting, start, states))

    @classmethod
    def from_edges(
        cls, edges: Int[Tensor, "edges 3"], accepting: Sequence[int], *, states: int, vocab_size: int, start: int = 0
    ) -> "TokenAutomaton":
        """An automaton from a list of its transitions, for vocabularies of which most tokens lead nowhere.

        **Arguments:**

        - `edges`: state, token and next state of each transition.
        - `accepting`, `start`: as for the class.
        - `states`, `vocab_size`: the number of states and of tokens.

        **Raises:** `ValueError` also for two transitions from one state with one token.

        **Example:** the sequence 2, 0 alone.

        ```python
        import torch
        from noiselab.constraints import TokenAutomaton

        edges = torch.tensor([[0, 2, 1], [1, 0, 2]])
        automaton = TokenAutomaton.from_edges(edges, accepting=[2], states=3, vocab_size=4)
        assert automaton.accepts(torch.tensor([[2, 0], [2, 1]])).tolist() == [True, False]
        ```
        """
        require_count("states", states), require_count("vocab_size", vocab_size)
        if not isinstance(edges, Tensor) or edges.dim() != 2 or edges.shape[1] != 3 or edges.is_floating_point():
            came = f"{edges.dtype} {list(edges.shape)}" if isinstance(edges, Tensor) else repr(edges)
            raise ValueError(f"edges must be integers [edges, 3]: state, token and next state; got {came}")
        limits = torch.tensor([states, vocab_size, states])
        found = edges.cpu().long()
        if (found < 0).any() or (found >= limits).any():
            raise ValueError(
                f"edges must have states in [0, {states}) and tokens in [0, {vocab_size}); got "
                f"{found[((found < 0) | (found >= limits)).any(1)][0].tolist()}"
            )
        keys = (found[:, 0] * vocab_size + found[:, 1]).sort().values
        if (keys[1:] == keys[:-1]).any():
            raise ValueError("edges must have at most one transition from each state with each token; got two of them")
        made = cls.__new__(cls)
        nn.Module.__init__(made)
        made._set(*table_of_edges(found.numpy(), states, vocab_size), *_ends(accepting, start, states))
        return made

    def _set(self, classes: Integers, table: Integers, accepting: Flags, start: int) -> None:
        useful = trimmed(table, accepting, start)
        if useful is None:
            raise ValueError("the automaton must accept a sequence; no accepting state can be reached from its start")
        table, accepting, self.start = useful
        table, classes = merged(table, classes)
        pairs, members = labelled(table)
        for name, value in {
            "classes": classes,
            "table": np.where(table < 0, len(table), table),  # one state more, for none
            "accepting": accepting,
            "pairs": pairs,
            "members": members,
        }.items():
            self.register_buffer(name, torch.from_numpy(np.ascontiguousarray(value)), persistent=False)
        self.labels = int(pairs[:, 2].max(initial=-1)) + 1

    @property
    def vocab_size(self) -> int:
        """The number of tokens."""
        return len(self.classes)

    @property
    def states(self) -> int:
        """The number of states that are of use."""
        return len(self.table)

    def accepts(self, x: Tokens, start: int | Int[Tensor, " batch"] = 0) -> Bool[Tensor, " batch"]:
        """Which sequences are accepted.

        **Arguments:**

        - `x`: sequences.
        - `start`: the number of leading tokens that are not read, for all sequences or for each.

        **Raises:** `ValueError` for tokens outside the vocabulary, or a `start` beyond the sequences.
        """
        require_sequences("x", x, self.vocab_size)
        first = as_start(start, x)
        state, alive = torch.full_like(first, self.start), torch.ones_like(first, dtype=torch.bool)
        for i in range(x.shape[1]):
            after = self.table[state, self.classes[x[:, i].long()]]
            none, free = after == self.states, first > i
            alive = alive & (free | ~none)
            state = torch.where(free | none, state, after)
        return alive & self.accepting[state]

    def fits(self, length: int) -> bool:
        """Whether some sequence of this number of tokens is accepted."""
        reached = self._begin()
        for _ in range(require_count("length", length, 0)):
            reached = self._after(reached)
        return bool((reached & self.accepting).any())

    @property
    def shortest(self) -> int:
        """The number of tokens of the shortest sequence that is accepted."""
        reached, length = self._begin(), 0
        while not (reached & self.accepting).any():
            reached, length = self._after(reached), length + 1
        return length

    def _begin(self) -> Tensor:
        reached = torch.zeros_like(self.accepting)
        reached[self.start] = True
        return reached

    def _after(self, reached: Tensor) -> Tensor:
        after = torch.zeros_like(reached)
        after[self.pairs[reached[self.pairs[:, 0]], 1]] = True
        return after

    def ending(self, end: int | Sequence[int], *, fill: int | Literal["any"] | None = None) -> "TokenAutomaton":
        """The automaton for sequences of fixed length that may end before: an accepted one, then an end token and the rest.

        Accepted sequences that fill the whole length have no end token.

        **Arguments:**

        - `end`: the end token, or several.
        - `fill`: the token after it, up to the length; by default the (first) end token itself. "any" for any tokens, as in
          models of packed texts, whose samples are cut after the end token.

        **Raises:** `ValueError` for tokens outside the vocabulary, or if an accepted sequence may go on with the end token.

        **Example:** token 1 any number of times, in sequences of four tokens.

        ```python
        import torch
        from noiselab.constraints import TokenAutomaton

        ones = TokenAutomaton(torch.tensor([[-1, 0, -1]]), accepting=[0]).ending(end=2)
        assert ones.accepts(torch.tensor([[1, 1, 2, 2], [1, 1, 2, 1]])).tolist() == [True, False]
        ```
        """
        ends = [require_token("end", one, self.vocab_size) for one in (end if isinstance(end, Sequence) else [end])]
        if not ends:
            raise ValueError("there must be at least one end token; got none")
        classes, table = self.classes.cpu().numpy().copy(), self.table.cpu().numpy()
        table = np.where(table == len(table), -1, table)
        accepting = self.accepting.cpu().numpy()
        if (table[accepting][:, classes[ends]] >= 0).any():
            raise ValueError(
                f"no accepted sequence may go on with the end token; got one that goes on with one of {ends}"
            )
        table = np.pad(table, ((0, 1), (0, 0)), constant_values=-1)
        after = len(table) - 1
        if fill == "any":
            table[after] = after
        filled = [] if fill == "any" else [ends[0] if fill is None else require_token("fill", fill, self.vocab_size)]
        for token in {*ends, *filled}:
            # A class of its own, with the transitions that it had.
            table = np.concatenate((table, table[:, classes[token], None]), 1)
            classes[token] = table.shape[1] - 1
        table[np.append(accepting, False)[:, None] & np.isin(np.arange(table.shape[1]), classes[ends])] = after
        table[after, classes[filled]] = after
        made = TokenAutomaton.__new__(TokenAutomaton)
        nn.Module.__init__(made)
        made._set(classes, table, np.append(accepting, True), self.start)
        return made

    def extra_repr(self) -> str:
        """The sizes, for `repr`."""
        return f"{self.states} states, {self.vocab_size} tokens in {self.table.shape[1]} classes"


def as_start(start: int | Int[Tensor, " batch"], x: Tokens) -> Int[Tensor, " batch"]:
    """The number of leading tokens that are not read, one for each sequence.

    **Raises:** `ValueError` unless they are counts for all sequences or for each, of at most the length.
    """
    batch, length = x.shape
    if not isinstance(start, Tensor):
        return torch.full((batch,), require_count("start", start, 0, length), device=x.device)
    if start.shape != (batch,) or start.is_floating_point() or start.dtype == torch.bool:
        raise ValueError(
            f"start must be a count, or one for each of {batch} sequences; got {start.dtype} {list(start.shape)}"
        )
    if batch and (start.min() < 0 or start.max() > length):
        raise ValueError(f"start must lie in [0, {length}]; got {int(start.min())} to {int(start.max())}")
    return start.to(x.device).long()


def _ends(accepting: Sequence[int], start: int, states: int) -> tuple[Flags, int]:
    """The accepting states as a mask, and the start, checked."""
    ids = accepting.tolist() if isinstance(accepting, Tensor) else accepting
    if not isinstance(ids, Sequence) or isinstance(ids, str):
        raise ValueError(f"accepting must be a sequence of states; got {accepting!r}")
    mask = np.zeros(states, dtype=np.bool_)
    mask[[require_token("each of accepting", one, states) for one in ids]] = True
    return mask, require_token("start", start, states)
