"""Balanced jumps against a generator matrix that is summed from the definitions."""

import itertools
import math

import pytest
import torch
from by_hand import WRITTEN, World, fit_of_step

import noiselab as nl
from noiselab.categorical import TokenGenerators
from noiselab.correctors import BalancedCorrector

LEVEL, DURATION = 0.25, 1.5


def improbable(law, level):
    """The tokens for which those that are at most as probable sum to less than the level."""
    return [sum(p for p in law if p <= own + 1e-12) < level for own in law]


def generator_matrix(world, t, level, *, both=True):
    """Rates from each noisy sequence to each other one; with `both=False` only out of improbable tokens."""
    law = world.marginal(t)
    rates = torch.zeros(len(world.noisy), len(world.noisy), dtype=torch.float64)
    for n in (law > 0).nonzero()[:, 0].tolist():
        z = world.noisy[n]
        given = (world.leave_one_out(z, t) @ world.q(t)).tolist()
        for i, p in enumerate(given):
            low = improbable(p, level)
            for v in range(world.states):
                if v != z[i] and (low[z[i]] or (both and low[v])):
                    rates[n, world.noisy.index((*z[:i], v, *z[i + 1 :]))] += p[v]
    return rates - torch.diag(rates.sum(-1))


def stepper(corrector, t):
    def step(z, generator):
        return corrector.step(z, torch.full((len(z),), t, dtype=torch.float64), generator=generator)

    return step


@pytest.mark.long_for("*neighbours*")
@pytest.mark.parametrize("name", WRITTEN)
def test_the_jumps_are_those_of_the_generator_and_leave_the_law(name):
    world, t = World(name, 2), 0.4
    law, rates = world.marginal(t), generator_matrix(world, t, LEVEL)
    flow = law[:, None] * rates
    assert (flow - flow.T).abs().max() < 1e-14 and flow.diagonal().abs().max() > 0.01  # detailed balance
    want = torch.linalg.matrix_exp(DURATION * rates)
    assert (law @ want - law).abs().max() < 1e-14
    corrector = BalancedCorrector(world.process(), world.oracle(), level=LEVEL, duration=DURATION)
    assert fit_of_step(world, stepper(corrector, t), want, t) > 1e-4
    # Another duration or level would be seen, and so would jumps out of improbable tokens alone.
    other = BalancedCorrector(world.process(), world.oracle(), level=LEVEL, duration=0.6 * DURATION)
    assert fit_of_step(world, stepper(other, t), want, t) < 1e-6
    one_way = torch.linalg.matrix_exp(DURATION * generator_matrix(world, t, LEVEL, both=False))
    assert (law @ one_way - law).abs().sum() > 0.05
    assert fit_of_step(world, stepper(corrector, t), one_way, t) < 1e-6


ALIKE = [0.7, 0.2, 0.06, 0.04]  # independent tokens: p-values 1, 0.3, 0.1, 0.04


def independent(**settings):
    process = nl.gidd(vocab_size=5, mask_id=4, p_uniform=0.2)
    row = torch.tensor(ALIKE, dtype=torch.float64)
    oracle = nl.denoisers.CallCounter(nl.MarkovOracle(row, row.expand(4, -1), process))
    return oracle, BalancedCorrector(process, oracle, **settings)


def test_tokens_of_small_p_value_are_redrawn_and_the_others_hardly_ever():
    """Levels between the p-values; the chance of what stays is closed-form for independent tokens."""
    z = torch.arange(4).repeat(40_000, 1)
    for level, low in ((0.05, [3]), (0.2, [2, 3])):
        _, corrector = independent(level=level, duration=2.0)
        x = corrector.correct(z, generator=torch.Generator().manual_seed(0))
        mass = sum(ALIKE[v] for v in low)
        for v in range(4):
            if v in low:  # it leaves for another token at the rate 1 - p; what comes back is counted by the matrix
                rates = torch.tensor([[p * ((a in low) or (b in low)) for b, p in enumerate(ALIKE)] for a in range(4)])
                rates = rates.double().fill_diagonal_(0)
                stays = torch.linalg.matrix_exp(2 * (rates - torch.diag(rates.sum(-1))))[v, v].item()
                assert (x[:, v] == v).double().mean().item() == pytest.approx(stays, abs=0.01)
            else:
                assert (x[:, v] != v).double().mean().item() < 2 * 2.0 * mass


def test_a_sequence_of_probable_tokens_costs_one_evaluation_and_each_jump_one_more():
    oracle, corrector = independent(level=0.001)  # no token has so small a p-value
    z = torch.arange(4).repeat(7, 1)
    assert torch.equal(corrector.correct(z), z) and oracle.sequences == 7
    oracle, corrector = independent(level=0.05, duration=1.0)
    oracle.reset()
    states = list(corrector.walk(z, generator=torch.Generator().manual_seed(1)))
    jumps = sum(int((a != b).sum()) for a, b in zip([z, *states], states, strict=False))
    assert oracle.sequences == 7 + jumps and jumps > 0


def test_a_walk_takes_no_more_steps_than_are_allowed():
    _, corrector = independent(level=0.9, duration=1e6)
    states = list(corrector.walk(torch.arange(4).repeat(3, 1), steps=5, generator=torch.Generator().manual_seed(0)))
    assert len(states) == 5
    assert all(int((a != b).sum(-1).max()) <= 1 for a, b in itertools.pairwise(states))
    assert not list(corrector.walk(torch.arange(4)[None], steps=0))


def test_a_sequence_is_corrected_alone_as_in_a_batch_and_only_where_it_may():
    _, corrector = independent(level=0.2)
    z = torch.randint(4, (6, 9), generator=torch.Generator().manual_seed(2))
    rows = torch.rand(6, 9, generator=torch.Generator().manual_seed(3)) < 0.6
    rows[4] = False
    seeded = [torch.Generator().manual_seed(i) for i in range(6)]
    before = z.clone()
    x = corrector.correct(z, rows=rows, generator=seeded)
    assert torch.equal(z, before) and torch.equal(x[~rows], z[~rows]) and (x != z).any()
    for i in range(6):
        random = [torch.Generator().manual_seed(i)]
        assert torch.equal(corrector.correct(z[i : i + 1], rows=rows[i : i + 1], generator=random), x[i : i + 1])


def test_a_token_that_cannot_be_is_replaced():
    """A state that the chain never enters has probability 0; and one that it always has stays."""
    process = nl.uniform(vocab_size=2)
    oracle = nl.MarkovOracle(torch.tensor([1.0, 0.0]), torch.tensor([[1.0, 0.0], [1.0, 0.0]]), process)
    corrector = BalancedCorrector(process, oracle, duration=30.0)
    assert corrector.correct(torch.tensor([[0, 1, 0], [0, 0, 0]])).tolist() == [[0] * 3] * 2


def test_finished_sequences_get_no_noise():
    """A process that has noise at its lower end, too: a step keeps the law of noisy tokens, a walk writes clean ones."""

    class Always(nl.InterpolatingProcess):
        domain = (0.3, 1.0)

        def alpha(self, t):
            return 1 - t

        def mixing(self, t):
            return torch.tensor([0.25, 0.25, 0.5]).to(t).expand(*t.shape, 3)

    process = Always(torch.tensor([True, True, False]))
    row = torch.tensor([0.5, 0.5], dtype=torch.float64)
    corrector = BalancedCorrector(process, nl.MarkovOracle(row, row.expand(2, -1), process), level=0.9)
    z, random = torch.zeros(500, 4, dtype=torch.long), torch.Generator().manual_seed(0)
    assert (corrector.correct(z, generator=random) < 2).all()
    assert (corrector.step(z, torch.full((500,), 0.3), generator=random) == 2).any()


def test_what_does_not_fit_is_refused(unchecked):
    process = nl.uniform(vocab_size=2)
    oracle = nl.MarkovOracle(torch.tensor([0.5, 0.5]), torch.tensor([[0.5, 0.5], [0.5, 0.5]]), process)
    for level in (0, 1, -1, math.nan):
        with pytest.raises(ValueError, match=r"level must lie in \(0, 1\); got"):
            BalancedCorrector(process, oracle, level=level)
    for duration in (0, -1, math.inf):
        with pytest.raises(ValueError, match=r"duration must be .*positive.*; got"):
            BalancedCorrector(process, oracle, duration=duration)
    corrector = BalancedCorrector(process, oracle)
    with pytest.raises(ValueError, match="steps must be at least 0; got -1"):
        list(corrector.walk(torch.zeros(1, 3, dtype=torch.long), steps=-1))
    with pytest.raises(ValueError, match=r"rows must be Bool of shape \[1, 3\]"):
        list(corrector.walk(torch.zeros(1, 3, dtype=torch.long), rows=torch.ones(1, 2, dtype=torch.bool)))
    assert repr(corrector).endswith("level=0.01, duration=5)")


def test_between_steps_a_sequence_is_corrected_alike_alone_and_in_a_batch():
    process = nl.gidd(vocab_size=3, mask_id=2, p_uniform=0.2)
    oracle = nl.MarkovOracle(torch.tensor([0.5, 0.5]), torch.tensor([[0.9, 0.1], [0.2, 0.8]]), process)
    corrector = BalancedCorrector(process, oracle, level=0.3, duration=2.0)
    sampler = nl.PredictorCorrector(nl.AncestralSampler(process, oracle), corrector)
    seeded = lambda n: torch.Generator().manual_seed(n)  # noqa: E731
    together = sampler.sample((6, 8), steps=6, generator=[seeded(n) for n in range(6)])
    alone = torch.cat([sampler.sample((1, 8), steps=6, generator=[seeded(n)]) for n in range(6)])
    assert torch.equal(together, alone)


def test_short_texts_of_a_padded_batch_are_corrected_as_alone():
    process = nl.gidd(vocab_size=3, mask_id=2, p_uniform=0.2)
    oracle = nl.MarkovOracle(torch.tensor([0.5, 0.5]), torch.tensor([[0.9, 0.1], [0.2, 0.8]]), process)
    corrector = BalancedCorrector(process, oracle, level=0.4, duration=20.0)
    real = torch.tensor([[True, False], [True, True]])
    for seed in range(40):
        each = [torch.Generator().manual_seed(seed), torch.Generator().manual_seed(100)]
        z = torch.zeros(2, 2, dtype=torch.long)
        together = corrector.correct(z, rows=real, generator=TokenGenerators(each, real))
        alone = corrector.correct(z[:1], rows=real[:1], generator=[torch.Generator().manual_seed(seed)])
        assert together[0].tolist() == alone[0].tolist()


def test_empty_texts_stay_as_they_are():
    process = nl.uniform(vocab_size=2)
    half = torch.full((2, 2), 0.5)
    corrector, z = (
        BalancedCorrector(process, nl.MarkovOracle(half[0], half, process)),
        torch.zeros(2, 0, dtype=torch.long),
    )
    assert corrector.correct(z).shape == corrector.step(z, torch.full((2,), 0.3)).shape == (2, 0)
