"""One step of each corrector, from every noisy sequence, against a kernel summed from the definitions."""

import itertools
import math

import pytest
import torch
from by_hand import FORGETFUL, WRITTEN, World, fit_of_step

from noiselab.correctors import DFMCorrector, ForwardBackwardCorrector, GibbsCorrector, RemaskingCorrector


def stepper(corrector, t):
    def step(z, generator):
        return corrector.step(z, torch.full((len(z),), t, dtype=torch.float64), generator=generator)

    return step


def stationary(kernel):
    """The law that a kernel leaves as it is."""
    possible = kernel.sum(-1) > 0
    kernel = kernel[possible][:, possible]
    system = torch.cat([kernel.T - torch.eye(len(kernel)), torch.ones(1, len(kernel))]).double()
    law = torch.zeros(len(possible), dtype=torch.float64)
    law[possible] = torch.linalg.lstsq(system, torch.eye(len(kernel) + 1)[-1:].T.double()).solution[:, 0]
    return law


def distance(a, b):
    return 0.5 * (a - b).abs().sum().item()


def of_tokens(world, t, law):
    """A kernel of independent positions; `law(z, i)` for each, of sequences that can occur."""
    possible = world.marginal(t) > 0

    def step(z):
        return [law(z, i) for i in range(world.length)] if possible[world.noisy.index(z)] else None

    return world.kernel(step)


@pytest.mark.long_for("*neighbours*")
@pytest.mark.parametrize("t", [0.2, 0.7])
@pytest.mark.parametrize("name", WRITTEN)
def test_gibbs(name, t):
    """p(z_i | z_{-i}) from the law of noisy sequences alone, at a position drawn evenly."""
    world = World(name, 2)
    law, want = world.marginal(t), torch.zeros(len(world.noisy), len(world.noisy), dtype=torch.float64)
    for n, z in enumerate(world.noisy):
        for i in range(world.length):
            same = [k for k, y in enumerate(world.noisy) if all(y[j] == z[j] for j in range(world.length) if j != i)]
            if law[same].sum() > 0:
                want[n, same] += law[same] / law[same].sum() / world.length
    corrector = GibbsCorrector(world.process(), world.oracle())
    assert distance(law @ want, law) < 1e-12
    assert fit_of_step(world, stepper(corrector, t), want, t) > 1e-4
    slow = GibbsCorrector(world.process(), world.oracle())
    assert fit_of_step(world, stepper(slow, 0.8 * t), want, t) < 1e-6  # at another time


UNMOVED = {
    "drifting",
    "neighbours",
}  # where a mask is the most probable token everywhere: all positions are equally sure
SCORES = {
    "unlikely": lambda law, z: law[z].item(),
    "margin": lambda law, z: law[z].log().item() - max(law[v].log().item() for v in range(len(law)) if v != z),
    "unsure": lambda law, z: law.max().item(),
}


@pytest.mark.parametrize("positions", SCORES)
@pytest.mark.parametrize("heat", [0, 0.5])
@pytest.mark.parametrize("name", WRITTEN)
def test_gibbs_at_chosen_positions(name, heat, positions):
    """The position of the smallest score is drawn from its law given the others; of ties, any. Warm, by a softmax."""
    world, t = World(name, 2), 0.4
    law, want = world.marginal(t), torch.zeros(len(world.noisy), len(world.noisy), dtype=torch.float64)
    for n in (law > 0).nonzero()[:, 0].tolist():
        z = world.noisy[n]
        given = world.leave_one_out(z, t) @ world.q(t)
        score = [SCORES[positions](given[i], token) for i, token in enumerate(z)]
        share = [float(p < min(score) + 1e-9) if not heat else math.exp((min(score) - p) / heat) for p in score]
        for i, v in itertools.product(range(world.length), range(world.states)):
            want[n, world.noisy.index((*z[:i], v, *z[i + 1 :]))] += given[i, v] * share[i] / sum(share)
    corrector = GibbsCorrector(world.process(), world.oracle(), positions=positions, choice_temperature=heat)
    if (name, positions, heat) == ("neighbours", "unsure", 0):
        return  # matrix exponentials are equal up to rounding, which then decides
    assert not corrector.converges and fit_of_step(world, stepper(corrector, t), want, t) > 1e-4
    assert (distance(law @ want, law) < 1e-12) == (positions == "unsure" and name in UNMOVED)


def forward_backward(world, t, span, way_back=None):
    """The forward transition of each token, then the reverse one with the exact prediction."""
    high, start = t + span * (1 - t), t + (way_back or span) * (1 - t)
    up, possible = world.transition_between(t, high), world.marginal(t) > 0
    raised = world.kernel(lambda z: [up[token] for token in z] if possible[world.noisy.index(z)] else None)
    return raised @ world.ancestral(start, t)


@pytest.mark.long_for("*neighbours*")
@pytest.mark.parametrize("name", WRITTEN)
def test_forward_backward_goes_both_ways_and_its_bias_falls_with_the_span(name):
    world, t = World(name, 2), 0.4
    corrector = ForwardBackwardCorrector(world.process(), world.oracle(), span=0.4)
    assert fit_of_step(world, stepper(corrector, t), forward_backward(world, t, 0.4), t) > 1e-4
    law = world.marginal(t)
    bias = [distance(stationary(forward_backward(world, t, span)), law) for span in (0.4, 0.1, 0.025)]
    assert bias[0] > 2 * bias[1] > 4 * bias[2] and bias[2] < 0.005
    # The planted mistake: a way back that is shorter than the way up.
    assert distance(stationary(forward_backward(world, t, 0.1, 0.08)), law) > 1.5 * bias[1]
    single = World(name, 1)
    assert distance(single.marginal(t) @ forward_backward(single, t, 0.4), single.marginal(t)) < 1e-12


def signal(world, t):
    q = world.q(t)
    return (q[0, 0] - q[1, 0]).item()


def dfm(world, t, size):
    """An Euler step with the rates of both directions, for all tokens at once; and the least probability of staying.

    h R = size (1 - alpha), where R = -alpha' / alpha is the slope of the signal of the matrix.
    """
    alpha, rates, q = signal(world, t), world.rates(t), world.q(t)
    h = size * (1 - alpha) * alpha / ((signal(world, t - 1e-5) - signal(world, t + 1e-5)) / 2e-5)
    least = [1.0]

    def law(z, i):
        there, predicted = z[i], world.leave_one_out(z, t)[i] @ q
        jumps = torch.zeros(world.states, dtype=torch.float64)
        for y in range(world.states):
            if y != there:
                jumps[y] = h * (rates[there, y] + rates[y, there] * predicted[y] / predicted[there])
        least[0] = min(least[0], 1 - jumps.sum().item())
        jumps[there] = 1 - jumps.sum()
        return jumps

    return of_tokens(world, t, law), least[0]


# The largest sizes at which no token of these worlds jumps with a probability above 1.
SIZES = {"masked": (0.3, 1.0), "uniform": (0.3, 0.85), "gidd": (0.3, 0.6), "drifting": (0.3, 0.6)}


@pytest.mark.parametrize("size", [0, 1], ids=["small", "large"])
@pytest.mark.parametrize("name", FORGETFUL)
def test_dfm_jumps_at_both_rates(name, size):
    world, t, size = World(name, 2), 0.6, SIZES[name][size]
    want, least = dfm(world, t, size)
    assert least > 0
    corrector = DFMCorrector(world.process(), world.oracle(), size=size)
    assert fit_of_step(world, stepper(corrector, t), want, t) > 1e-4
    # A single token's law stays.
    single = World(name, 1)
    law, kernel = single.marginal(t), dfm(single, t, size)[0]
    assert distance(law @ kernel, law) < 1e-8
    corrector = DFMCorrector(single.process(), single.oracle(), size=size)
    assert fit_of_step(single, stepper(corrector, t), kernel, t, n=20_000) > 1e-4


@pytest.mark.parametrize("name", FORGETFUL)
def test_the_bias_of_dfm_falls_with_its_size(name):
    world, t = World(name, 2), 0.5
    bias = [distance(stationary(dfm(world, t, size)[0]), world.marginal(t)) for size in (0.3, 0.075)]
    assert bias[0] > 3 * bias[1] and bias[1] < 0.01


@pytest.mark.parametrize("amount", [0.3, 1.0])
@pytest.mark.parametrize("name", FORGETFUL)
def test_the_remasking_loop_draws_some_tokens_again(name, amount):
    """With probability sigma / (1 - alpha), at most 1, a token is drawn from q_t(. | x), x from its posterior."""
    world, t = World(name, 2), 0.5
    again = min(1, amount / (1 - signal(world, t)))

    def law(z, i):
        fresh = world.given(world.leave_one_out(z, t)[i], z[i], t) @ world.q(t)
        return again * fresh + (1 - again) * torch.eye(world.states, dtype=torch.float64)[z[i]]

    want = of_tokens(world, t, law)
    corrector = RemaskingCorrector(world.process(), world.oracle(), amount=amount)
    assert fit_of_step(world, stepper(corrector, t), want, t) > 1e-4
    single = World(name, 1)
    world = single
    assert distance(single.marginal(t) @ of_tokens(single, t, law), single.marginal(t)) < 1e-12
