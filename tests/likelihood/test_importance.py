"""The importance-weighted bound: from the discrete bound at one path to the sampler's own likelihood at many."""

import itertools
import math

import pytest
import torch
from small_worlds import LEAKY, grid, world

import noiselab as nl
from noiselab.likelihood import importance as module

NAMES = ["masked", "gidd 0.5", "uniform", "turning", "token-dependent", "chain"]


def log_weights(process, oracle, x, times, draws, seed=0):
    """One row for each sequence."""
    generator = torch.Generator().manual_seed(seed)
    return (
        nl.likelihood.path_log_weight(process, oracle, x.repeat(draws, 1), times, generator=generator)
        .view(draws, len(x))
        .T
    )


def sampler_nats(process, oracle, x, times):
    everything = nl.likelihood.every_sequence(process.vocab_size, x.shape[1])
    law = nl.likelihood.model_law(process, oracle, x.shape[1], times)
    return -torch.stack([law[(everything == row).all(-1)].sum() for row in x]).log()


@pytest.mark.parametrize("name", NAMES)
def test_weights_have_the_samplers_likelihood_as_their_mean(name):
    process, oracle, x, _, _ = world(name, 2)
    times, draws = grid(process, 3), 4000
    weights = log_weights(process, oracle, x, times, draws).exp()
    want = (-sampler_nats(process, oracle, x, times)).exp()
    excess = (weights.mean(-1) - want) / (weights.std(-1) / draws**0.5 + 1e-12)
    print(f"{name}: p(x) within {excess.abs().max():.2f} standard errors for each of {len(x)} sequences")
    assert excess.abs().max() < 4


@pytest.mark.parametrize("name", [*NAMES, LEAKY])
def test_one_path_has_the_discrete_bound_as_its_mean(name):
    process, oracle, x, _, _ = world(name, 2)
    for times in (grid(process, 4), grid(process, 4)[:-1]):
        logs, want = (
            -log_weights(process, oracle, x, times, 3000),
            nl.likelihood.expected_discrete_bound(process, oracle, x, times),
        )
        error = logs.std(-1) / 3000**0.5
        assert ((logs.mean(-1) - want.total).abs() < 4 * error + 1e-9).all()


@pytest.mark.parametrize("name", NAMES)
def test_it_falls_with_the_number_of_paths_to_the_samplers_likelihood(name):
    process, oracle, x, p, entropy = world(name, 3)
    times = grid(process, 4)
    nats = (p * sampler_nats(process, oracle, x, times)).sum().item()
    logs, found = log_weights(process, oracle, x, times, 2048), []
    for draws in (1, 4, 16, 64):
        groups = math.log(draws) - logs.view(len(x), -1, draws).logsumexp(-1)
        found.append(nl.likelihood.estimate(p @ groups))
        print(f"{name}, K = {draws}: {found[-1]}; sampler {nats:.4f}, entropy {entropy:.4f}")
    for one, more in itertools.pairwise(found):
        assert more.mean < one.mean + 3 * math.hypot(one.error, more.error)
    assert found[-1].mean > nats - 3 * found[-1].error
    assert found[-1].mean - nats < 0.2 * (found[0].mean - nats) + 3 * found[-1].error
    assert nats > entropy


def test_the_public_bound_is_made_of_these_weights():
    process, oracle, x, _, _ = world("gidd 0.5", 3)
    times, one = grid(process, 3), torch.Generator().manual_seed(0)
    bound = nl.likelihood.importance_bound(process, oracle, x, times, draws=3, generator=one)
    again = torch.Generator().manual_seed(0)
    weights = torch.stack([nl.likelihood.path_log_weight(process, oracle, x, times, generator=again) for _ in range(3)])
    assert torch.allclose(bound, -weights.exp().mean(0).log())
    with pytest.raises(ValueError, match="draw"):
        nl.likelihood.importance_bound(process, oracle, x, times, draws=0)


def without_time(process, x_hat, x, z, t):
    return x_hat.at(z) * 0.5


def upside_down(process, x_hat, x, z, t):
    return process.probability(x, z, t).log() - x_hat.marginal(z, t)


@pytest.mark.parametrize("wrong", [without_time, upside_down])
def test_planted_mistakes_break_the_mean(wrong, monkeypatch):
    process, oracle, x, _, _ = world("gidd 0.5", 2)
    times = grid(process, 3)
    monkeypatch.setattr(module, "_ratio", wrong)
    weights = log_weights(process, oracle, x, times, 4000).exp()
    want = (-sampler_nats(process, oracle, x, times)).exp()
    assert not ((weights.mean(-1) - want).abs() < 5 * weights.std(-1) / 4000**0.5).all()
