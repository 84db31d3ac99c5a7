"""Noise in two steps: from clean to s, from s to t."""

import pytest
import torch
from worlds import PROCESSES, V


def fits(process, n=40_000):
    """Whether tokens drawn from s to t have the law of the transition, from every possible token, at several times."""
    worst = 0.0
    for s, t in ((0.3, 0.6), (0.0, 0.2), (0.5, 1.0)):
        s, t = (torch.tensor([time], dtype=torch.float64) for time in (s, t))
        every = torch.arange(V)[None]
        keep, fresh = process.factored_transition(every, s, t)
        for v in process.data_tokens().nonzero()[:, 0].tolist():
            z = torch.full((n, 1), v)
            y = process.renoise(z, s.expand(n), t.expand(n), generator=torch.Generator().manual_seed(v))
            want = fresh[0] + keep[0] * (every[0] == v)
            seen = torch.bincount(y[:, 0], minlength=V) / n
            worst = max(
                worst, ((seen - want).abs() / (want * (1 - want) / n + 1e-12).sqrt().clamp(min=1e-6)).max().item()
            )
    return worst < 5


@pytest.mark.parametrize("name", PROCESSES)
def test_it_has_the_law_of_the_transition(name):
    assert fits(PROCESSES[name]())


def test_a_token_at_its_own_time_stays():
    for make in PROCESSES.values():
        process = make()
        z = process.prior(50, 4, generator=torch.Generator().manual_seed(0))
        for time in (0.0, 0.5, 1.0):
            t = torch.full((50,), time, dtype=torch.float64)
            assert torch.equal(process.renoise(z, t, t), z)


def test_noise_drawn_from_the_mixing_at_t_alone_is_seen(monkeypatch):
    """The planted mistake: what replaces a token is drawn from b_t, not from what b_t has beyond b_s."""
    process = PROCESSES["gidd"]()
    assert fits(process)
    exact = type(process).renoise

    def wrong(self, z, s, t, *, generator=None):
        moved = exact(self, z, s, t, generator=generator) != z
        return torch.where(moved, self.prior(*z.shape, generator=generator), z)

    monkeypatch.setattr(type(process), "renoise", wrong)
    assert not fits(process)
