"""Processes that are right are not accused, and the report on a wrong one names where and why."""

import math

import pytest
import torch

import noiselab as nl
from noiselab.testing import check_process
from noiselab.testing.bound_laws import bound_is_tight, integrate

LETTERS, MASK = torch.tensor([0.5, 0.3, 0.2, 0.0]), torch.tensor([0.0, 0.0, 0.0, 1.0])


class Cosine(nl.InterpolatingProcess):
    """Letters with probability 1 - sin^2, masks with sin^2: the rounding of 1 - sin^2 is no negative rate."""

    def alpha(self, t):
        return torch.cos(math.pi * t / 2) ** 2

    def mixing(self, t):
        s = torch.sin(math.pi * t / 2)[..., None] ** 2
        return (1 - s) * LETTERS.to(t) + s * MASK.to(t)


class Jump(Cosine):
    def mixing(self, t):
        return torch.where(t[..., None] < 0.5, LETTERS.to(t), MASK.to(t))


def plateau(start, end, level):
    """Falls to a level, stays there from `start` to `end`, and falls to 0: two corners."""
    signal = nl.schedules.Function(
        lambda t: 1 - (1 - level) * (t / start).clamp(0, 1) - level * ((t - end) / (1 - end)).clamp(0, 1)
    )
    return nl.Interpolation(signal, {nl.Absorbing(3, 4): 1 - signal})


def test_one_minus_sine_squared_is_a_process():
    check_process(Cosine(support=MASK == 0))


@pytest.mark.parametrize("shape", [(0.4, 0.6, 0.5), (0.3, 0.7, 0.4), (0.123, 0.9, 0.77), (0.05, 0.951, 0.3)])
def test_corners_are_allowed(shape):
    bound_is_tight(plateau(*shape))


def test_all_laws_hold_on_a_plateau():
    check_process(plateau(0.4, 0.6, 0.5))


def test_a_jump_is_named_with_its_time():
    with pytest.raises(AssertionError, match=r"`mixing` jumps by 1 at t = 0\.5.*: it must be continuous"):
        check_process(Jump(support=MASK == 0))


def test_integrals_of_functions_with_corners_and_jumps():
    """By hand: |x - 1/3| has the integral 5/18; a step of height 2 at 0.7 has 0.6; 1.5 sqrt(x) has 1."""
    for f, want in (
        (lambda x: (x - 1 / 3).abs(), 5 / 18),
        (lambda x: 2.0 * (x > 0.7), 0.6),
        (lambda x: 1.5 * x.sqrt(), 1.0),
    ):
        assert integrate(f, panels=4).item() == pytest.approx(want, abs=1e-5)
