"""Steps along the rates of the reverse chain."""

import math
import sys

import pytest
import torch
from exact_worlds import NOISES, chi_square, generator, oracle_of, p_value

import noiselab as nl
from noiselab.processes.token_rates import TokenRates
from noiselab.samplers.tau_leaping import EulerSampler, TauLeapingSampler

BELOW_1 = 1 - 2**-53
GRID = torch.linspace(1, 0, 193, dtype=torch.float64)


@pytest.mark.long_for("*-uniform", "EulerSampler-gidd", "TauLeapingSampler-masked")
@pytest.mark.parametrize("name", NOISES)
@pytest.mark.parametrize("kind", [EulerSampler, TauLeapingSampler])
def test_the_law_tends_to_that_of_the_data(kind, name):
    process = NOISES[name]()
    sampler = kind(process, oracle_of(process))
    assert p_value(sampler, times=GRID if name == "masked" else GRID**2) > 1e-3
    assert p_value(sampler, steps=8) < 1e-6


class Drifting(nl.InterpolatingProcess):
    """alpha = (1 - t)^2; replacements are a mask with probability 1 - t/2, otherwise tokens 0 to 2 with 1/2, 1/4, 1/4."""

    def alpha(self, t):
        return (1 - t) ** 2

    def mixing(self, t):
        share = t[..., None] / 2
        words, mask = torch.tensor([0.5, 0.25, 0.25, 0.0]).to(t), torch.tensor([0.0, 0.0, 0.0, 1.0]).to(t)
        return share * words + (1 - share) * mask


# By hand, for tokens 0 to 3: the signal, its slope, the noise mass b = (1 - alpha) pi, and the slope of b.
WRITTEN = {
    "masked": (
        nl.masked(vocab_size=4, mask_id=3),
        lambda t: (1 - t, -1.0, [0.0, 0.0, 0.0, t], [0.0, 0.0, 0.0, 1.0]),
    ),
    "uniform": (nl.uniform(vocab_size=4), lambda t: (1 - t, -1.0, [t / 4] * 4, [1 / 4] * 4)),
    "mask and drifting words": (
        Drifting(support=torch.tensor([True, True, True, False])),
        lambda t: (
            (1 - t) ** 2,
            -2 * (1 - t),
            [(2 * t - t**2) * p for p in (t / 4, t / 8, t / 8, 1 - t / 2)],
            # d/dt of (2 t^2 - t^3)/4, of its half, and of (2 t - t^2)(1 - t/2) = 2 t - 2 t^2 + t^3/2
            [(4 * t - 3 * t**2) / 4, (4 * t - 3 * t**2) / 8, (4 * t - 3 * t**2) / 8, 2 - 4 * t + 1.5 * t**2],
        ),
    ),
}


def reverse_rates(written, x_hat, z):
    """R(z -> y) = R(y -> z) q(y) / q(z) for y != z; a token y turns into z at the rate b'(z) - b(z) alpha' / alpha."""
    alpha, slope, b, rise = written
    q = [alpha * x + noise for x, noise in zip(x_hat, b, strict=True)]
    into_z = rise[z] - b[z] * slope / alpha
    return [into_z * q[y] / q[z] if y != z else 0.0 for y in range(4)]


def masses_of_a_step(sampler, z, t, s, monkeypatch):
    """The probability of each token after one step: the volume of the uniform numbers that lead to it.

    The first number decides whether the token jumps, the second whether to a token of the prediction (drawn with the
    fifth) or of the noise (drawn with the third). The ends of each interval are found by halving, not from a formula.
    """
    module = sys.modules[EulerSampler.__module__]

    def step(u):
        monkeypatch.setattr(module, "uniforms", lambda *args, **kwargs: u[:, None])
        return sampler.step(torch.full((len(u), 1), z), t.expand(len(u)), s.expand(len(u)))[:, 0]

    def intervals(axis, others):
        """The intervals of one number, the others fixed, as (token, from, to)."""
        rows = torch.tensor(others, dtype=torch.float64).expand(257, 5).clone()
        rows[:, axis] = torch.linspace(0, 1, 257, dtype=torch.float64).clamp(max=BELOW_1)
        out = step(rows)
        change = (out[1:] != out[:-1]).nonzero()[:, 0]
        low, high, before = rows[change].clone(), rows[change + 1].clone(), out[change]
        for _ in range(60):
            middle = (low + high) / 2
            same = (step(middle) == before)[:, None]
            low, high = torch.where(same, middle, low), torch.where(same, high, middle)
        ends = [0.0, *low[:, axis].tolist(), 1.0]
        return list(zip([*before.tolist(), int(out[-1])], ends[:-1], ends[1:], strict=True))

    def lengths(parts):
        return [sum(b - a for token, a, b in parts if token == y) for y in range(4)]

    stays = lengths(intervals(0, [0, 0, 0.5, 0.5, 0.5]))[z]
    clean = intervals(4, [0, 0, 0.5, 0.5, 0])
    noise = intervals(2, [0, BELOW_1, 0, 0.5, 0.5])
    # Where the token of the prediction and that of the noise differ, the second number shows what decides between them.
    u, v, a = next(((c + d) / 2, (e + f) / 2, p) for p, c, d in clean for q, e, f in noise if p != q)
    share = lengths(intervals(1, [0, 0, v, 0.5, u]))[a]
    clean, noise = lengths(clean), lengths(noise)
    return [
        (1 - stays) * (share * p + (1 - share) * q) + (stays if y == z else 0)
        for y, (p, q) in enumerate(zip(clean, noise, strict=True))
    ]


@pytest.mark.long_for("*-0.1")
@pytest.mark.parametrize("h", [0.1, 0.45])
@pytest.mark.parametrize("name", WRITTEN)
@pytest.mark.parametrize("kind", [EulerSampler, TauLeapingSampler])
def test_the_masses_of_one_step_are_those_of_the_rates(kind, name, h, monkeypatch):
    """With the rates held fixed, z stays with probability exp(-hR), or 1 - min(1, hR), and goes to y with R(z -> y) / R."""
    process, written = WRITTEN[name]
    x_hat = [0.1, 0.6, 0.3, 0.0]

    class Fixed(nl.Denoiser):
        def forward(self, z, t):
            return torch.tensor(x_hat, dtype=torch.float64).log().expand(*z.shape, -1)

    t = torch.tensor([0.6], dtype=torch.float64)
    clamped = 0
    for z in range(4):
        rates = reverse_rates(written(0.6), x_hat, z)
        jumps = h * sum(rates)
        clamped += jumps > 1
        stays = math.exp(-jumps) if kind is TauLeapingSampler else 1 - min(1, jumps)
        if jumps == 0:
            assert kind(process, Fixed()).step(torch.tensor([[z]]), t, t - h).item() == z
            continue
        want = [(1 - stays) * rate / sum(rates) + (stays if y == z else 0) for y, rate in enumerate(rates)]
        found = masses_of_a_step(kind(process, Fixed()), z, t, t - h, monkeypatch)
        assert found == pytest.approx(want, abs=1e-9), z
    assert h < 0.4 or clamped or name == "masked"


def marginal(written, x_hat):
    alpha, _, b, _ = written
    return torch.tensor([alpha * x + noise for x, noise in zip(x_hat, b, strict=True)], dtype=torch.float64)


def law_of_steps(kind, written, x_hat, steps):
    """The law at t = .1 of one token that has the law q at t = .9, after N steps along rates written by hand."""
    law = marginal(written(0.9), x_hat)
    for n in range(steps):
        matrix = torch.eye(4, dtype=torch.float64)
        for z in range(4):
            rates = torch.tensor(reverse_rates(written(0.9 - 0.8 * n / steps), x_hat, z), dtype=torch.float64)
            total = rates.sum().item()
            if total > 0:
                jumps = 0.8 / steps * total
                stays = math.exp(-jumps) if kind is TauLeapingSampler else 1 - min(1, jumps)
                matrix[z] = (1 - stays) * rates / total + stays * matrix[z]
        law = law @ matrix
    return law


@pytest.mark.parametrize("name", WRITTEN)
@pytest.mark.parametrize("kind", [EulerSampler, TauLeapingSampler])
def test_the_error_of_n_steps_falls_as_1_over_n(kind, name):
    """The last step, to t = 0, is the exact one, hence the law at t = .1."""
    process, written = WRITTEN[name]
    x_hat = [0.7, 0.2, 0.1, 0.0]
    x = torch.multinomial(torch.tensor(x_hat), 400_000, replacement=True, generator=generator(1))[:, None]

    class Fixed(nl.Denoiser):
        def forward(self, z, t):
            return torch.tensor(x_hat, dtype=torch.float64).log().expand(*z.shape, -1)

    exact = marginal(written(0.1), x_hat)
    laws = {steps: law_of_steps(kind, written, x_hat, steps) for steps in (4, 64, 128, 256)}
    error = {steps: (law - exact).abs().sum().item() / 2 for steps, law in laws.items()}
    if kind is EulerSampler and name in ("masked", "uniform"):  # 1 - h/t is s/t: without its limit at 1, exact
        assert max(error[64], error[128], error[256]) < 1e-12
    else:
        assert error[64] / error[128] == pytest.approx(2, rel=0.05)
        assert error[128] / error[256] == pytest.approx(2, rel=0.05)
    # The sampler has the law of four such steps, and draws enough to see whether it has an error.
    z, grid = process.corrupt(x, torch.full((len(x),), 0.9), generator=generator(2)), torch.linspace(0.9, 0.1, 5)
    z = list(kind(process, Fixed()).walk(z, grid, generator=generator(3)))[-1]
    assert chi_square(z, laws[4], tokens=4) > 1e-3
    assert (chi_square(z, exact, tokens=4) < 1e-6) == (error[4] > 1e-12)


@pytest.mark.parametrize("kind", [EulerSampler, TauLeapingSampler])
def test_masks_that_are_left_by_hand(kind):
    """A mask is revealed at the rate 1/t: after seven of eight steps tau-leaping leaves exp(-1/8 - ... - 1/2) = .1794,
    Euler 7/8 6/7 ... 1/2 = 1/8."""
    process = nl.masked(vocab_size=6, mask_id=5)
    start = process.prior(4000, 10)
    *_, z = kind(process, Even()).walk(start, torch.linspace(1, 1 / 8, 8), generator=generator())
    want = 0.125 if kind is EulerSampler else 0.1794
    assert (z == 5).double().mean().item() == pytest.approx(want, abs=5 * (want * (1 - want) / 40_000) ** 0.5)


class Even(nl.Denoiser):
    """Predicts five words evenly."""

    def forward(self, z, t):
        return torch.zeros(*z.shape, 6).index_fill(-1, torch.tensor([5]), -math.inf)


def test_the_analytic_step_of_sedd_is_the_ancestral_step():
    """Theorem 4.2 of Lou et al. (2024), written with the scores and the matrices of uniform noise."""
    process, x_hat = nl.uniform(vocab_size=4), torch.tensor([0.1, 0.2, 0.3, 0.4]).double()
    s, t, z = torch.tensor([0.3]).double(), torch.tensor([0.7]).double(), torch.tensor([[2]])
    score = process.marginal(x_hat.view(1, 1, -1), t)[0, 0]
    score = score / score[2]
    keep = (1 - t) / (1 - s)
    forward = keep * torch.eye(4).double() + (1 - keep) / 4  # exp of the rates from s to t; its inverse undoes them
    want = (forward.inverse() @ score) * forward[:, 2]
    torch.testing.assert_close(process.posterior(z, x_hat.view(1, 1, -1), s, t)[0, 0], want / want.sum())


@pytest.mark.parametrize("kind", [EulerSampler, TauLeapingSampler])
def test_no_noise_is_left_and_tokens_with_equal_times_stay(kind):
    for make in NOISES.values():
        process = make()
        sampler = kind(process, oracle_of(process))
        assert (sampler.sample((300, 5), steps=3, generator=generator()) < 3).all()
        t = torch.full((300, 5), 0.7, dtype=torch.float64)
        z = process.corrupt(torch.zeros(300, 5, dtype=torch.long), t, generator=generator())
        s = t.clone()
        s[:, ::2] = 0
        after = sampler.step(z, t, s, generator=generator(1))
        assert torch.equal(after[:, 1::2], z[:, 1::2]) and (after[:, ::2] < 3).all()


def test_token_dependent_noise_is_refused():
    process = TokenRates(torch.tensor([1.0, 2.0, 0.5, 1.0]), mask_id=3)
    for kind in (EulerSampler, TauLeapingSampler):
        with pytest.raises(ValueError, match="needs an InterpolatingProcess; got"):
            kind(process, oracle_of(process))
