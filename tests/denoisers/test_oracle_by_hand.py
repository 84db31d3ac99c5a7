"""The exact denoiser against sums over all sequences: other tests take it as the truth."""

import math

import pytest
import torch
from by_hand import WRITTEN, World
from torch.testing import assert_close


@pytest.mark.parametrize("name", WRITTEN)
def test_the_oracle_is_the_sum_over_all_clean_sequences(name):
    world, t = World(name, 3), 0.45
    process = world.process()
    oracle = world.oracle(process)
    x, z = torch.tensor(world.clean), torch.tensor(world.noisy)
    assert_close(oracle.log_prob(x).exp(), world.data)
    assert oracle.entropy(3) == pytest.approx(-sum(p * math.log(p) for p in world.data.tolist()), rel=1e-12)
    time = torch.full((len(z),), t, dtype=torch.float64)
    found, posterior = oracle(z, time).exp(), process.posterior(z, oracle(z, time).exp(), 0 * time, time)
    for n, sequence in enumerate(world.noisy):
        want = world.leave_one_out(sequence, t)
        assert_close(found[n][~want.isnan()], want[~want.isnan()])
        if world.marginal(t)[n] > 0:
            assert_close(posterior[n], world.posterior(sequence, t))
    # A time for each token.
    times = torch.tensor([[0.1, 0.6, 0.9]], dtype=torch.float64)
    q = [world.matrix(time) for time in times[0].tolist()]
    law = torch.zeros(world.states, dtype=torch.float64)
    for sequence, p in zip(world.clean, world.data.tolist(), strict=True):
        law[sequence[1]] += p * q[0][sequence[0]][world.states - 1] * q[2][sequence[2]][0]
    at = torch.tensor([[world.states - 1, 0, 0]])
    assert_close(oracle(at, times)[0, 1].exp(), law / law.sum())


@pytest.mark.parametrize("name", WRITTEN)
def test_it_draws_the_chain(name):
    world, n = World(name, 3), 20_000
    x = world.oracle().sample(n, 3, generator=torch.Generator().manual_seed(0))
    counts = torch.bincount(world.code(x), minlength=len(world.noisy)) / n
    want = torch.zeros(len(world.noisy), dtype=torch.float64)
    want[world.code(torch.tensor(world.clean))] = world.data
    assert ((counts - want).abs() <= 5 * (want * (1 - want) / n).sqrt()).all()


@pytest.mark.parametrize("name", WRITTEN)
def test_the_process_is_the_written_one(name):
    """Marginals, transitions and rates of the library equal those of the matrix from which other tests sum."""
    world = World(name, 1)
    process, every = world.process(), torch.arange(world.states)[None]
    for s, t in ((0.2, 0.7), (0.5, 0.55)):
        early, late = (torch.tensor([time], dtype=torch.float64) for time in (s, t))
        assert_close(process.marginal(every, late)[0], world.q(t))
        assert_close(process.transition(every, early, late)[0].T, world.transition_between(s, t), rtol=1e-9, atol=1e-9)
        off = ~torch.eye(world.states, dtype=torch.bool)
        assert_close(process.rate(every, late)[0].T[off], world.rates(t)[off], rtol=1e-7, atol=1e-7)
