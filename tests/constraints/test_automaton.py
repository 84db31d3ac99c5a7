"""Automata over tokens: what they accept, read token by token by hand."""

import itertools

import pytest
import torch
from exact_worlds import generator

import noiselab as nl
from noiselab.constraints import TokenAutomaton

V, LENGTH = 4, 5
X = torch.tensor(list(itertools.product(range(V), repeat=LENGTH)))


def random_table(seed, states=5, missing=0.4):
    """A table with gaps and with tokens that are alike: 0 and 2 lead from each state to the same."""
    table = torch.randint(states, (states, V), generator=generator(seed))
    table[torch.rand(table.shape, generator=generator(seed)) < missing] = -1
    table[:, 2] = table[:, 0]
    return table


def read(table, accepting, tokens, state=0):
    for token in tokens:
        state = table[state][token]
        if state < 0:
            return False
    return state in accepting


def automata():
    for seed in range(30):
        table, accepting = random_table(seed), [seed % 5, 4]
        if any(read(table.tolist(), accepting, x[:n]) for x in X.tolist() for n in range(LENGTH + 1)):
            yield table, accepting


def test_it_accepts_what_the_table_accepts():
    found = list(automata())
    assert len(found) > 10
    for table, accepting in found:
        automaton = TokenAutomaton(table, accepting)
        want = torch.tensor([read(table.tolist(), accepting, x) for x in X.tolist()])
        assert torch.equal(automaton.accepts(X), want)
        assert automaton.classes[0] == automaton.classes[2]  # alike
        start = torch.arange(len(X)) % (LENGTH + 1)
        want = torch.tensor([read(table.tolist(), accepting, x[n:]) for x, n in zip(X.tolist(), start, strict=True)])
        assert torch.equal(automaton.accepts(X, start), want)
        lengths = [any(read(table.tolist(), accepting, x[:n]) for x in X.tolist()) for n in range(LENGTH + 1)]
        assert [automaton.fits(n) for n in range(LENGTH + 1)] == lengths
        assert automaton.shortest == lengths.index(True)


def test_a_list_of_transitions_is_the_same_automaton():
    for table, accepting in automata():
        dense = TokenAutomaton(table, accepting)
        edges = [(s, v, int(table[s, v])) for s in range(5) for v in range(V) if table[s, v] >= 0]
        order = torch.randperm(len(edges), generator=generator())
        sparse = TokenAutomaton.from_edges(torch.tensor(edges)[order], accepting, states=5, vocab_size=V)
        assert torch.equal(sparse.accepts(X), dense.accepts(X)) and sparse.states == dense.states
        assert sparse.table.shape == dense.table.shape


def test_states_and_tokens_that_lead_nowhere_are_left_out():
    """States 2 and 3 cannot end, state 4 is never reached: one way is left, and tokens 1 to 3 are alike."""
    table = torch.tensor([[1, 2, -1, 3], [-1, 3, 2, -1], [2, -1, 2, 3], [3, 3, 3, 3], [0, 0, 0, 0]])
    automaton = TokenAutomaton(table, [1, 4])
    assert automaton.states == 2 and automaton.table.shape[1] == 2
    assert X[:, :1][automaton.accepts(X[:, :1])].unique().tolist() == [0]


@pytest.mark.parametrize("fill", [None, 1, "any"])
def test_the_end_and_what_follows(fill):
    """Token 3 is the end: by hand, the accepted words before it, and the rest."""
    for table, accepting in automata():
        table = table.clone()
        table[:, 3] = -1
        if not any(read(table.tolist(), accepting, x[:n]) for x in X.tolist() for n in range(LENGTH + 1)):
            continue

        def ends(x, table=table, accepting=accepting):
            word = x[: x.index(3)] if 3 in x else x
            rest = x[len(word) + 1 :]
            right = fill == "any" or all(token == (3 if fill is None else fill) for token in rest)
            return read(table.tolist(), accepting, word) and right

        automaton = TokenAutomaton(table, accepting).ending(3, fill=fill)
        assert torch.equal(automaton.accepts(X), torch.tensor([ends(x) for x in X.tolist()]))


@pytest.mark.usefixtures("unchecked")
def test_what_is_refused():
    one = torch.tensor([[1, -1], [-1, -1]])
    for call, words in {
        lambda: TokenAutomaton(torch.tensor([[2, 0]]), [0]): r"transitions must be states in \[0, 1\)",
        lambda: TokenAutomaton(one.float(), [1]): "transitions must hold integers",
        lambda: TokenAutomaton(one, [2]): r"each of accepting must lie in \[0, 2\)",
        lambda: TokenAutomaton(one, [0], start=2): "start must lie in",
        lambda: TokenAutomaton(one, []): "must accept a sequence",
        lambda: TokenAutomaton(one, [0], start=1): "must accept a sequence",
        lambda: TokenAutomaton(one, [1]).ending(2): "end must lie in",
        lambda: TokenAutomaton(torch.tensor([[0, 0]]), [0]).ending(1): "may go on with the end token",
        lambda: TokenAutomaton(one, [1]).accepts(X): r"x must lie in \[0, 2\)",
        lambda: TokenAutomaton(one, [1]).accepts(X[:, :2] % 2, 3): "start must lie",
        lambda: TokenAutomaton.from_edges(
            one[:, :0], [0], states=1, vocab_size=1
        ): r"edges must be integers \[edges, 3\]",
        lambda: TokenAutomaton.from_edges(
            torch.tensor([[0, 0, 1], [0, 0, 0]]), [0], states=2, vocab_size=1
        ): "at most one transition",
        lambda: TokenAutomaton.from_edges(
            torch.tensor([[0, 1, 0]]), [0], states=1, vocab_size=1
        ): "edges must have states",
    }.items():
        with pytest.raises(ValueError, match=words):
            call()


def test_the_empty_sequence_alone():
    automaton = TokenAutomaton(torch.tensor([[-1, -1]]), [0])
    assert automaton.shortest == 0 and not automaton.fits(1)
    ended = automaton.ending(1)
    assert ended.accepts(torch.tensor([[1, 1], [0, 1]])).tolist() == [True, False]
    assert repr(ended) == "TokenAutomaton(2 states, 2 tokens in 2 classes)"
    assert isinstance(nl.constraints.TokenAutomaton(torch.tensor([[0]]), [0]), torch.nn.Module)
