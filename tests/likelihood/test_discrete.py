"""Bounds in discrete time: of one step, of a grid, of the sampler that takes it."""

import math
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from hypothesis import given, settings
from small_worlds import SMALL, grid, known, world
from torch.testing import assert_close
from worlds import PROCESSES, V, processes

import noiselab as nl
from noiselab.elbo import steps as module
from noiselab.likelihood import exact


def tokens(process, t, seed=0, length=40):
    generator = torch.Generator().manual_seed(seed)
    data = process.data_tokens().nonzero()[:, 0]
    x = data[torch.randint(len(data), (len(t), length), generator=generator)]
    logits = 3 * torch.randn(len(t), length, process.vocab_size, generator=generator, dtype=torch.float64)
    return logits.requires_grad_(), x, process.corrupt(x, t, generator=generator)


TIMES = [(0.3, 0.6), (0.0, 0.4), (0.5, 1.0), (0.49, 0.5), (0.0, 1.0), (1e-4, 2e-4), (0.999, 0.9999), (0.4, 0.4)]


def compare(process):
    s, t = torch.tensor(TIMES, dtype=torch.float64).T
    low, high = process.domain
    s, t = low + (high - low) * s, low + (high - low) * t
    logits, x, z = tokens(process, t)
    fast, dense = nl.elbo.step_kl(process, logits, x, z, s, t), nl.elbo.step_kl_dense(process, logits, x, z, s, t)
    assert_close(fast, dense, rtol=1e-6, atol=1e-9)
    (one,), (other,) = (torch.autograd.grad(v.sum(), logits) for v in (fast, dense))
    assert_close(one, other, rtol=1e-6, atol=1e-9)
    # Every token on its own clock.
    s, t = s.roll(1)[:, None].repeat(1, 40), torch.ones_like(s)[:, None].repeat(1, 40)
    z = process.corrupt(x, t, generator=torch.Generator().manual_seed(1))
    assert_close(
        nl.elbo.step_kl(process, logits, x, z, s, t),
        nl.elbo.step_kl_dense(process, logits, x, z, s, t),
        rtol=1e-6,
        atol=1e-9,
    )


@pytest.mark.parametrize("name", PROCESSES)
def test_a_step_is_its_definition(name):
    compare(PROCESSES[name]().requires_grad_(False))


@settings(max_examples=4)
@given(processes())
def test_a_step_of_any_process_is_its_definition(make):
    compare(make())


def test_a_step_of_a_token_dependent_process():
    process = SMALL["token-dependent"]()
    t = torch.tensor([0.3, 0.9], dtype=torch.float64)
    logits, x, z = tokens(process, t)
    assert_close(
        nl.elbo.step_kl(process, logits, x, z, t / 3, t), nl.elbo.step_kl_dense(process, logits, x, z, t / 3, t)
    )
    assert_close(
        nl.elbo.step_kl(process, logits, x, z, 0 * t, t),
        nl.elbo.reconstruction(process, logits, x, z, t),
        rtol=1e-6,
        atol=1e-9,
    )


def test_under_masking_it_is_a_share_of_the_cross_entropy():
    process = nl.masked(vocab_size=V, mask_id=V - 1)
    s, t = torch.tensor([[0.1, 0.0, 0.6], [0.4, 1.0, 0.9]], dtype=torch.float64)
    logits, x, z = tokens(process, t)
    entropy = -logits.index_fill(-1, torch.tensor(V - 1), -torch.inf).log_softmax(-1).gather(-1, x[..., None])[..., 0]
    want = torch.where(z == V - 1, (1 - s / t)[:, None] * entropy, 0)
    assert_close(nl.elbo.step_kl(process, logits, x, z, s, t), want, rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize("name", PROCESSES)
def test_a_small_step_is_the_integrand(name):
    process = PROCESSES[name]().requires_grad_(False)
    t = torch.tensor([0.2, 0.5, 0.8], dtype=torch.float64)
    logits, x, z = tokens(process, t)
    step = 1e-6
    assert_close(
        nl.elbo.step_kl(process, logits, x, z, t - step, t) / step,
        nl.nelbo(process, logits, x, z, t),
        rtol=1e-3,
        atol=1e-3,
    )


def test_learned_processes_get_gradients_from_a_step():
    process = PROCESSES["learned"]()
    t = torch.tensor([0.3, 0.7], dtype=torch.float64)
    logits, x, z = tokens(process, t)
    nl.elbo.step_kl(process, logits, x, z, t / 2, t).sum().backward()
    assert all(p.grad is not None and p.grad.abs().sum() > 0 for p in process.parameters())


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_low_precision_logits(dtype):
    process = PROCESSES["gidd"]()
    s, t = torch.tensor([[0.1, 0.0, 0.6], [0.4, 1.0, 0.9]], dtype=torch.float64)
    logits, x, z = tokens(process, t)
    low = logits.detach().to(dtype)
    value = nl.elbo.step_kl(process, low, x, z, s, t)
    assert value.dtype == torch.float32
    assert_close(value.double(), nl.elbo.step_kl(process, low.double(), x, z, s, t), rtol=1e-4, atol=1e-5)


COMPILED = """
import torch
import noiselab as nl
process = nl.gidd(vocab_size=5, mask_id=4, p_uniform=0.1)
s, t = torch.tensor([[0.1, 0.6], [0.4, 0.9]], dtype=torch.float64)
x = torch.arange(20).view(2, 10) % 4
z, logits = process.corrupt(x, t), torch.randn(2, 10, 5)
compiled = torch.compile(nl.elbo.step_kl, backend="eager", fullgraph=True)
torch.testing.assert_close(compiled(process, logits, x, z, s, t), nl.elbo.step_kl(process, logits, x, z, s, t))
"""


def test_a_step_compiles_without_a_graph_break():
    """As users compile it, without the shape checks: hence in a process of its own."""
    environment = {**os.environ, "PYTHONPATH": str(Path(__file__).parents[2])}
    done = subprocess.run([sys.executable, "-c", COMPILED], capture_output=True, text=True, env=environment)
    assert done.returncode == 0, done.stderr[-3000:]


@pytest.mark.long_for("gidd v1.0.0")
@pytest.mark.parametrize("name", SMALL)
def test_it_bounds_the_likelihood_of_the_sampler_and_tends_to_the_entropy(name):
    process, oracle, x, p, entropy = world(name, 3)
    everything = nl.likelihood.every_sequence(process.vocab_size, 3)
    place = [int((everything == row).all(-1).nonzero()) for row in x]
    gaps = []
    for steps in (1, 2, 4, 8, 16, 32, 64):
        bound = nl.likelihood.expected_discrete_bound(process, oracle, x, grid(process, steps)).total
        law = nl.likelihood.model_law(process, oracle, 3, grid(process, steps))
        nats = -law[place].log()
        assert law.sum() == pytest.approx(1, abs=1e-9)
        assert (bound >= nats - 1e-9).all()
        model = (p * nats).sum().item()
        assert model >= entropy - 1e-9
        gaps.append((p * bound).sum().item() - entropy)
        print(f"{name}, {steps} steps: bound - entropy {gaps[-1]:.6f}, of the sampler {model - entropy:.6f}")
    order = math.log2(gaps[-2] / gaps[-1])
    print(f"{name}: order {order:.2f}")
    assert gaps == sorted(gaps, reverse=True) and gaps[-1] < 0.07 * gaps[0]
    assert 0.6 < order < 1.2


def test_drawn_it_has_the_enumerated_mean():
    generator = torch.Generator().manual_seed(0)
    for name, steps, stop in (("gidd 0.5", 4, 5), ("token-dependent", 3, 4), ("uniform", 4, 4), ("masked", 1, 2)):
        process, oracle, x, p, _ = world(name, 2)
        times = grid(process, steps)[:stop]
        want = nl.likelihood.expected_discrete_bound(process, oracle, x, times).mean(p)
        many = x[nl.categorical.choose(p.expand(3000, -1), nl.categorical.uniforms(3000, generator=generator))]

        def draw(pick, process=process, oracle=oracle, many=many, times=times):
            return nl.discrete_bound(process, oracle, many, times, pick=pick, generator=generator)

        for sampled in (False, True):
            pick = nl.stratified_times(3000, generator=generator) if sampled else None
            terms = draw(pick)
            for term, exact_term in zip(terms, want, strict=True):
                error = (term.std() / 3000**0.5).item()
                assert abs(term.mean().item() - exact_term.item()) < 4 * error + 1e-9, (name, sampled)


def test_grids_that_end_early_pay_for_the_jump():
    process, oracle, x, p, entropy = world("gidd 0.5", 3)
    times = torch.linspace(1, 0.01, 65, dtype=torch.float64)
    terms = nl.likelihood.expected_discrete_bound(process, oracle, x, times).mean(p)
    assert terms.total > entropy > terms.diffusion + terms.prior


@pytest.mark.parametrize("last", [0.0, 0.01, 0.2])
@pytest.mark.parametrize("name", ["masked", "gidd 0.5", "log-SNR hybrid", "token-dependent", "coarse masked"])
def test_the_jump_to_clean_tokens_belongs_to_the_sampler(name, last):
    process, oracle, x, p, entropy = world(name, 3)
    everything = nl.likelihood.every_sequence(process.vocab_size, 3)
    place = [int((everything == row).all(-1).nonzero()) for row in x]
    for steps in (1, 4):
        times = torch.linspace(process.domain[1], last, steps + 1, dtype=torch.float64)
        bound, law = (
            nl.likelihood.expected_discrete_bound(process, oracle, x, times).total,
            nl.likelihood.model_law(process, oracle, 3, times),
        )
        assert law[place].sum() == pytest.approx(1, abs=1e-9)  # no noise is left
        assert (bound >= -law[place].log() - 1e-9).all() and -(p * law[place].log()).sum() >= entropy - 1e-9


@pytest.mark.parametrize("mistake", ["no keep", "no fresh", "inverted"])
def test_planted_mistakes_in_a_step(mistake, monkeypatch):
    """With a wrong divergence the bound falls below what the sampler achieves, or away from the definition."""
    right = module.step_kl

    def wrong(process, logits, x, z, s, t):
        q, p = process.probability(x, z, t), logits.double().softmax(-1)
        ratio = (process.marginal(p, t).gather(-1, z[..., None])[..., 0] / q).log()
        value = right(process, logits, x, z, s, t)
        return {"no keep": value - value * (z == x), "no fresh": value * (z == x), "inverted": value - 2 * ratio}[
            mistake
        ]

    process, oracle, x, p, entropy = world("gidd 0.5", 3)
    good = (p * nl.likelihood.expected_discrete_bound(process, oracle, x, grid(process, 64)).total).sum()
    monkeypatch.setattr(exact, "step_kl", wrong)
    bad = (p * nl.likelihood.expected_discrete_bound(process, oracle, x, grid(process, 64)).total).sum()
    assert 0 < good - entropy < abs(bad - entropy) - 0.01


@pytest.mark.parametrize("name, stop", [("gidd 0.5", 4), ("gidd 0.5", 3), ("masked", 3), ("log-SNR hybrid", 3)])
def test_the_sampler_has_the_enumerated_law(name, stop):
    process, oracle, *_ = world(name, 2)
    times = grid(process, 3)[:stop]
    x = nl.AncestralSampler(process, oracle).sample(
        (20_000, 2), times=times, generator=torch.Generator().manual_seed(0)
    )
    law = nl.likelihood.model_law(process, oracle, 2, times)
    counts = torch.bincount(x[:, 0] * 3 + x[:, 1], minlength=9) / 20_000
    assert ((counts - law).abs() <= 5 * (law / 20_000).sqrt()).all()
    assert known(process, 2)[0].tokens.tolist() == [0, 1]
