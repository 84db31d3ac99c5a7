"""The library against numbers computed with published implementations, in float64 (tests/fixtures/reference/README.md)."""

from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

import noiselab as nl
from noiselab import objectives

REFERENCE = Path(__file__).parent / "fixtures" / "reference"
MASK, V = 10, 11


@pytest.fixture(scope="module")
def gidd():
    return load_file(REFERENCE / "gidd.safetensors")


@pytest.fixture(scope="module")
def v1_0():
    return load_file(REFERENCE / "gidd_v1_0.safetensors")


@pytest.fixture(scope="module")
def others():
    return load_file(REFERENCE / "udlm_sedd.safetensors")


def error(got, want):
    """The largest relative error; below 1e-6 of the largest entry errors count relative to that."""
    got, want = got.broadcast_to(want.shape), want.double()
    floor = 1e-6 * want.abs().max()
    return ((got - want).abs() / want.abs().clamp(min=floor)).max().item()


def value_and_gradient(process, data, z="z_t", weight=None, keep=None):
    logits = data["logits"].clone().requires_grad_()
    value = nl.nelbo(process, logits, data["x"], data[z], data["t"].double(), weight=weight)
    (value if keep is None else value[keep]).sum().backward()
    assert torch.equal(logits.detach(), data["logits"])
    return value.detach(), logits.grad


@pytest.mark.parametrize("p_uniform", [0.0, 0.1, 0.2])
def test_gidd(gidd, p_uniform):
    process, key = nl.gidd(vocab_size=V, mask_id=MASK, p_uniform=p_uniform), f"gidd.pu{p_uniform}.gamma1.0."
    x, z, time = gidd["x"], gidd["z_t"], gidd["t"].double()
    # The published p_u = 0 is e^-20: 40 % of its noisy tokens cannot happen under exact masking.
    possible = torch.ones_like(x, dtype=torch.bool) if p_uniform else (z == x) | (z == MASK)
    limit = 1e-9 if p_uniform else 2e-5
    # Its stray tokens cost 2.2e-5 nats where ours cost nothing, hence relative to the largest entry.
    scale = error if p_uniform else (lambda a, b: ((a - b).abs().max() / b.abs().max()).item())

    assert scale(process.alpha(time), gidd[key + "alpha"].flatten()) < limit
    dense = process.noise(time[:, None]).dense()[:, 0]
    assert scale(dense, gidd[key + "beta_pi"].reshape(dense.shape)) < limit
    slope = torch.func.jvp(process.alpha, (time,), (torch.ones_like(time),))[1] / process.alpha(time)
    assert scale(slope, gidd[key + "alpha_log_derivative"].flatten()) < limit
    weight = process.elbo_weight(x, z, time)
    assert scale(weight[possible], gidd[key + "elbo_weight"][possible]) < limit

    value, gradient = value_and_gradient(process, gidd, keep=possible)
    assert scale(value[possible], gidd[key + "elbo"][possible]) < limit
    assert scale(gradient[possible], gidd[key + "grad_logits.none"][possible]) < limit
    if p_uniform:
        attended = gidd["attention_mask"]
        assert error(nl.objectives.mean_over_tokens(value, attended), gidd[key + "elbo_mean"]) < limit
        x_hat = gidd["logits"].index_fill(-1, torch.tensor(MASK), -torch.inf).softmax(-1)
        assert error(process.posterior(z, x_hat, gidd["s"].double(), time), gidd[key + "posterior"]) < limit


@pytest.mark.parametrize("p_uniform", [0.1, 0.2])
@pytest.mark.parametrize("name", ["none", "clip", "dynamic"])
def test_objectives_of_release_v1_1(gidd, p_uniform, name):
    process, key = nl.gidd(vocab_size=V, mask_id=MASK, p_uniform=p_uniform), f"gidd.pu{p_uniform}.gamma1.0."
    objective = {
        "none": objectives.elbo,
        "clip": nl.objectives.Clipped(2.0),
        "dynamic": nl.objectives.DynamicV11.gidd(vocab_size=V, p_uniform=p_uniform),
    }[name]
    weight = objective(process, gidd["x"], gidd["z_t"], gidd["t"].double())
    assert error(weight, gidd[f"{key}loss_weight.{name}"]) < 1e-9
    value, gradient = value_and_gradient(process, gidd, weight=weight)
    assert error(value, gidd[f"{key}loss.{name}"]) < 1e-9
    assert error(gradient, gidd[f"{key}grad_logits.{name}"]) < 1e-9
    # The released mean runs over all positions, padding included; ours is a sum over real tokens by their number.
    assert error(value.sum() / value.numel(), gidd[f"{key}loss_tokenmean.{name}"]) < 1e-9


@pytest.mark.parametrize("p_uniform", [0.1, 0.2])
def test_gidd_as_first_released(v1_0, gidd, p_uniform):
    """Release v1.0.0's process: signal 1 - t - c, mask t, and c on each of the other tokens."""
    key = f"v1.0.pu{p_uniform}.gamma1.0."
    process = nl.processes.gidd_v1_0(vocab_size=V, mask_id=MASK, p_uniform=p_uniform)
    x, z, time = gidd["x"], gidd["z_t"], gidd["t"].double()
    assert time.max() < process.domain[1]
    assert error(process.alpha(time), v1_0[key + "alpha"].flatten()) < 1e-9
    dense = process.noise(time[:, None]).dense()[:, 0]
    assert error(dense, v1_0[key + "beta_pi"]) < 1e-9
    slope = torch.func.jvp(process.alpha, (time,), (torch.ones_like(time),))[1] / process.alpha(time)
    assert error(slope, v1_0[key + "alpha_log_derivative"].flatten()) < 1e-9
    assert error(process.elbo_weight(x, z, time), v1_0[key + "elbo_weight"]) < 1e-9
    value, _ = value_and_gradient(process, gidd)
    assert error(value, v1_0[key + "elbo"]) < 1e-9
    scale = 1 / (1 + (1 - p_uniform) / p_uniform * V / 2)
    weight = nl.objectives.Dynamic(scale)(process, x, z, time)
    assert error(weight, v1_0[key + "loss_weight.dynamic"]) < 1e-9


def test_mdlm(gidd):
    process = nl.masked(vocab_size=V, mask_id=MASK, signal=nl.schedules.log_linear(1e-4))
    value, gradient = value_and_gradient(process, gidd, z="mdlm.z_t")
    assert error(value, gidd["mdlm.elbo"]) < 1e-9
    assert error(gradient, gidd["mdlm.grad_logits"]) < 1e-9


def test_udlm_and_sedd(others):
    time, s = others["t"], others["s"]
    process = nl.uniform(vocab_size=13)
    value = nl.nelbo(process, others["uniform.logits"], others["uniform.x"], others["uniform.z_t"], time)
    assert error(value, others["uniform.udlm_elbo"]) < 1e-9
    assert error(value, others["uniform.sedd_elbo"]) < 1e-9
    posterior = process.posterior(others["uniform.z_t"], others["uniform.logits"].softmax(-1), s, time)
    assert error(posterior, others["uniform.posterior"]) < 1e-9

    process = nl.masked(vocab_size=14, mask_id=13)
    value = nl.nelbo(process, others["absorbing.logits"], others["absorbing.x"], others["absorbing.z_t"], time)
    assert error(value, others["absorbing.sedd_elbo"]) < 1e-9
