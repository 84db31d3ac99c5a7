"""Noise in two steps: from clean to s, from s to t."""

import pytest
import torch
from by_hand import WRITTEN, World
from worlds import PROCESSES

import noiselab as nl


def fits(name, n=20_000):
    """Whether tokens drawn from s to t have the law that leads from one marginal to the other, from every token."""
    world, worst = World(name, 1), 0.0
    process = world.process()
    for s, t in ((0.3, 0.6), (0.0, 0.2), (0.5, 1.0)):
        early, late = (torch.full((n,), time, dtype=torch.float64) for time in (s, t))
        for v in range(len(world.initial)):
            y = process.renoise(torch.full((n, 1), v), early, late, generator=torch.Generator().manual_seed(v))
            want = world.transition_between(s, t)[v].clamp(min=0)
            seen = torch.bincount(y[:, 0], minlength=world.states) / n
            worst = max(worst, ((seen - want).abs() / ((want * (1 - want) / n).sqrt() + 1e-6)).max().item())
    return worst < 5


@pytest.mark.parametrize("name", WRITTEN)
def test_it_has_the_law_of_the_transition(name):
    assert fits(name)


def test_a_token_at_its_own_time_stays():
    for make in PROCESSES.values():
        process = make()
        z = process.prior(50, 4, generator=torch.Generator().manual_seed(0))
        for time in (0.0, 0.5, 1.0):
            t = torch.full((50,), time, dtype=torch.float64)
            assert torch.equal(process.renoise(z, t, t), z)


def test_noise_drawn_from_the_mixing_at_t_alone_is_seen(monkeypatch):
    """The planted mistake: what replaces a token is drawn from b_t, not from what b_t has beyond b_s."""
    exact = nl.Interpolation.renoise

    def wrong(self, z, s, t, *, generator=None):
        moved = exact(self, z, s, t, generator=generator) != z
        return torch.where(moved, self.prior(*z.shape, generator=generator), z)

    monkeypatch.setattr(nl.Interpolation, "renoise", wrong)
    assert not fits("gidd")
