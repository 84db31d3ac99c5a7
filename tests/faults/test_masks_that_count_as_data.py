"""A process without `support` whose noise ends in one token: masks count as data, which is said once, by `check_process`."""

import math

import pytest
import torch

import noiselab as nl
from noiselab.testing import check_process
from noiselab.testing.process_laws import signal_falls

QUICK = (signal_falls,)


class Masks(nl.InterpolatingProcess):
    """All tokens become token 2; with `even`, any of the three."""

    def __init__(self, even=False, support=None):
        super().__init__(support)
        self.even = even

    def alpha(self, t):
        return 1 - t

    def mixing(self, t):
        return torch.full((3,), 1 / 3, dtype=t.dtype) if self.even else torch.tensor([0.0, 0.0, 1.0], dtype=t.dtype)


def test_a_mask_that_counts_as_data_is_named():
    with pytest.warns(UserWarning, match="ends in token 2 alone, and `support` does not say"):
        check_process(Masks(), QUICK)


def test_others_are_not(recwarn):
    check_process(Masks(support=torch.tensor([True, True, False])), QUICK)
    check_process(Masks(even=True), QUICK)
    assert not recwarn.list


def test_what_it_costs_by_hand():
    """A mask at t = 1/2, of rate 2 and so of weight 4: q = (1/2, 0, 1/2), and a uniform prediction p = (1/6, 1/6, 2/3)."""
    x, z, t = torch.tensor([[0]]), torch.tensor([[2]]), torch.tensor([0.5])
    without, given = (nl.nelbo(p, torch.zeros(1, 1, 3), x, z, t) for p in (Masks(), Masks(support=torch.arange(3) < 2)))
    divergence = 0.5 * math.log(3) + 0.5 * math.log(3 / 4)
    assert without.item() == pytest.approx(4 * (divergence + 3 / 4 - math.log(3 / 4) - 1), rel=1e-6)  # 1.77
    assert given.item() == pytest.approx(2 * math.log(2), rel=1e-6)  # 1.39
