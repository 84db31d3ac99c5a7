"""Bounds, and the law of the sampler that they bound, against their definitions: sums over all sequences."""

import itertools
import math

import pytest
import torch
from by_hand import FORGETFUL, WRITTEN, World
from torch.testing import assert_close

import noiselab as nl

GRID = [1.0, 0.6, 0.25, 0.0]
SHORT = GRID[:-1]  # ends with noise, so that a jump to clean tokens follows


class Guesses(nl.Denoiser):
    """Wrong, and another law for every token, its neighbours and the time."""

    def __init__(self, states):
        super().__init__()
        self.table = torch.randn(2, states, states, generator=torch.Generator().manual_seed(3), dtype=torch.float64)

    def forward(self, z, t):
        return self.table[0][z.roll(1, -1)] + t.double()[:, None, None] * self.table[1][z]


def predictor(world, guesses):
    """The law of each position that these logits give to the words of the chain."""
    words = len(world.initial)

    def predict(z, t):
        logits = guesses(torch.tensor([z]), torch.tensor([t], dtype=torch.float64))[0, :, :words]
        return torch.nn.functional.pad(logits.softmax(-1), (0, world.states - words))

    return predict


def divergence(q, p):
    return sum(a * math.log(a / b) for a, b in zip(q.tolist(), p.tolist(), strict=True) if a > 1e-15)


def one_hot(world, token):
    return torch.eye(world.states, dtype=torch.float64)[token]


def jump_to_clean(world, predict, t):
    """The kernel of the last draw, from each possible z."""
    possible = world.marginal(t) > 0

    def step(z):
        if not possible[world.noisy.index(z)]:
            return None
        return [world.given(x_hat, token, t) for x_hat, token in zip(predict(z, t), z, strict=True)]

    return world.kernel(step)


def prior(world):
    """Pure noise: q_1, which no longer depends on the clean token."""
    return world.product([world.q(1.0)[0]] * world.length)


def law_of_samples(world, predict, grid):
    law = prior(world)
    for t, s in itertools.pairwise(grid):
        law = law @ world.ancestral(t, s, predict)
    return law @ jump_to_clean(world, predict, grid[-1]) if grid[-1] > 0 else law


def bound_by_hand(world, predict, x, grid):
    """Steps, reconstruction, prior: Austin et al. (2021), equation 1, summed over every noisy sequence."""
    sums = [0.0, 0.0, sum(divergence(world.q(grid[0])[token], world.q(1.0)[0]) for token in x)]
    pairs = list(itertools.pairwise(grid))
    if grid[-1] == 0:  # the last step draws clean tokens
        pairs, last = pairs[:-1], grid[-2]
    else:
        last = grid[-1]
    for t, s in pairs:
        for z, p in zip(world.noisy, world.sequences(t)[world.clean.index(x)].tolist(), strict=True):
            if p > 0:
                x_hat = predict(z, t)
                for i, token in enumerate(z):
                    true = world.back(one_hot(world, x[i]), token, s, t)
                    sums[0] += p * divergence(true, world.back(x_hat[i], token, s, t))
    for z, p in zip(world.noisy, world.sequences(last)[world.clean.index(x)].tolist(), strict=True):
        if p > 0:
            x_hat = predict(z, last)
            sums[1] -= p * sum(math.log(world.given(x_hat[i], z[i], last)[x[i]]) for i in range(len(z)))
    return sums


@pytest.mark.parametrize("grid", [GRID, SHORT], ids=["to 0", "to .25"])
@pytest.mark.parametrize("name", WRITTEN)
def test_the_law_of_the_sampler_is_the_product_of_its_steps(name, grid):
    world = World(name, 2)
    process, times = world.process(), torch.tensor(grid, dtype=torch.float64)
    for denoiser in (world.oracle(process), Guesses(world.states)):
        predict = world.leave_one_out if isinstance(denoiser, nl.MarkovOracle) else predictor(world, denoiser)
        want = law_of_samples(world, predict, grid)
        assert want.sum().item() == pytest.approx(1, abs=1e-12)
        assert_close(nl.likelihood.model_law(process, denoiser, 2, times), want)


@pytest.mark.parametrize("grid", [GRID, SHORT], ids=["to 0", "to .25"])
@pytest.mark.parametrize("name", WRITTEN)
def test_the_bound_of_a_wrong_denoiser_is_its_definition(name, grid):
    world = World(name, 2)
    process, guesses = world.process(), Guesses(world.states)
    x, times = torch.tensor(world.clean), torch.tensor(grid, dtype=torch.float64)
    found = nl.likelihood.expected_discrete_bound(process, guesses, x, times)
    law, predict = law_of_samples(world, predictor(world, guesses), grid), predictor(world, guesses)
    for n, sequence in enumerate(world.clean):
        want = torch.tensor(bound_by_hand(world, predict, sequence, grid), dtype=torch.float64)
        assert_close(torch.stack([term[n] for term in found]), want)
        assert want.sum() > -math.log(law[world.noisy.index(sequence)])


def every_pair(world, t):
    """Clean and noisy tokens with q_t(z | x) > 0."""
    words = range(len(world.initial))
    return [(x, z) for x in words for z in range(world.states) if world.q(t)[x, z] > 0]


@pytest.mark.parametrize("name", WRITTEN)
def test_the_integrand_is_the_divergence_of_reverse_rates(name):
    """R log(R / R') - R + R' over all jumps, with R(z -> y) = r(y -> z) q(y | x) / q(z | x), and R' of the prediction."""
    world = World(name, 1)
    process, x_hat = world.process(), torch.tensor([0.2, 0.5, 0.3], dtype=torch.float64)[: len(world.initial)]
    x_hat = torch.nn.functional.pad(x_hat / x_hat.sum(), (0, world.states - len(x_hat)))
    for t in (0.3, 0.8):
        q, rates = world.q(t), world.rates(t)
        marginal = x_hat @ q
        for x, z in every_pair(world, t):
            want = 0.0
            for y in range(world.states):
                if y != z and rates[y, z] > 1e-7:
                    true, guessed = (rates[y, z] * law[y] / law[z] for law in (q[x], marginal))
                    want += (torch.special.xlogy(true, true / guessed) - true + guessed).item()
            time = torch.tensor([t], dtype=torch.float64)
            found = nl.nelbo(process, x_hat.log()[None, None], torch.tensor([[x]]), torch.tensor([[z]]), time)
            assert found.item() == pytest.approx(want, rel=1e-6, abs=1e-7), (t, x, z)


@pytest.mark.parametrize("name", WRITTEN)
def test_weights_of_paths_are_ratios_of_the_laws_of_paths(name):
    """The mean weight of an x is its probability under the sampler; of each path, p(path) / q(path | x)."""
    world = World(name, 1)
    process, guesses, grid, draws = world.process(), Guesses(world.states), [1.0, 0.5, 0.2], 4000
    predict, times = predictor(world, guesses), torch.tensor(grid, dtype=torch.float64)
    law = law_of_samples(world, predict, grid)
    for (x,) in world.clean:
        logs = nl.likelihood.path_log_weight(
            process, guesses, torch.full((draws, 1), x), times, generator=torch.Generator().manual_seed(x)
        )
        possible = []
        for path in itertools.product(range(world.states), repeat=3):
            q = world.q(1.0)[x, path[0]].item()
            p = world.q(1.0)[0, path[0]].item()
            for k in (1, 2):
                if q > 0:
                    q *= world.back(one_hot(world, x), path[k - 1], grid[k], grid[k - 1])[path[k]].item()
                    p *= world.back(predict((path[k - 1],), grid[k - 1])[0], path[k - 1], grid[k], grid[k - 1])[path[k]]
            if q > 1e-15:
                possible.append((q, p * world.given(predict((path[2],), grid[2])[0], path[2], grid[2])[x] / q))
        assert sum(q * weight for q, weight in possible).item() == pytest.approx(law[x].item(), rel=1e-9)
        weights = torch.tensor([weight for _, weight in possible], dtype=torch.float64)
        nearest = (logs.exp()[:, None] - weights).abs()
        assert (nearest.amin(1) < 1e-9).all()  # no weight that no path has
        error = (logs.exp().std() / draws**0.5).item()
        assert abs(logs.exp().mean().item() - law[x].item()) < 4.5 * error + 1e-9


@pytest.mark.parametrize("name", WRITTEN)
def test_a_drawn_step_back_is_bayes_rule(name):
    world, n, t, s = World(name, 1), 20_000, 0.7, 0.3
    process = world.process()
    late, early = (torch.full((n,), time, dtype=torch.float64) for time in (t, s))
    for x, z in every_pair(world, t):
        want = world.back(one_hot(world, x), z, s, t)
        drawn = process.draw_posterior(
            torch.full((n, 1), x), torch.full((n, 1), z), early, late, generator=torch.Generator().manual_seed(0)
        )
        share = torch.bincount(drawn[:, 0], minlength=world.states) / n
        assert ((share - want).abs() <= 5 * (want * (1 - want) / n).clamp(min=0).sqrt() + 1e-9).all()


@pytest.mark.parametrize("name", FORGETFUL)
def test_stopped_early_the_prior_is_the_divergence_from_the_mean_of_the_last_marginals(name):
    world = World(name, 1)
    process, words = world.process(), torch.arange(len(world.initial))
    mean = world.q(0.7)[words].mean(0)
    found = nl.elbo.prior_kl(process, words[None], torch.tensor([0.7], dtype=torch.float64))[0]
    assert found.tolist() == pytest.approx([divergence(world.q(0.7)[x], mean) for x in words], rel=1e-9)
