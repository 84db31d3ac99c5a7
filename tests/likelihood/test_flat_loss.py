"""The flat cross-entropy of uniform noise, a common training loss, is below the entropy; the bound is not. By enumeration."""

import pytest
import torch
from by_hand import World

import noiselab as nl


def flat(world, t):
    """Sum over positions of the cross-entropy of the exact posterior at one time: sums over all clean and noisy sequences."""
    joint, total = world.data[:, None] * world.sequences(t), 0.0
    for n, z in enumerate(world.noisy):
        law = world.posterior(z, t)
        for m, x in enumerate(world.clean):
            total -= joint[m, n] * sum(law[i, x[i]].log() for i in range(world.length))
    return float(total)


def mean_over_time(f, signal=lambda t: t):
    """The mean of f over uniform times: Gauss-Legendre of ten nodes, of a function that is smooth in t."""
    nodes, weights = nl.times.quadrature(10)
    return sum(w * f(signal(t)) for t, w in zip(nodes.tolist(), weights.tolist(), strict=True))


def bound(world, process, denoiser):
    x = torch.tensor(world.clean)
    return nl.likelihood.expected_bound(process, denoiser, x, nodes=32).mean(world.data).total.item()


@pytest.mark.parametrize("length", [2, 3])
def test_the_bound_is_the_entropy_and_the_flat_loss_is_below(length):
    world = World("uniform", length)
    entropy = -(world.data * world.data.log()).sum().item()
    posterior = nl.denoisers.Posterior(world.oracle(), world.process())
    found, loss = bound(world, world.process(), posterior), mean_over_time(lambda t: flat(world, t))
    print(f"length {length}: entropy {entropy:.6f}, bound {found:.6f}, flat cross-entropy {loss:.6f}")
    assert abs(found - entropy) < 1e-6
    assert loss < 0.9 * entropy
    for heat in (0.7, 1.5):
        assert bound(world, world.process(), nl.Temperature(posterior, heat)) > entropy + 0.01


def test_the_flat_loss_depends_on_the_schedule_and_the_bound_does_not():
    """The same noise on another clock: t squared."""
    world = World("uniform", 2)
    entropy = -(world.data * world.data.log()).sum().item()
    later = nl.uniform(vocab_size=3, signal=1 - nl.t**2)
    found = bound(world, later, nl.denoisers.Posterior(world.oracle(later), later))
    slow, plain = (mean_over_time(lambda t: flat(world, t), clock) for clock in (lambda t: t * t, lambda t: t))
    print(f"flat cross-entropy on two clocks: {plain:.4f}, {slow:.4f}; entropy {entropy:.4f}, bound {found:.6f}")
    assert slow < 0.8 * plain < 0.7 * entropy and abs(found - entropy) < 1e-6


def test_the_flat_loss_of_the_library_is_the_one_by_hand():
    """`reconstruction` is the cross-entropy of the posterior, at any time."""
    world, t = World("uniform", 2), 0.6
    process = world.process()
    x, z = torch.tensor(world.clean), torch.tensor(world.noisy)
    time = torch.full((len(z),), t, dtype=torch.float64)
    logits, joint = world.oracle()(z, time), world.data[:, None] * world.sequences(t)
    total = sum(
        (joint[m] * nl.elbo.reconstruction(process, logits, one.expand_as(z), z, time).sum(-1)).sum()
        for m, one in enumerate(x)
    )
    assert abs(total - flat(world, t)) < 1e-9
