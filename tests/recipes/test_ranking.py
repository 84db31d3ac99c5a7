"""Losses of rankings: against the product over ranks, enumeration, and autograd."""

import itertools
import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from alignment import (
    bradley_terry,
    cosine,
    negative_squared_error,
    plackett_luce,
    plackett_luce_gradient,
    plackett_luce_pull,
)


def rows(seed, batch=3, answers=5):
    generator = torch.Generator().manual_seed(seed)
    scores = 3 * torch.randn(batch, answers, generator=generator, dtype=torch.float64)
    return scores, torch.rand(batch, answers, generator=generator, dtype=torch.float64)


def loop(scores, rewards):
    """The definition, rank by rank."""
    total = 0.0
    left = sorted(range(len(scores)), key=lambda k: -rewards[k])
    while len(left) > 1:
        total += math.log(sum(math.exp(scores[k]) for k in left)) - scores[left[0]]
        left = left[1:]
    return total


@given(st.integers(0, 2**31), st.integers(1, 7))
def test_the_loss_is_the_sum_over_ranks(seed, answers):
    scores, rewards = rows(seed, answers=answers)
    expected = [loop(s, r) for s, r in zip(scores.tolist(), rewards.tolist(), strict=True)]
    assert plackett_luce(scores, rewards).tolist() == pytest.approx(expected, abs=1e-10)


@given(st.integers(0, 2**31))
def test_the_rankings_of_a_row_are_a_law(seed):
    scores, _ = rows(seed, batch=1, answers=4)
    rankings = torch.tensor(list(itertools.permutations(range(4))), dtype=torch.float64)
    total = plackett_luce(scores.expand(len(rankings), -1), rankings).neg().exp().sum()
    assert total.item() == pytest.approx(1, abs=1e-12)


@given(st.integers(0, 2**31))
def test_two_answers_are_bradley_and_terrys(seed):
    scores, rewards = rows(seed, answers=2)
    best = rewards.argmax(-1, keepdim=True)
    better, worse = scores.gather(-1, best)[:, 0], scores.gather(-1, 1 - best)[:, 0]
    assert torch.allclose(plackett_luce(scores, rewards), bradley_terry(better, worse))


@given(st.integers(0, 2**31), st.floats(-50, 50))
def test_only_differences_of_scores_and_the_order_of_rewards_count(seed, shift):
    scores, rewards = rows(seed)
    loss = plackett_luce(scores, rewards)
    assert torch.allclose(loss, plackett_luce(scores + shift, rewards.exp() - 3), atol=1e-9)
    order = torch.randperm(5, generator=torch.Generator().manual_seed(seed))
    assert torch.allclose(loss, plackett_luce(scores[:, order], rewards[:, order]))


@given(st.integers(0, 2**31))
def test_missing_answers_are_as_if_they_were_not_there(seed):
    scores, rewards = rows(seed, batch=1)
    real = torch.rand(1, 5, generator=torch.Generator().manual_seed(seed)) < 0.6
    hidden = torch.where(real, rewards, torch.nan)  # whatever is there
    some = plackett_luce(scores[real][None], rewards[real][None])
    assert torch.allclose(plackett_luce(scores, hidden, real=real), some)
    pull = plackett_luce_pull(scores, hidden, real=real)
    assert torch.allclose(pull[real], plackett_luce_pull(scores[real][None], rewards[real][None])[0])
    assert (pull[~real] == 0).all()


@given(st.integers(0, 2**31), st.integers(1, 8))
def test_the_pull_is_the_gradient_of_the_log_probability(seed, answers):
    scores, rewards = rows(seed, answers=answers)
    scores.requires_grad_()
    (expected,) = torch.autograd.grad(-plackett_luce(scores, rewards).sum(), scores)
    found = plackett_luce_pull(scores.detach(), rewards)
    assert torch.allclose(found, expected, atol=1e-10)
    assert found.sum(-1).abs().max() < 1e-10


@given(st.integers(0, 2**31), st.integers(2, 8))
def test_the_gradient_of_a_linear_model_is_that_of_autograd(seed, answers):
    generator = torch.Generator().manual_seed(seed)
    weight, x = torch.randn(2, 3, 4, generator=generator).double(), torch.randn(2, 4, generator=generator).double()
    y = torch.randn(2, answers, 3, generator=generator).double()
    rewards = torch.rand(2, answers, generator=generator, dtype=torch.float64)
    weight.requires_grad_()
    loss = plackett_luce(negative_squared_error((weight @ x[..., None])[..., 0], y), rewards).sum()
    (expected,) = torch.autograd.grad(loss, weight)
    found = plackett_luce_gradient(weight.detach(), x, y, rewards)
    assert torch.allclose(found, expected, rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("scale", [1e3, 1e8])
def test_extreme_scores_have_finite_losses_and_gradients(scale):
    scores = (scale * torch.tensor([[0.0, 1.0, -1.0]])).requires_grad_()
    loss = plackett_luce(scores, torch.tensor([[0.1, 0.2, 0.3]]))
    loss.sum().backward()
    assert loss.isfinite().all() and scores.grad.isfinite().all()
    # Each rank is missed by the best score of those left: 1 to -1, then 1 to 1.
    assert loss.item() == pytest.approx(2 * scale, rel=1e-6)


def test_rewards_of_answers_are_what_they_say():
    prediction, answers = torch.tensor([3.0, 4.0]), torch.tensor([[3.0, 4.0], [0.0, 0.0], [-4.0, 3.0], [-6.0, -8.0]])
    assert negative_squared_error(prediction, answers).tolist() == [0, -25, -50, -225]
    assert cosine(prediction, answers).tolist() == pytest.approx([1, 0, 0, -1])


def test_what_is_refused():
    scores = torch.zeros(2, 3)
    with pytest.raises(ValueError, match=r"NaN at \[1, 2\]"):
        plackett_luce(scores, torch.tensor([[0.1, 0.2, 0.3], [0.1, 0.2, torch.nan]]))
    tied = torch.tensor([[0.1, 0.2, 0.3], [0.5, 0.2, 0.5]])
    with pytest.raises(ValueError, match=r"must differ, unless ties='in order'; got 0.5 twice in row \[1\]"):
        plackett_luce(scores, tied)
    with pytest.raises(ValueError, match=r"got 0.2 twice$"):
        plackett_luce(scores[0], torch.tensor([0.1, 0.2, 0.2]))
    with pytest.raises(ValueError, match="twice in row"):
        plackett_luce_pull(scores, tied)
    assert plackett_luce(scores, tied, real=torch.tensor([[True] * 3, [True, True, False]])).isfinite().all()
    in_order = plackett_luce(torch.randn(2, 3), tied, ties="in order")
    assert in_order.isfinite().all()
    one, other = torch.tensor([[2.0, 0.0]]), torch.tensor([[0.5, 0.5]])
    assert plackett_luce(one, other, ties="in order").item() == pytest.approx(math.log1p(math.exp(-2)), abs=1e-6)
