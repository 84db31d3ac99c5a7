"""Fixed nodes: how many are enough, measured by the entropy identity; and where the bound begins."""

import pytest
import torch
from small_worlds import LEAKY, SMALL, V, known, world

import noiselab as nl
from noiselab import t

MASK = 2


def uniform(signal):
    return lambda: nl.uniform(vocab_size=V, signal=signal)


STEEP = {
    "log-SNR hybrid, uniform": lambda: nl.processes.log_snr_hybrid(vocab_size=V, mask_id=MASK, shift=1000),
    "log-SNR hybrid, published": lambda: nl.processes.log_snr_hybrid(vocab_size=V, mask_id=MASK),
    "geometric": uniform(nl.schedules.geometric()),
    "log-SNR from 100 to -100": uniform(nl.schedules.from_log_snr(100 - 200 * t)),
    "exponential": uniform(nl.schedules.exp(-20 * t)),
    "cosine chain": lambda: nl.processes.d3pm(nl.Uniform(V), nl.processes.cosine_betas(10)),
    "chain by another clock": lambda: nl.process.ChangeOfTime(
        nl.processes.d3pm(nl.Uniform(V), nl.processes.cosine_betas(4)), t**2
    ),
    "tenth root": uniform(1 - t**0.1),
    "all coarse early": lambda: nl.processes.Coarse(torch.tensor([2, 2, 2, 3]), mask_id=3, fine=(1 - t) ** 20),
}
SIXTEEN = {
    "cosine chain": 5e-3,
    "log-SNR from 100 to -100": 5e-3,
    "chain by another clock": 1e-3,
    "all coarse early": 1e-3,
}


def surplus(process, oracle, x, p, entropy, **options):
    return nl.likelihood.expected_bound(process, oracle, x, **options).mean(p).total.item() - entropy


@pytest.mark.parametrize("name", [*SMALL, *STEEP])
def test_few_nodes_are_enough(name):
    process = {**SMALL, **STEEP}[name]().requires_grad_(False)
    scene = process, *known(process, 3)
    few, more, many = (surplus(*scene, low=1e-6, nodes=nodes) for nodes in (16, 64, 200))
    print(f"{name}: bound - entropy with 16 nodes {few:+.1e}, 64 {more:+.1e}, 200 {many:+.1e}")
    # What noise and signal are left at the ends, and noise before 1e-6, are in the process, and no error of the nodes.
    ends = 5e-4 if "SNR hybrid" in name else 0.05 if name == "tenth root" else 2e-6
    assert -1e-6 < many < ends
    assert abs(few - many) < SIXTEEN.get(name, 1e-4)
    assert abs(more - many) < 1e-4


@pytest.mark.parametrize("powers, error", [([0.3, 3.0, 1.0], 1e-4), ([0.2, 5.0, 1.0], 1e-4), ([0.1, 1.0, 1.0], 3e-2)])
def test_nodes_of_unequal_token_rates(powers, error):
    """The table of the guide: the mean, and the worst single text."""
    process = nl.processes.TokenRates(torch.tensor(powers), mask_id=MASK).requires_grad_(False)
    oracle, x, p, _ = known(process, 3)
    few, more, many = (nl.likelihood.expected_bound(process, oracle, x, nodes=n).total for n in (16, 64, 200))
    assert abs((p * (few - many)).sum()) < error and abs(few - many).max() < (2e-3 if error < 1e-3 else 0.1)
    assert abs(more - many).max() < (1e-8 if error < 1e-3 else 2e-5)
    if error > 1e-3:
        assert abs((p * (few - many)).sum()) > 1e-2


@pytest.mark.parametrize("name", ["log-SNR hybrid, uniform", "geometric", "log-SNR from 100 to -100", "cosine chain"])
def test_planted_mistake_a_clock_that_is_not_the_process(name):
    process = STEEP[name]()
    times = nl.times.quadrature(16, low=1e-6)
    assert abs(surplus(process, *known(process, 3), low=1e-6, times=times)) > 0.01


@pytest.mark.parametrize("name", ["cosine chain", "chain by another clock"])
def test_planted_mistake_corners_that_are_not_known(name, monkeypatch):
    process = STEEP[name]()
    scene = process, *known(process, 3)
    right = abs(surplus(*scene, low=1e-6, nodes=32))
    monkeypatch.setattr(nl.process.NoiseProcess, "corners", lambda self: [])
    assert abs(surplus(*scene, low=1e-6, nodes=32)) > 10 * right


@pytest.mark.parametrize("name", [*SMALL, *STEEP])
def test_weights_belong_to_their_times(name):
    """The integral of 1, and of the slope of the signal, over part of the domain."""
    process = {**SMALL, **STEEP}[name]().requires_grad_(False)
    low, high = 0.1, 0.8 * process.domain[1]
    time, weight = nl.likelihood.process_quadrature(process, 64, low=low, high=high)
    assert (time.diff() > 0).all() and time[0] > low and time[-1] < high and (weight > 0).all()
    assert weight.sum().item() == pytest.approx(high - low, rel=2e-2 if "100" in name else 1e-5)
    slope = torch.func.jvp(lambda time: process.alpha(time), (time,), (torch.ones_like(time),))[1]
    ends = process.alpha(torch.tensor([high, low], dtype=torch.float64))
    found = (weight * slope.movedim(0, -1)).sum(-1)
    torch.testing.assert_close(found, ends[0] - ends[1], rtol=1e-4, atol=1e-7)
    with pytest.raises(ValueError, match="node"):
        nl.likelihood.process_quadrature(process, 0)
    with pytest.raises(ValueError, match="domain"):
        nl.likelihood.process_quadrature(process, 4, high=1.1)


def test_where_the_signal_stays_time_goes_on():
    flat = nl.schedules.Function(lambda t: torch.maximum(1 - t, torch.minimum(torch.full_like(t, 0.5), 4 - 4 * t)))
    time, weight = nl.likelihood.process_quadrature(
        nl.masked(vocab_size=V, mask_id=MASK, signal=flat), 16, low=0.6, high=0.8
    )
    assert weight.sum().item() == pytest.approx(0.2) and (time > 0.6).all() and (time < 0.8).all()


ROOTS = {
    "tenth root": uniform(1 - t**0.1),
    "fourth root": uniform(1 - t**0.25),
    "gidd, gamma 0.2": lambda: nl.gidd(vocab_size=V, mask_id=MASK, p_uniform=0.2, gamma=0.2),
    "gidd": lambda: nl.gidd(vocab_size=V, mask_id=MASK, p_uniform=0.2),
}


@pytest.mark.parametrize("name", ROOTS)
def test_from_zero_it_is_a_bound_too(name):
    """Rates stop at 1e-12, where the tenth root of t has replaced 6 per cent of the tokens."""
    process = ROOTS[name]()
    oracle, x, p, entropy = known(process, 3)
    terms = nl.likelihood.expected_bound(process, oracle, x, nodes=100).mean(p)
    gap = terms.total.item() - entropy
    print(f"{name}: bound - entropy {gap:+.1e}, of which reconstruction {terms.reconstruction.item():.1e}")
    assert -1e-8 < gap < 0.05
    assert gap - terms.reconstruction.item() < -1e-8  # skipped, because tokens are clean at 0: no bound
    drawn = nl.continuous_bound(process, oracle, x.repeat(300, 1), nodes=32, low=0.0, generator=torch.Generator())
    assert drawn.reconstruction.mean() > 0


@pytest.mark.parametrize("name, asked", [("masked", 1), ("gidd 0.5", 2)])
def test_the_network_is_evaluated_at_clean_tokens_only_where_noise_may_hide(name, asked):
    process, oracle, x, *_ = world(name, 3)
    calls = []

    class Calls(nl.Denoiser):
        def forward(self, z, t, rows=None):
            calls.append(t)
            return oracle(z, t, rows)

    nl.continuous_bound(process, Calls(), x, low=0.0, generator=torch.Generator().manual_seed(0))
    assert len(calls) == asked


def test_the_ends_of_the_leaky_process_stay_in_its_bound():
    process, oracle, x, p, entropy = world(LEAKY, 2)
    assert surplus(process, oracle, x, p, entropy) > 1e-6


def test_each_step_of_a_chain_has_a_node_if_there_are_two_for_each():
    """The signal of a chain is linear between its times; a step without a node would add nothing to the bound."""
    chain = nl.processes.d3pm(nl.Uniform(V), nl.processes.cosine_betas(4))
    edges = torch.tensor([0, 0.25, 0.5, 0.75, 1], dtype=torch.float64)
    for nodes in (8, 9, 16):
        t = nl.likelihood.process_quadrature(chain, nodes)[0]
        assert (torch.histogram(t, edges).hist >= 1).all(), nodes
