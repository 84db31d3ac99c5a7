"""Samples of a known chain are measured exactly, and exact samples have nothing wrong."""

import math

import pytest
import torch

import noiselab as nl
from noiselab.bench.runner import bench
from noiselab.bench.world import World, chi_square, conditional_entropy, frequencies


def generator(seed=0):
    return torch.Generator().manual_seed(seed)


@pytest.mark.parametrize("make", [World.sharp, World.soft, World.tiny])
def test_exact_samples_have_nothing_wrong(make):
    world = make()
    found = world.measure(world.sample(4000, generator=generator(1)))
    assert abs(found.gap) < 4 * found.error and abs(found.entropy) < 0.02 and found.residue == 0
    assert found.pairs < 2 * found.pairs_floor and found.triples < 2 * found.triples_floor
    expected = (world.ngrams(2).view(world.states, -1) * world.forbidden).sum().item()
    assert found.forbidden == pytest.approx(expected, abs=5e-4)
    assert math.isnan(found.pvalue) or found.pvalue > 1e-3
    assert (expected > 0) == (world.name == "sharp") and world.forbidden.any() == (world.name == "sharp")


@pytest.mark.parametrize("n", [1, 2, 3, 4])
def test_the_law_of_ngrams_is_that_of_all_sequences(n):
    world = World.tiny()
    x, law = nl.likelihood.every_sequence(3, 4), world.law()
    assert law.sum().item() == pytest.approx(1)
    want = sum(p * frequencies(s[None], n, 3) for s, p in zip(x, law, strict=True))
    assert torch.allclose(world.ngrams(n), want)


def test_measures_by_hand():
    transition = torch.tensor([[0.9, 0.1], [0.5, 0.5]], dtype=torch.float64)
    world = World(transition, 3, rare=0.1)
    found = world.measure(torch.tensor([[0, 0, 1], [1, 1, 0]]))
    nats = [-math.log(0.5 * 0.9 * 0.1), -math.log(0.5 * 0.5 * 0.5)]
    assert found.gap == pytest.approx(sum(nats) / 6 - world.entropy)
    assert found.error == pytest.approx(abs(nats[0] - nats[1]) / 3 / 2)  # of two values
    assert found.forbidden == pytest.approx(1 / 4) and found.residue == 0
    # Pairs 00, 01, 11, 10 once each; the first two tokens are 1/2 and 0.7 zeros, 0.6 on average.
    pairs = torch.tensor([0.6 * 0.9, 0.6 * 0.1, 0.4 * 0.5, 0.4 * 0.5])
    assert found.pairs == pytest.approx((pairs - 0.25).abs().sum().item() / 2)
    assert found.entropy == pytest.approx(math.log(2) - conditional_entropy(pairs.double()))
    assert world.entropy == pytest.approx(world.chain.entropy(3) / 3)


def test_masks_that_are_left_are_seen():
    world = World.sharp()
    x = world.sample(200, generator=generator())
    x[:, 3] = world.states
    found = world.measure(x)
    assert found.residue == pytest.approx(1 / 16) and found.gap == math.inf
    assert found.forbidden == pytest.approx(2 / 15, abs=0.01)
    assert found.pairs > 0.12 and math.isnan(World.tiny().measure(torch.full((9, 4), 3)).pvalue)


def test_samples_that_are_too_likely_are_seen():
    """The planted mistake: a low temperature makes the likelihood better and everything else worse."""
    world = World.sharp()
    process = world.processes()["gidd"]
    cold = nl.Temperature(world.oracle(process), 0.5)
    x = nl.AncestralSampler(process, cold).sample((500, world.length), steps=16, generator=generator())
    found = world.measure(x)
    assert found.gap < -10 * found.error and found.entropy < -0.1 and found.pairs > 3 * found.pairs_floor


def test_a_chi_square_by_hand():
    x = torch.tensor([[0]] * 60 + [[1]] * 40)
    assert chi_square(x, torch.tensor([0.5, 0.5])) == pytest.approx(math.erfc(math.sqrt(4 / 2)))  # 4, one freedom
    assert chi_square(x, torch.tensor([0.6, 0.4])) == pytest.approx(1)
    assert chi_square(x, torch.tensor([1.0, 0.0])) == 0
    # Cells expected 3 and 1 times are pooled to one of 4, and that with the next, 6: two cells, 10 and 90.
    y = torch.tensor([[0]] * 85 + [[1]] * 9 + [[2]] * 5 + [[3]])
    want = math.erfc(math.sqrt((5**2 / 90 + 5**2 / 10) / 2))
    assert chi_square(y, torch.tensor([0.90, 0.06, 0.03, 0.01])) == pytest.approx(want)
    assert chi_square(x[:3], torch.tensor([0.5, 0.5])) == 1  # nothing is left to compare
    with pytest.raises(ValueError, match="tokens must lie in"):
        chi_square(torch.tensor([[2]]), torch.tensor([0.5, 0.5]))


def test_p_values_of_exact_samples_are_uniform_and_those_of_a_bad_sampler_are_none():
    world = World.tiny()
    sets, law = world.sample(150 * 800, generator=generator()).split(800), world.law()
    p = torch.tensor([chi_square(x, law) for x in sets])
    assert abs(p.mean().item() - 0.5) < 0.08 and (p < 0.1).double().mean().item() < 0.2
    process = world.processes()["masked"]
    sampler = nl.AncestralSampler(process, world.oracle(process))
    few, many = (sampler.sample((4000, 4), steps=steps, generator=generator()) for steps in (1, 256))
    assert world.measure(few).pvalue < 1e-6 and world.measure(many).pvalue > 1e-3


def test_what_is_no_world_is_refused():
    with pytest.raises(ValueError, match="transitions must be positive for the exact denoiser"):
        bench({"a": nl.AncestralSampler}, World(torch.eye(2), 4), nl.masked(vocab_size=3, mask_id=2))
    with pytest.raises(ValueError, match="length 4"):
        World.tiny().measure(torch.zeros(2, 3, dtype=torch.long))
    with pytest.raises(ValueError, match="n must lie in"):
        World.tiny().ngrams(5)
    assert "8 states" in repr(World.sharp())
