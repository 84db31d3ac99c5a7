"""Single steps of samplers, from every noisy sequence, against kernels summed from the definitions."""

import itertools
import math

import pytest
import torch
from by_hand import FORGETFUL, WRITTEN, World, fit, fit_of_step

import noiselab as nl
from noiselab.process.three_way import Move
from noiselab.samplers import (
    DeterministicSampler,
    FirstHittingSampler,
    GillespieSampler,
    PathPlanningSampler,
    RemaskingSampler,
)
from noiselab.samplers.remasking import remasking_move

PAIRS = [(1.0, 0.5), (0.6, 0.25), (0.4, 0.0)]


def stepper(sampler, t, s):
    def step(z, generator):
        times = (torch.full((len(z),), time, dtype=torch.float64) for time in (t, s))
        return sampler.step(z, *times, generator=generator)

    return step


def kernel_of(world, t, law):
    """The kernel of a step whose positions are independent: `law(z, i, x_hat)` is that of each."""
    possible = world.marginal(t) > 0

    def step(z):
        if not possible[world.noisy.index(z)]:
            return None
        predicted = world.leave_one_out(z, t)
        return [law(z, i, predicted[i]) for i in range(world.length)]

    return world.kernel(step)


@pytest.mark.long_for("*neighbours*")
@pytest.mark.parametrize(("t", "s"), PAIRS)
@pytest.mark.parametrize("name", WRITTEN)
def test_ancestral(name, t, s):
    world = World(name, 2)
    sampler = nl.AncestralSampler(world.process(), world.oracle())
    assert fit_of_step(world, stepper(sampler, t, s), world.ancestral(t, s), t) > 1e-4


@pytest.mark.long_for("*neighbours*")
@pytest.mark.parametrize("t", [0.1, 0.6])
@pytest.mark.parametrize("name", WRITTEN)
def test_the_jump_to_clean_tokens(name, t):
    world = World(name, 2)
    sampler = nl.AncestralSampler(world.process(), world.oracle())
    want = kernel_of(world, t, lambda z, i, x_hat: world.given(x_hat, z[i], t))

    def step(z, generator):
        return sampler.clean(z, torch.full((len(z),), t, dtype=torch.float64), generator=generator)

    assert fit_of_step(world, step, want, t) > 1e-4


def signal(world, t):
    """alpha, of noise that does not depend on the clean token: what q(z | z) is above q(z | another)."""
    q = world.q(t)
    return (q[0, 0] - q[1, 0]).item()


def published_sigma(schedule, eta, alpha_s, alpha_t):
    """Wang et al. (2025), section 4.1."""
    largest = min(1.0, (1 - alpha_s) / alpha_t) if alpha_t > 0 else 1.0
    return min(eta, largest) if schedule == "cap" else eta * largest


def remdm(x_hat, z, alpha_s, alpha_t, sigma):
    """The step for masking as it is published, Wang et al. (2025), equation 4."""
    mask = torch.eye(3, dtype=torch.float64)[2]
    if z != 2:
        return (1 - sigma) * x_hat + sigma * mask
    shown = (alpha_s - (1 - sigma) * alpha_t) / (1 - alpha_t)
    return shown * x_hat + (1 - alpha_s - sigma * alpha_t) / (1 - alpha_t) * mask


def mixture(world, kappa, x_hat, z, s, t):
    """kappa q(z_s | z_t, x) + (1 - kappa) q_s(z_s | x), its mean over p(x | z_t)."""
    fresh = world.given(x_hat, z, t) @ world.q(s)
    return kappa * world.back(x_hat, z, s, t) + (1 - kappa) * fresh


@pytest.mark.parametrize(("t", "s"), PAIRS)
@pytest.mark.parametrize(("schedule", "eta"), [("cap", 0.3), ("rescale", 0.8), ("rescale", 1.0)])
@pytest.mark.parametrize("name", FORGETFUL)
def test_remasking(name, schedule, eta, t, s):
    world = World(name, 2)
    sampler = RemaskingSampler(world.process(), world.oracle(), schedule, amount=eta)
    alpha_s, alpha_t = signal(world, s), signal(world, t)
    kappa = 1 - published_sigma(schedule, eta, alpha_s, alpha_t) / (1 - alpha_s) if s > 0 else 1
    if name != "masked":  # for masks alone, kappa may be negative
        kappa = max(kappa, 0)
    want = kernel_of(world, t, lambda z, i, x_hat: mixture(world, kappa, x_hat, z[i], s, t))
    assert want.min() > -1e-12
    if name == "masked":
        sigma = published_sigma(schedule, eta, alpha_s, alpha_t)
        for z, x_hat in ((2, [0.3, 0.7, 0.0]), (1, [0.0, 1.0, 0.0])) if t < 1 else ():
            x_hat = torch.tensor(x_hat, dtype=torch.float64)
            torch.testing.assert_close(mixture(world, kappa, x_hat, z, s, t), remdm(x_hat, z, alpha_s, alpha_t, sigma))
    assert fit_of_step(world, stepper(sampler, t, s), want.clamp(min=0), t) > 1e-4
    if s > 0 and t < 1:  # the ancestral step is another
        assert fit_of_step(world, stepper(sampler, t, s), world.ancestral(t, s), t) < 1e-6


def law_of(world, move, z, x_hat, s):
    """The law of a token after a step with these masses, by what `Move` says they are."""
    noise = (world.q(s)[0] - signal(world, s) * torch.eye(3, dtype=torch.float64)[0]) / max(1 - signal(world, s), 1e-9)
    slope = move.noise_slope if move.noise_slope is not None else 0
    mass = (move.data * x_hat + (move.noise + slope * x_hat[z]) * noise).flatten()
    mass[z] += (move.stay + move.stay_slope * x_hat[z]).item()
    return mass / mass.sum()


@pytest.mark.parametrize("kappa", [1.0, 0.6, 0.0])
@pytest.mark.parametrize("name", FORGETFUL)
def test_the_masses_of_remasking_are_exact(name, kappa):
    """Of one token, to rounding: what a draw can only show to a hundredth."""
    world, x_hat = World(name, 1), torch.tensor([0.2, 0.5, 0.3], dtype=torch.float64)
    process, words = world.process(), len(world.initial)
    x_hat = torch.nn.functional.pad(x_hat[:words] / x_hat[:words].sum(), (0, 3 - words))
    for t, s in ((0.9, 0.5), (0.5, 0.45), (0.3, 0.0)):
        early, late = (torch.tensor([time], dtype=torch.float64) for time in (s, t))
        for z in range(3):
            if (x_hat @ world.q(t))[z] == 0 or (name == "masked" and z < 2):
                continue  # a word that is known to be clean has masses of its own, above
            k = torch.tensor([[kappa]], dtype=torch.float64)
            move = remasking_move(process, torch.tensor([[z]]), early, late, k)
            torch.testing.assert_close(
                law_of(world, move, z, x_hat, s), mixture(world, kappa, x_hat, z, s, t), rtol=1e-9, atol=1e-12
            )


@pytest.mark.parametrize("name", ["masked", "gidd"])
def test_remasking_by_confidence(name):
    """sigma is shared among words by the softmax of minus the probability of the word that is there."""
    world, (t, s), eta = World(name, 2), (0.6, 0.4), 0.9
    sampler = RemaskingSampler(world.process(), world.oracle(), "confidence", amount=eta)
    alpha_s, alpha_t = signal(world, s), signal(world, t)

    def law(z, i, x_hat):
        believed = world.leave_one_out(z, t)
        weight = [math.exp(-believed[j, z[j]]) if z[j] < 2 else 0.0 for j in range(len(z))]
        share = weight[i] / sum(weight) if z[i] < 2 else 0.0
        kappa = 1 - published_sigma("rescale", eta, alpha_s, alpha_t) * share / (1 - alpha_s)
        return mixture(world, kappa if name == "masked" else max(kappa, 0), x_hat, z[i], s, t)

    want = kernel_of(world, t, law)
    assert fit_of_step(world, stepper(sampler, t, s), want, t) > 1e-4
    even = kernel_of(world, t, lambda z, i, x_hat: mixture(world, 1 - eta / 2, x_hat, z[i], s, t))
    assert fit_of_step(world, stepper(sampler, t, s), even, t) < 1e-6


@pytest.mark.parametrize(("t", "s"), [(0.9, 0.5), (0.6, 0.25), (0.4, 0.0)])
@pytest.mark.parametrize("share", [1.0, 0.4])
@pytest.mark.parametrize("name", ["masked", "uniform"])
def test_ddim(name, share, t, s, monkeypatch):
    """Song et al. (2021), appendix A: sigma 1[z] + (a_s - sigma a_t) 1[x] + (b_s - sigma b_t), its mean over p(x | z)."""
    world = World(name, 2)
    sampler = DeterministicSampler(world.process(), world.oracle(), share=share)
    a_s, a_t = 1 - s, 1 - t
    sigma = share * min((1 - a_s) / (1 - a_t), a_s / a_t)

    def law(z, x_hat):
        stays = torch.eye(3, dtype=torch.float64)[z]
        noise = (
            torch.eye(3, dtype=torch.float64)[2] if name == "masked" else torch.full((3,), 1 / 3, dtype=torch.float64)
        )
        clean = world.given(x_hat, z, t)
        return (sigma * stays + (a_s - sigma * a_t) * clean + (1 - a_s - sigma * (1 - a_t)) * noise).clamp(min=0)

    moves, plan = [], Move.plan
    monkeypatch.setattr(Move, "plan", lambda move, *args: moves.append(move) or plan(move, *args))
    x_hat = torch.tensor([0.2, 0.5, 0.3 * (name == "uniform")], dtype=torch.float64)
    for z in range(3) if name == "uniform" else (2,):
        sampler.step(torch.tensor([[z]]), *(torch.tensor([time], dtype=torch.float64) for time in (t, s)))
        found, sure = law_of(world, moves[-1], z, x_hat / x_hat.sum(), s), law(z, x_hat / x_hat.sum())
        torch.testing.assert_close(found, sure, rtol=1e-9, atol=1e-12)
    want = kernel_of(world, t, lambda z, i, x_hat: law(z[i], x_hat))
    assert fit_of_step(world, stepper(sampler, t, s), want, t) > 1e-4
    if name == "masked" and share == 1:
        torch.testing.assert_close(want, world.ancestral(t, s))
    elif s > 0:
        assert fit_of_step(world, stepper(sampler, t, s), world.ancestral(t, s), t) < 1e-6


def planned(world, eta, t, s):
    """One step of path planning as its page defines it: all candidates of a sequence are tried, ranked and counted."""
    kernel = torch.zeros(len(world.noisy), len(world.noisy), dtype=torch.float64)
    words, noise = len(world.initial), world.q(s)
    alpha = signal(world, s)
    fresh = (noise[0] - alpha * torch.eye(world.states, dtype=torch.float64)[0]) / (1 - alpha)
    left = math.floor(world.length * (1 - alpha) + 0.5)
    for n in (world.marginal(t) > 0).nonzero()[:, 0].tolist():
        z = world.noisy[n]
        x_hat = world.leave_one_out(z, t)
        law = [world.given(x_hat[i], z[i], t) for i in range(world.length)]
        for candidate in itertools.product(range(words), repeat=world.length):
            chance = math.prod(law[i][v].item() for i, v in enumerate(candidate))
            score = [
                (eta if v == z[i] else 1) * math.log(x_hat[i][v]) if chance > 0 else 0 for i, v in enumerate(candidate)
            ]
            worst = sorted(range(world.length), key=lambda i: (score[i], -i))[:left]
            laws = [fresh if i in worst else torch.eye(world.states).double()[v] for i, v in enumerate(candidate)]
            kernel[n] += chance * world.product(laws)
    return kernel


@pytest.mark.parametrize("eta", [0.5, 1, 3])
@pytest.mark.parametrize("name", FORGETFUL)
def test_path_planning(name, eta):
    world, t, s = World(name, 3), 0.7, 0.5
    sampler = PathPlanningSampler(world.process(), world.oracle(), stochasticity=eta)
    want = planned(world, eta, t, s)
    assert want[world.marginal(t) > 0].sum(-1).allclose(torch.ones(1).double())
    assert fit_of_step(world, stepper(sampler, t, s), want, t) > 1e-4
    assert fit_of_step(world, stepper(sampler, t, s), planned(world, eta + 2, t, s), t) < 1e-6


def exact(world, t, s):
    """p(z_s | z_t) of the data: sum over clean sequences of p(x | z_t) prod_i q(z_s,i | z_t,i, x_i)."""
    kernel = torch.zeros(len(world.noisy), len(world.noisy), dtype=torch.float64)
    one_hot, likely = torch.eye(world.states, dtype=torch.float64), world.data[:, None] * world.sequences(t)
    for n in (world.marginal(t) > 0).nonzero()[:, 0].tolist():
        for x, p in zip(world.clean, (likely[:, n] / likely[:, n].sum()).tolist(), strict=True):
            if p > 0:
                kernel[n] += p * world.product(
                    [world.back(one_hot[v], token, s, t) for v, token in zip(x, world.noisy[n], strict=True)]
                )
    return kernel


@pytest.mark.parametrize(("t", "s"), [(0.9, 0.3), (0.6, 0.0)])
@pytest.mark.parametrize(
    ("make", "name"), [(FirstHittingSampler, "masked"), *((GillespieSampler, name) for name in FORGETFUL)]
)
def test_event_by_event(make, name, t, s):
    """In one step of any length: the law of the data, not a product over positions."""
    world = World(name, 2)
    sampler, want = make(world.process(), world.oracle()), exact(world, t, s)
    assert fit_of_step(world, stepper(sampler, t, s), want, t, n=200) > 1e-4
    assert fit_of_step(world, stepper(nl.AncestralSampler(world.process(), world.oracle()), t, s), want, t) < 1e-6


def test_a_kernel_of_another_law_would_not_fit():
    """What all these tests lean on sees a hundredth that is moved from one token to another."""
    counts = torch.tensor([5000, 3000, 2000])
    assert fit(counts, torch.tensor([0.5, 0.3, 0.2]).double()) > 0.99
    assert fit(100 * counts, torch.tensor([0.49, 0.31, 0.2]).double()) < 1e-9
