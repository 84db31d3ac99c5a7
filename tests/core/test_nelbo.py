"""The bound at the edges: numerics, end terms, learned processes, compilation."""

import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from torch.testing import assert_close
from worlds import DATA, PROCESSES, Learned, V

import noiselab as nl


def batch(process, t, length=40, seed=0):
    generator = torch.Generator().manual_seed(seed)
    data = process.data_tokens().nonzero()[:, 0]
    x = data[torch.randint(0, 4, (len(t), length), generator=generator)]
    z = process.corrupt(x, t, generator=generator)
    logits = 3 * torch.randn(len(t), length, V, generator=generator, dtype=torch.float64)
    return logits, x, z


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("name", ["masked", "gidd", "uniform", "stranger"])
def test_low_precision_logits_up_to_the_ends_of_time(name, dtype):
    process = PROCESSES[name]()
    t = torch.tensor(
        [0.0, 1e-8, 1e-6, 1e-3, 0.1, 0.5, 0.9, 0.99, 1 - 1e-4, 1 - 1e-6, 1 - 1e-8, 1.0], dtype=torch.float64
    )
    logits, x, z = batch(process, t)
    logits = logits.to(dtype)
    exact = nl.nelbo(process, logits.double(), x, z, t)
    low = logits.clone().requires_grad_()
    value = nl.nelbo(process, low, x, z, t)
    assert value.dtype == torch.float32
    value.sum().backward()
    assert low.grad.isfinite().all() and low.grad.dtype == dtype
    assert_close(value.double(), exact, rtol=1e-4, atol=1e-6 * exact.abs().max().item())


def test_confident_wrong_and_confident_right_predictions_stay_finite():
    for name in PROCESSES:
        process = PROCESSES[name]()
        t = torch.full((4,), 0.3, dtype=torch.float64)
        _, x, z = batch(process, t)
        for target in (x, x.roll(1, -1)):
            logits = (1e4 * torch.nn.functional.one_hot(target, V)).float().requires_grad_()
            value = nl.nelbo(process, logits, x, z, t)
            value.sum().backward()
            assert value.isfinite().all() and logits.grad.isfinite().all(), name


def test_logits_of_impossible_tokens_do_not_matter():
    process, t = PROCESSES["gidd"](), torch.tensor([0.4, 0.6])
    logits, x, z = batch(process, t)
    high = logits.index_fill(-1, torch.tensor(V - 1), 1e9)
    assert_close(nl.nelbo(process, high, x, z, t), nl.nelbo(process, logits, x, z, t))


def test_zero_uniform_noise_is_exactly_masking():
    t = torch.tensor([0.3, 0.7])
    masked, gidd = nl.masked(vocab_size=V, mask_id=4), nl.gidd(vocab_size=V, mask_id=4, p_uniform=0)
    logits, x, z = batch(masked, t)
    assert torch.equal(nl.nelbo(masked, logits, x, z, t), nl.nelbo(gidd, logits, x, z, t))
    assert ((z == x) | (z == 4)).all() and gidd.noise(t[:, None].double()).at(x).count_nonzero() == 0


def test_masking_is_the_weighted_cross_entropy():
    process, t = nl.masked(vocab_size=V, mask_id=4), torch.tensor([0.3, 0.7], dtype=torch.float64)
    logits, x, z = batch(process, t)
    logits = logits.index_fill(-1, torch.tensor(4), -torch.inf)
    entropy = -logits.log_softmax(-1).gather(-1, x[..., None])[..., 0]
    assert_close(nl.nelbo(process, logits, x, z, t), torch.where(z == 4, entropy / t[:, None], 0))


def test_arguments_are_not_edited_and_one_backward_is_enough():
    process, t = PROCESSES["gidd"](), torch.tensor([0.3, 0.7])
    logits, x, z = batch(process, t)
    leaf = logits.clone().requires_grad_()
    loss = nl.nelbo(process, leaf, x, z, t).sum()
    version = leaf._version
    loss.backward(retain_graph=True)
    assert leaf._version == version and torch.equal(leaf.detach(), logits)
    with pytest.raises(RuntimeError, match="one backward pass"):
        loss.backward()


def test_learned_processes_get_gradients():
    power = Learned()
    process = nl.Interpolation(1 - nl.t, {nl.Absorbing(V - 1, V): power, nl.Uniform(DATA): 0.3 * nl.t})
    t = torch.tensor([0.3, 0.7])
    logits, x, z = batch(process, t)
    nl.nelbo(process, logits, x, z, t).mean().backward()
    step = 1e-5
    values = []
    for shift in (step, -step):
        moved = Learned()
        moved.power.data += shift
        other = nl.Interpolation(1 - nl.t, {nl.Absorbing(V - 1, V): moved, nl.Uniform(DATA): 0.3 * nl.t})
        values.append(nl.nelbo(other, logits, x, z, t).mean().item())
    assert power.power.grad.item() == pytest.approx((values[0] - values[1]) / (2 * step), rel=1e-6)
    with pytest.raises(ValueError, match="learned parameters"):
        nl.elbo.nelbo_fused(process, torch.zeros(2, 40, 3), torch.zeros(V, 3), None, x, z, t, torch.ones(2, 40))


@pytest.mark.parametrize("name", PROCESSES)
def test_reconstruction_is_minus_the_log_posterior_at_zero(name):
    process, t = PROCESSES[name](), torch.tensor([0.05, 0.4], dtype=torch.float64)
    logits, x, z = batch(process, t)
    x_hat = (logits if process.support is None else logits.masked_fill(~process.support, -torch.inf)).softmax(-1)
    joint = process.likelihood(z, t) * x_hat
    posterior = joint / joint.sum(-1, keepdim=True)
    want = -posterior.gather(-1, x[..., None])[..., 0].log()
    assert_close(nl.elbo.reconstruction(process, logits, x, z, t), want, rtol=1e-6, atol=1e-9)
    if process.alpha(torch.zeros(1, dtype=torch.float64)) == 1:  # some published schedules begin with a little noise
        assert_close(process.posterior(z, x_hat, torch.zeros(2), t), posterior, rtol=1e-6, atol=1e-9)


@pytest.mark.parametrize("name", PROCESSES)
def test_prior_kl_is_the_divergence_from_pure_noise(name):
    process = PROCESSES[name]()
    x = process.data_tokens().nonzero()[:4, 0][None]
    for time in (0.7, 1.0):
        t = torch.tensor([time], dtype=torch.float64)
        every = process.data_tokens().nonzero()[:, 0][None]
        q, prior = process.marginal(x, t), process.marginal(every, t).mean(1, keepdim=True).expand(-1, x.shape[1], -1)
        want = (torch.special.xlogy(q, q) - torch.special.xlogy(q, prior)).sum(-1)
        got = nl.elbo.prior_kl(process, x, t)
        assert_close(got, want, rtol=1e-7, atol=1e-9)
        assert got.isfinite().all()
        assert (got.abs().max() < 1e-9) == (time == 1 and process.alpha(t).item() < 1e-9)


@pytest.mark.parametrize("name", ["gidd", "mask and unigram", "stranger"])
@pytest.mark.parametrize("per_token", [False, True])
def test_the_size_of_the_work_buffers_does_not_matter(name, per_token):
    process = PROCESSES[name]()
    t = torch.linspace(0.1, 0.9, 7 * 40, dtype=torch.float64).view(7, 40)
    t = t if per_token else t[:, 0]
    logits, x, z = batch(process, t)
    whole = nl.nelbo(process, logits, x, z, t)
    for chunk_bytes in (1, 8 * V * 3, 8 * V * 50, 8 * V * 1000):
        assert_close(nl.nelbo(process, logits, x, z, t, chunk_bytes=chunk_bytes), whole, rtol=1e-13, atol=1e-13)


def test_the_slope_in_a_weight_of_0_is_the_integrand():
    """The bound is linear in the weight, and its definition is differentiable in all inputs."""
    process, t = PROCESSES["gidd"](), torch.tensor([0.3, 0.6], dtype=torch.float64)
    logits, x, z = batch(process, t)
    weight = torch.zeros(x.shape, dtype=torch.float64, requires_grad=True)
    nl.elbo.nelbo_dense(process, logits, x, z, t, weight=weight).sum().backward()
    assert_close(weight.grad, nl.nelbo(process, logits, x, z, t, weight=torch.ones_like(weight).detach()))


@pytest.mark.parametrize("trial", range(10))
def test_parts_made_on_the_fly_are_not_taken_for_each_other(trial):
    """A freed part's id is soon that of another: parts merged by it were lost, and the bound was another."""
    generator = torch.Generator().manual_seed(trial)

    def frequencies():
        law = torch.rand(V, generator=generator, dtype=torch.float64) ** 3
        return nl.Unigram(law / law.sum())

    blends = [nl.Blend({frequencies(): 1 - 0.5 * nl.t, frequencies(): nl.t, frequencies(): 1}) for _ in range(3)]
    inner = nl.Interpolation(1 - nl.t, {blend: nl.t**k for k, blend in enumerate(blends, 1)})
    process = nl.process.ChangeOfTime(inner, nl.t**2)
    t = torch.tensor([0.2, 0.5, 0.7, 0.9], dtype=torch.float64)
    logits, x, z = batch(process, t, seed=trial)
    assert len(nl.elbo.tokens.noise_on_data(process, z, t).parts) == 9
    assert_close(nl.nelbo(process, logits, x, z, t), nl.elbo.nelbo_dense(process, logits, x, z, t))


@pytest.mark.parametrize("name", PROCESSES)
def test_a_step_of_no_length_costs_nothing(name):
    process = PROCESSES[name]()
    t = torch.tensor([process.domain[0], 0.3, process.domain[1]], dtype=torch.float64)
    logits, x, z = batch(process, t)
    for step in (nl.elbo.step_kl, nl.elbo.step_kl_dense):
        leaf = logits.clone().requires_grad_()
        value = step(process, leaf, x, z, t, t)
        value.sum().backward()
        assert (value == 0).all() and (leaf.grad == 0).all()
        # Beside it, a step of some length is what it is alone.
        s = torch.where(t == 0.3, 0.2, t)
        alone = step(process, logits[1:2], x[1:2], z[1:2], s[1:2], t[1:2])
        assert_close(step(process, logits, x, z, s, t)[1:2], alone)
        assert alone.max() > 0


COMPILED = """
import torch, noiselab as nl
from torch.testing import assert_close
from worlds import PROCESSES
from core.test_nelbo import batch

words, data = nl.Unigram(torch.tensor([0.4, 0.3, 0.2, 0.1, 0.0])), torch.arange(5) < 4
blend = nl.Interpolation(1 - nl.t, {nl.Blend({words: 1 - nl.t, nl.Uniform(data): nl.t}): nl.t}, support=data)
for process in (*(PROCESSES[name]() for name in ("masked", "gidd", "stranger")), blend):
    t = torch.tensor([0.3, 0.7])
    logits, x, z = batch(process, t)
    compiled = torch.compile(lambda l, x, z, t: nl.nelbo(process, l, x, z, t), backend="eager", fullgraph=True)
    leaves = [logits.clone().requires_grad_() for _ in range(2)]
    values = [nl.nelbo(process, leaves[0], x, z, t), compiled(leaves[1], x, z, t)]
    for value in values:
        value.sum().backward()
    assert_close(values[1], values[0])
    assert_close(leaves[1].grad, leaves[0].grad)
"""


def test_the_bound_compiles_without_a_graph_break():
    """As users compile it, without the shape checks: hence in a process of its own."""
    environment = {**os.environ, "PYTHONPATH": str(Path(__file__).parents[1])}
    done = subprocess.run([sys.executable, "-c", COMPILED], capture_output=True, text=True, env=environment)
    assert done.returncode == 0, done.stderr[-3000:]
