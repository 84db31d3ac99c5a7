"""The law of independent tokens that an automaton accepts, against the enumeration of all sequences."""

import itertools

import pytest
import torch
from exact_worlds import chi_square, generator

from noiselab.constraints import TokenAutomaton
from noiselab.constraints.law import ConstrainedLaw, class_mass, log_sum_at

V, LENGTH = 3, 5
X = torch.tensor(list(itertools.product(range(V), repeat=LENGTH)))
TABLES = {
    "parity": (torch.tensor([[0, 1, 0], [1, 0, 1]]), [1]),
    "no 2 after 1": (torch.tensor([[0, 1, 0], [0, 1, -1]]), [0, 1]),
    "two, then any": (torch.tensor([[-1, 1, 1], [2, -1, 2], [2, 2, 2]]), [2]),
    "one word": (torch.tensor([[1, -1, -1], [-1, -1, 2], [3, -1, -1], [-1, 4, -1], [5, -1, -1], [-1, -1, -1]]), [5]),
    "counts to three": (torch.tensor([[1, 0, -1], [2, 1, 0], [3, 2, -1], [-1, 3, 3]]), [3]),
}


def case(name, scale=1.0, batch=4, seed=0):
    """Log-probabilities of each token, and the weights of all sequences by their definition; start 0, 1 or 2."""
    automaton = TokenAutomaton(*TABLES[name])
    logs = (scale * torch.randn(batch, LENGTH, V, generator=generator(seed), dtype=torch.float64)).log_softmax(-1)
    start = torch.arange(batch) % (1 if name == "one word" else 3)
    law = ConstrainedLaw(automaton, class_mass(automaton, logs.flatten(0, 1)).view(batch, LENGTH, -1), start)
    weights = torch.stack([logs[:, i, X[:, i]] for i in range(LENGTH)]).sum(0)
    accepted = torch.stack([automaton.accepts(X, int(n)) for n in start])
    return automaton, logs, law, torch.where(accepted, weights, -torch.inf)


@pytest.mark.parametrize("name", TABLES)
@pytest.mark.parametrize("scale", [1.0, 30.0, 1e20])
def test_totals_and_marginals_are_those_of_the_enumeration(name, scale):
    """At the scale of 1e20 one sequence has all mass, and the others less than any floating-point number holds."""
    automaton, logs, law, weights = case(name, scale)
    torch.testing.assert_close(law.log_total, weights.logsumexp(-1), rtol=1e-12, atol=1e-12)
    found = (logs + law.log_factors()[..., automaton.classes]).softmax(-1)
    probs = weights.softmax(-1)
    want = torch.stack([torch.stack([probs[:, X[:, i] == v].sum(-1) for v in range(V)], -1) for i in range(LENGTH)], 1)
    torch.testing.assert_close(found, want, rtol=0, atol=1e-12)


@pytest.mark.parametrize("name", TABLES)
def test_the_factor_of_a_token_is_the_mass_of_the_others(name):
    """Without the token's own probability: by enumeration of the others."""
    automaton, logs, law, weights = case(name)
    factors = law.log_factors()[..., automaton.classes]
    for i in range(LENGTH):
        others = weights - logs[:, i, X[:, i]]
        want = torch.stack([others[:, X[:, i] == v].logsumexp(-1) for v in range(V)], -1).softmax(-1)
        torch.testing.assert_close(factors[:, i].softmax(-1), want, rtol=0, atol=1e-12)


@pytest.mark.parametrize("name", ["parity", "no 2 after 1", "counts to three"])
def test_draws_have_the_law(name):
    automaton, logs, _, weights = case(name, batch=1)
    n = 10_000
    mass = class_mass(automaton, logs[0])[None].expand(n, -1, -1)
    law = ConstrainedLaw(automaton, mass, torch.zeros(n, dtype=torch.long))
    classes = law.draw_classes(torch.rand(n, LENGTH, generator=generator(), dtype=torch.float64))
    # Tokens of one class have their own shares, here drawn by torch.
    own = torch.where(automaton.classes == classes[..., None], logs[0].exp(), 0)
    x = torch.multinomial(own.flatten(0, 1), 1, generator=generator(1)).view(n, LENGTH)
    assert automaton.accepts(x).all()
    assert chi_square(x, weights[0].softmax(-1)) > 1e-3


def test_what_no_sequence_has_is_impossible():
    automaton = TokenAutomaton(*TABLES["one word"])
    logs = torch.zeros(2, LENGTH, V, dtype=torch.float64).log_softmax(-1)
    logs[1, 3, 1] = -torch.inf  # of the word 0 2 0 1 0
    law = ConstrainedLaw(
        automaton, class_mass(automaton, logs.flatten(0, 1)).view(2, LENGTH, -1), torch.zeros(2).long()
    )
    assert law.log_total.isneginf().tolist() == [False, True]


def test_sums_by_index_are_the_sums(monkeypatch):
    values = torch.randn(7, 11, dtype=torch.float64, generator=generator())
    values[:, 3] = -torch.inf
    index = torch.tensor([0, 0, 1, 4, 1, 2, 2, 2, 0, 1, 1])
    want = torch.stack([values[:, index == k].logsumexp(-1) for k in range(5)], -1)
    torch.testing.assert_close(log_sum_at(values, index, 5), want)
    monkeypatch.setattr("noiselab.constraints.law.LOGITS_AT_ONCE", 25)  # two rows at once
    torch.testing.assert_close(log_sum_at(values, index, 5), want)
