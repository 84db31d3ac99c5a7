"""The bound of the exact leave-one-out denoiser is the entropy of the data, for every process and any clocks."""

import math

import pytest
import torch
from worlds import INITIAL, PROCESSES, TRANSITION, Stranger, V

import noiselab as nl
from noiselab.process import as_token_times

LENGTH = 6
NAMES = ["masked", "gidd", "uniform", "mask and unigram", "stranger"]


def estimate(process, denoiser, powers=None, sequences=12_000, replicates=20, sum_out_z=True, seed=0):
    """Mean and standard error of the bound, nats per sequence.

    Times are stratified, with t = sin^2(pi tau / 2) and its Jacobian: square roots at the ends would give heavy tails.
    The bound is tight for every x, so -log p(x) is a control variate. Leave-one-out logits do not depend on the
    token's own z, which is summed out. `powers`: every token on its own clock t_i = t^power_i, its term times dt_i/dt.
    """
    generator = torch.Generator().manual_seed(seed)
    oracle = nl.MarkovOracle(INITIAL, TRANSITION, process)
    n, results = sequences // replicates, []
    for _ in range(replicates):
        x = oracle.sample(n, LENGTH, generator=generator)
        tau = nl.stratified_times(n, generator=generator)
        jacobian, time = math.pi / 2 * torch.sin(math.pi * tau), torch.sin(math.pi * tau / 2) ** 2
        rate = torch.ones(n, LENGTH, dtype=torch.float64)
        if powers is not None:
            time, rate = time[:, None] ** powers, powers * time[:, None] ** (powers - 1)
        z = process.corrupt(x, time, generator=generator)
        logits, lifted, value = denoiser(z, time), as_token_times(time, z), torch.zeros(n, LENGTH, dtype=torch.float64)
        with torch.no_grad():
            for token in range(V) if sum_out_z else ():
                zs = torch.full_like(z, token)
                mass = process.alpha(lifted) * (x == token) + process.noise(lifted).at(zs)
                value += torch.where(mass > 0, mass * nl.nelbo(process, logits, x, zs, time), 0)
            if not sum_out_z:
                value = nl.nelbo(process, logits, x, z, time)
        results.append((jacobian * (value * rate).sum(-1) + oracle.log_prob(x)).mean() + oracle.entropy(LENGTH))
    results = torch.stack(results)
    return results.mean().item(), results.std().item() / replicates**0.5


@pytest.mark.long_for("uniform-own clocks", "mask and unigram-*")
@pytest.mark.parametrize("clocks", ["one clock", "own clocks"])
@pytest.mark.parametrize("name", NAMES)
def test_leave_one_out_gives_the_entropy(name, clocks, record_property):
    process = PROCESSES[name]()
    oracle = nl.MarkovOracle(INITIAL, TRANSITION, process)
    powers = torch.tensor([1.0, 0.5, 2.0, 1.5, 1.0, 3.0], dtype=torch.float64) if clocks == "own clocks" else None
    mean, error = estimate(process, oracle, powers)
    entropy = oracle.entropy(LENGTH)
    print(f"{name}, {clocks}: bound {mean:.4f} +- {error:.4f}, entropy {entropy:.4f}")
    assert abs(mean - entropy) < 4 * error and error < 0.01 * entropy


@pytest.mark.parametrize("name", NAMES)
def test_the_posterior_does_not(name):
    """Fed to the bound, the ordinary posterior is far off, except under masking, where the two agree."""
    process = PROCESSES[name]()
    oracle = nl.MarkovOracle(INITIAL, TRANSITION, process)
    mean, error = estimate(process, nl.denoisers.Posterior(oracle, process), sum_out_z=False)
    assert (abs(mean - oracle.entropy(LENGTH)) > 5 * error) == (name != "masked")


class SlowRate(Stranger):
    def rate_into(self, z, t):
        return 0.97 * super().rate_into(z, t)


class EarlyCorruption(Stranger):
    def corrupt(self, x, t, *, generator=None):
        return super().corrupt(x, 0.9 * t, generator=generator)


class ForgottenSignal(Stranger):
    """A rate without its second term, (alpha'/alpha) b."""

    def rate_into(self, z, t):
        t = as_token_times(t, z)
        return torch.func.jvp(lambda t: self.noise(t).at(z), (t,), (torch.ones_like(t),))[1]


@pytest.mark.parametrize("wrong", [SlowRate, EarlyCorruption, ForgottenSignal])
def test_planted_mistakes_break_the_identity(wrong):
    process = wrong()
    oracle = nl.MarkovOracle(INITIAL, TRANSITION, process)
    mean, error = estimate(process, oracle)
    assert abs(mean - oracle.entropy(LENGTH)) > 4 * error
