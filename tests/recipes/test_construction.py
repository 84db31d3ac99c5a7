"""The theorem: a transformer with these weights takes steps of gradient descent in its forward pass."""

from itertools import pairwise

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from alignment import InContextPlackettLuce, negative_squared_error, plackett_luce

RATE = 0.05


def world(seed, answers, dim=5, batch=4, length=2.0):
    """Weights, questions of one length, answers, and rewards that lie 1 / answers apart."""
    generator = torch.Generator().manual_seed(seed)
    weight = torch.randn(batch, dim, dim, generator=generator, dtype=torch.float64)
    x = torch.randn(batch, dim, generator=generator, dtype=torch.float64)
    y = torch.randn(batch, answers, dim, generator=generator, dtype=torch.float64)
    ranks = torch.stack([torch.randperm(answers, generator=generator) for _ in range(batch)])
    return weight, length * torch.nn.functional.normalize(x, dim=-1), y, (ranks + 0.5) / answers


def descent(weight, x, y, rewards, steps):
    """By autograd."""
    for _ in range(steps):
        weight = weight.detach().requires_grad_()
        scores = negative_squared_error((weight @ x[..., None])[..., 0], y)
        (gradient,) = torch.autograd.grad(plackett_luce(scores, rewards).sum(), weight)
        weight = weight - RATE * gradient
    return (weight.detach() @ x[..., None])[..., 0]


@pytest.mark.parametrize("steps", [1, 3])
@pytest.mark.parametrize("answers", [2, 3, 8, 20])
def test_a_forward_pass_is_gradient_descent(answers, steps):
    weight, x, y, rewards = world(0, answers)
    expected = descent(weight, x, y, rewards, steps)
    errors = []
    for sharpness in (50.0 * answers, 500.0 * answers):
        network = InContextPlackettLuce(5, answers, step_size=4 * RATE, steps=steps, sharpness=sharpness)
        assert len(network.blocks) == steps * (answers - 1)
        errors.append((network((weight @ x[..., None])[..., 0], y, rewards) - expected).abs().max().item())
    assert max(errors) < 1e-4 and errors[1] < 1e-9
    assert (expected - (weight @ x[..., None])[..., 0]).abs().max() > 0.1  # there is something to be done


def test_the_error_vanishes_as_the_temperature_sharpens():
    weight, x, y, rewards = world(1, 6)
    expected = descent(weight, x, y, rewards, 1)
    errors = []
    for sharpness in (20.0, 40.0, 80.0, 160.0, 320.0):
        network = InContextPlackettLuce(5, 6, step_size=4 * RATE, sharpness=sharpness)
        errors.append((network((weight @ x[..., None])[..., 0], y, rewards) - expected).abs().max().item())
    # At least like exp(-sharpness * gap): the gap of rewards is 1/6.
    assert all(later < earlier * 0.1 + 1e-12 for earlier, later in pairwise(errors))
    assert errors[-1] < 1e-12


@given(st.integers(0, 2**31))
def test_the_order_of_the_answers_does_not_matter(seed):
    weight, x, y, rewards = world(seed, 5, batch=2)
    order = torch.randperm(5, generator=torch.Generator().manual_seed(seed))
    network = InContextPlackettLuce(5, 5, step_size=4 * RATE)
    before = (weight @ x[..., None])[..., 0]
    assert torch.allclose(network(before, y, rewards), network(before, y[:, order], rewards[:, order]), atol=1e-10)


def test_each_head_and_the_feed_forward_layer_are_needed():
    weight, x, y, rewards = world(2, 6)
    expected = descent(weight, x, y, rewards, 1)
    before = (weight @ x[..., None])[..., 0]

    def error(break_):
        network = InContextPlackettLuce(5, 6, step_size=4 * RATE, sharpness=500.0)
        with torch.no_grad():
            for block in network.blocks:
                break_(block)
        return (network(before, y, rewards) - expected).abs().max().item()

    assert error(lambda block: None) < 1e-9
    for head in range(3):
        assert error(lambda block, head=head: block.values[head].zero_()) > 0.05
    assert error(lambda block: block.out.zero_()) > 0.05
    assert error(lambda block: block.queries[1].zero_()) > 0.01  # a mean, not weighed by the model


@pytest.mark.parametrize(
    "wrong", [{"dim": 0}, {"answers": 1}, {"steps": 0}, {"sharpness": 0.0}, {"sharpness": float("nan")}]
)
def test_arguments_out_of_range(wrong):
    given_ = {"dim": 3, "answers": 4, "step_size": 0.1, **wrong}
    with pytest.raises(ValueError, match="dim and steps must be at least 1"):
        InContextPlackettLuce(**given_)
