"""Predictions given a constraint, against Bayes' rule over all sequences."""

import itertools

import pytest
import torch
from exact_worlds import NOISES, generator

import noiselab as nl
from noiselab.constraints import TokenAutomaton
from noiselab.denoisers import Constrained, LeaveOneOut, Posterior, Support

LENGTH = 4
X = torch.tensor(list(itertools.product(range(3), repeat=LENGTH)))
LAW = torch.tensor([0.5, 0.2, 0.3], dtype=torch.float64)
PROCESSES = NOISES | {
    "by token": lambda: nl.processes.TokenRates(torch.tensor([1.0, 2.0]), mask_id=3, classes=torch.tensor([0, 1, 1, 0]))
}
TABLES = {
    "parity": (torch.tensor([[0, 1, 0], [1, 0, -1]]), [1]),
    "no 2 after 1": (torch.tensor([[0, 1, 0], [0, 1, -1]]), [0, 1]),
    "two twos": (torch.tensor([[0, 0, 1], [1, 1, 2], [2, 2, -1]]), [2]),
}


def made(name, table, start=0, wrap=lambda oracle, process: oracle):
    """Independent tokens, the constraint, and the law of the data that satisfy it."""
    process = PROCESSES[name]()
    transitions, accepting = TABLES[table]
    transitions = torch.nn.functional.pad(transitions, (0, process.vocab_size - 3), value=-1)
    automaton = TokenAutomaton(transitions, accepting)
    oracle = nl.MarkovOracle(LAW, LAW.expand(3, 3), process)
    law = torch.where(automaton.accepts(X, start), LAW[X].prod(-1), 0)
    return process, Constrained(wrap(oracle, process), automaton, process, start), law / law.sum()


def given(process, z, t, law, alone):
    """The law of each token given the noisy ones, without its own noisy value if `alone`: Bayes' rule over all sequences."""
    like = process.likelihood(z, t)
    found = torch.zeros(*z.shape, process.vocab_size, dtype=torch.float64)
    for b, i in itertools.product(range(len(z)), range(LENGTH)):
        weight = law.clone()
        for j in range(LENGTH):
            if j != i or not alone:
                weight = weight * like[b, j, X[:, j]]
        found[b, i].index_add_(0, X[:, i], weight)
    return found / found.sum(-1, keepdim=True)


def noisy(process, law, t, seed=0):
    x = X[torch.multinomial(law, len(t), replacement=True, generator=generator(seed))]
    return process.corrupt(x, t, generator=generator(seed))


@pytest.mark.parametrize("start", [0, 1])
@pytest.mark.parametrize("table", TABLES)
@pytest.mark.parametrize("name", PROCESSES)
def test_independent_tokens_are_predicted_exactly(name, table, start):
    """The leave-one-out distribution of the data that satisfy the constraint, for one time and for times per token."""
    process, denoiser, law = made(name, table, start)
    for t in (torch.full((5,), 0.6).double(), torch.rand(5, LENGTH, generator=generator(), dtype=torch.float64)):
        z = noisy(process, law, t)
        want = given(process, z, t, law, alone=True)
        torch.testing.assert_close(denoiser(z, t).softmax(-1), want, rtol=0, atol=1e-12)
        rows = torch.rand(z.shape, generator=generator(1)) < 0.4
        torch.testing.assert_close(denoiser(z, t, rows).softmax(-1), want[rows], rtol=0, atol=1e-12)


@pytest.mark.parametrize("name", ["gidd", "uniform"])
def test_posteriors_stay_posteriors(name):
    process, denoiser, law = made(name, "parity", wrap=Posterior)
    assert denoiser.predicts == "posterior"
    t = torch.full((5,), 0.6).double()
    z = noisy(process, law, t)
    torch.testing.assert_close(denoiser(z, t).softmax(-1), given(process, z, t, law, alone=False), rtol=0, atol=1e-12)
    back = LeaveOneOut(denoiser, process)(z, t).softmax(-1)
    torch.testing.assert_close(back, given(process, z, t, law, alone=True), rtol=0, atol=1e-12)


@pytest.mark.parametrize("table", TABLES)
@pytest.mark.parametrize("name", NOISES)
def test_the_bound_is_the_entropy_of_the_data_that_satisfy_it(name, table):
    process, denoiser, law = made(name, table)
    some = law > 0
    bound = nl.likelihood.expected_bound(process, denoiser, X[some], nodes=24).mean(law[some]).total
    assert bound.item() == pytest.approx(-torch.xlogy(law, law).sum().item(), abs=1e-4)


def test_starts_may_differ_between_sequences():
    process, _, _ = made("gidd", "parity")
    t, start = torch.full((6,), 0.5).double(), torch.tensor([0, 1, 2, 3, 2, 1])
    z = noisy(process, torch.ones(len(X)).double(), t)
    alone = [made("gidd", "parity", int(n))[1](z[i : i + 1], t[i : i + 1]) for i, n in enumerate(start)]
    both = Constrained(made("gidd", "parity")[1].inner, made("gidd", "parity")[1].automaton, process, start)(z, t)
    torch.testing.assert_close(both, torch.cat(alone))


@pytest.mark.parametrize("name", NOISES)
def test_a_constraint_that_all_meet_changes_nothing(name):
    process = NOISES[name]()
    oracle = nl.MarkovOracle(LAW, torch.full((3, 3), 0.2).fill_diagonal_(0.6), process)
    always = TokenAutomaton(torch.zeros(1, process.vocab_size, dtype=torch.long), [0])
    z, t = noisy(process, LAW[X].prod(-1), torch.full((8,), 0.5)), torch.full((8,), 0.5)
    torch.testing.assert_close(
        Constrained(oracle, always, process)(z, t).softmax(-1), oracle(z, t).softmax(-1), rtol=0, atol=1e-12
    )


def test_half_precision_and_the_argument_stay():
    """A float16 network: the factors are float64, the logits float32; the automaton is a copy."""
    process, exact, _law = made("masked", "parity")

    class Half(nl.WrappedDenoiser):
        def forward(self, z, t, rows=None):
            return self.inner(z, t, rows).half()

    z, t = torch.full((1, LENGTH), 3), torch.ones(1)
    half = Constrained(Half(exact.inner), exact.automaton, process)
    assert half(z, t).dtype == torch.float32 and half.automaton is not exact.automaton
    torch.testing.assert_close(half(z, t).softmax(-1).double(), exact(z, t).softmax(-1), rtol=0, atol=2e-3)


@pytest.mark.parametrize("name", ["masked", "gidd"])
def test_reasons_are_given_before_the_first_step(name):
    process = NOISES[name]()
    oracle = nl.MarkovOracle(LAW, LAW.expand(3, 3), process)
    word = TokenAutomaton(torch.tensor([[1, -1, -1, -1], [-1, 2, -1, -1], [3, 3, -1, -1], [-1] * 4]), [3])
    t = torch.full((1,), 0.5)

    def ask(tokens, start=0, denoiser=oracle, **known):
        denoiser = Constrained(denoiser, word, process, start)
        times = torch.where(torch.tensor([tokens]) == 3, 0.5, 0.0) if known else t
        return denoiser(torch.tensor([tokens]), times)

    with pytest.raises(ValueError, match="a sequence of 2 tokens; it accepts none: the shortest has 3"):
        ask([3, 3])
    with pytest.raises(
        ValueError, match="a sequence of 4 tokens after the first 1; it accepts none: others have other"
    ):
        ask([3] * 5, start=1)
    with pytest.raises(ValueError, match="token 2 at position 1, with those before it, does not"):
        ask([3, 2, 3], known=True)
    support = torch.tensor([False, True, True, False])
    with pytest.raises(ValueError, match="the prediction must allow a sequence that the constraint accepts"):
        ask([3, 3, 3], denoiser=Support(oracle, support))
    assert ask([3, 1, 3], known=True).isfinite().any(-1).all()


@pytest.mark.usefixtures("unchecked")
def test_what_is_refused():
    process, denoiser, _ = made("masked", "parity")
    oracle, automaton = denoiser.inner, denoiser.automaton
    for call, words in {
        lambda: Constrained(oracle, automaton, nl.uniform(vocab_size=3)): "tokens of the process, 3; got one of 4",
        lambda: Constrained(oracle, "[a-z]", process): "must be a noiselab.constraints.TokenAutomaton",
        lambda: Constrained(oracle, automaton, process, -1): "start must be at least 0",
        lambda: Constrained(nl.denoisers.Score(oracle, process), automaton, process): "needs logits of clean tokens",
        lambda: Constrained(oracle, automaton, process, torch.tensor([1, 1]))(X[:3], torch.ones(3)): "for each of 3",
        lambda: Constrained(oracle, automaton, process, 5)(X[:3], torch.ones(3)): r"start must lie in \[0, 4\]|at most",
    }.items():
        with pytest.raises(ValueError, match=words):
            call()
