"""Curves that are no signal, or jump, are refused with words; steep and bent ones are not."""

from pathlib import Path

import pytest
import torch

import noiselab as nl
from noiselab import schedules as S
from noiselab import t


class Process(nl.InterpolatingProcess):
    def __init__(self, alpha, mixing=None):
        super().__init__()
        self.written, self.mix = alpha, mixing

    def alpha(self, t):
        return self.written(t)

    def mixing(self, t):
        return torch.full((3,), 1 / 3) if self.mix is None else self.mix(t)


def kink(at):
    """Falls from 1 to 0 with infinite slope at one place inside."""

    def alpha(t):
        below, above = at**0.5, (1 - at) ** 0.5
        return 1 - (torch.sign(t - at) * (t - at).abs().sqrt() + below) / (below + above)

    return alpha


def turn(low, high):
    """A mixing that jumps at t = 1/2."""
    return lambda t: torch.where((t < 0.5)[..., None], torch.tensor(low).double(), torch.tensor(high).double())


def swing(t):
    """A mixing that turns around between two times at which the rates are looked at."""
    share = torch.sigmoid(2000 * (t - 0.5))[..., None]
    return torch.lerp(torch.tensor([0.9, 0.1, 0.0]).double(), torch.tensor([0.1, 0.9, 0.0]).double(), share)


def blended(t):
    """A mixing that moves, slowly enough for a Markov process."""
    return torch.stack([0.5 + 0.1 * t, 0.3 + 0 * t, 0.2 - 0.1 * t], -1)


def table(t):
    """The same from a table of 50 times."""
    return blended(torch.linspace(0, 1, 50).double()[(t * 49).round().long()])


BAD = [
    (lambda t: (t < 0.5).double(), None, r"alpha must be continuous.*; it changes by 1 within .* of t = 0.5"),
    (
        lambda t: torch.where(t < 0.7, 1 - t, 0.9 * (1 - t)),
        None,
        r"alpha must be continuous.*changes by 0.03 .*t = 0.7",
    ),
    (lambda t: torch.floor(1000 * (1 - t)) / 1000, None, "alpha must be continuous"),
    (kink(0.5), None, r"finite slope inside the domain; .* of t = 0.5"),
    (kink(0.3), None, r"finite slope inside the domain; .* of t = 0.3"),
    (kink(0.97), None, "finite slope inside the domain"),
    (lambda t: 1 - t.detach(), None, r"slope of alpha must be that of its values.*gives 0, differences -1 at t = "),
    (lambda t: (1 - t) * torch.where(t > 0.3, torch.nan, 1.0), None, r"alpha must lie in \[0, 1\]; got nan at t = 0.3"),
    (lambda t: 1 - t * torch.nan, None, r"alpha must lie in \[0, 1\]; got nan at t = 0"),
    (lambda t: 1 - 0.9 * ((t - 0.2).clamp(min=0) / 0.8) ** 0.5 - 0.1 * t, None, "finite slope inside the domain"),
    (lambda t: 0.998 * (1 - t), None, "alpha must be 1 at t = 0, where tokens are clean; got 0.998"),
    (lambda t: 1 - 0.998 * t, None, "alpha must fall to 0 at t = 1, where only noise is left; got 0.002"),
    (
        lambda t: 1 - t,
        turn([0.9, 0.1, 0.0], [0.1, 0.9, 0.0]),
        r"noise must not decrease.*from t = 0.487918 to 0.512082 token 0 gains -",
    ),
    (
        lambda t: 1 - t,
        lambda t: blended(t.detach()),
        r"slope of the noise on token 0 must be that of its values: .* by torch",
    ),
    (lambda t: 1 - t, table, "the noise on token 0 must be continuous"),
    (lambda t: (1 - 1.25 * t).clamp(min=0), None, r"must not reach 0 before the end.*it does at t = 0.8, .*`domain`"),
    (lambda t: torch.exp(-800 * t), None, r"must not reach 0 before the end of time; it does at t = 0.931"),
    (lambda t: (1 - t) ** 200, None, r"must not reach 0 before the end of time; it does at t = 0.97"),
    (
        lambda t: torch.where(t < 1, 1 - 0.5 * t, 0 * t),
        None,
        r"come down to its end continuously; it still falls by 0.5 within 1e-12 of t = 1",
    ),
    (lambda t: (1 - t) ** 0.1, None, r"come down to its end continuously; it still falls by 0.063"),
]


@pytest.mark.parametrize(("alpha", "mixing", "message"), BAD)
def test_a_curve_that_is_no_signal_is_refused(alpha, mixing, message):
    with pytest.raises(ValueError, match=message):
        Process(alpha, mixing).validate()


def test_a_slope_that_is_not_finite_is_refused():
    middle = float(nl.process.validation.interior_times((0.0, 1.0), 64)[20])
    with pytest.raises(ValueError, match=r"alpha must have a finite slope inside the domain; got -?(nan|inf) at t = "):
        Process(kink(middle)).validate()


@pytest.mark.parametrize(
    "alpha",
    [
        lambda t: torch.sigmoid(1000 * (0.5 - t)),
        lambda t: 1 - t.float(),
        lambda t: torch.cos(torch.pi * t.float() / 2).clamp(min=0),
        lambda t: 1 - t**0.05,
        lambda t: (1 - t) ** 0.3,
        lambda t: 1 - t**200,
        lambda t: 1 - torch.sqrt(t * (2 - t)),
        lambda t: torch.where(t < 0.25, 1 - t / 2, (1 - t) * 7 / 6),
        lambda t: torch.minimum(1 - t / 3, 2 - 2 * t),
        lambda t: 1 - (t - 0.2).clamp(min=0) / 0.8,
        S.log_linear(1e-3),
        S.geometric(1e-3, 7),
        S.polynomial(8),
        S.from_log_snr(nl.schedules.Function(lambda t: torch.logit(1 - t))),
        nl.schedules.Function(lambda t: torch.lerp(*torch.linspace(1, 0, 1001).double()[
            torch.stack([(t * 1000).floor(), (t * 1000).floor() + 1]).long().clamp(0, 1000)], t * 1000 % 1)),
    ],
)  # fmt: skip
def test_steep_bent_and_coarse_signals_are_accepted(alpha):
    Process(alpha).validate()


def test_weights_of_a_composition_are_followed_too():
    step = nl.schedules.Function(lambda t: 0.1 + 0.9 * (t > 0.6))
    with pytest.raises(ValueError, match=r"must be continuous.* of t = 0.6"):
        nl.Interpolation(1 - t, {nl.Uniform(3): t, nl.Absorbing(2, 3): step * t})
    with pytest.raises(ValueError, match=r"the mass of Absorbing\(2\) must be that of its values"):
        nl.Interpolation(
            1 - t, {nl.Uniform(3): t, nl.Absorbing(2, 3): nl.schedules.Function(lambda t: 0.1 * t.detach())}
        )
    with pytest.raises(ValueError, match=r"got nan from f\(t\) at t = 0"):
        nl.Interpolation(1 - t, {nl.Uniform(3): nl.schedules.Function(lambda t: t * torch.nan)})


@pytest.mark.parametrize("probs", [lambda t: blended(t.detach()), table])
def test_a_mixing_inside_a_composition_is_followed_too(probs):
    class Mix(nl.Mixing):
        vocab_size = 3

        def probs(self, t):
            return self.written(t)

    mix = Mix()
    mix.written = blended
    nl.Interpolation(1 - t, {mix: t})
    mix.written = probs
    with pytest.raises(ValueError, match=r"the noise on token 0 must be|must be continuous"):
        nl.Interpolation(1 - t, {mix: t})


def test_a_mixing_of_many_tokens_is_followed_on_those_with_most_mass():
    row = torch.arange(1.0, 3001).double() ** -1

    def mixing(t):
        share = 0.1 + 0.2 * t[..., None]
        return share * row / row.sum() + (1 - share) / 3000

    Process(lambda t: 1 - t, mixing).validate()
    with pytest.raises(ValueError, match="the slope of the noise on token 0 must be that of its values"):
        Process(lambda t: 1 - t, lambda t: mixing(t.detach())).validate()


@pytest.mark.parametrize(
    "alpha",
    [
        nl.schedules.Function(lambda t: (1.25 - 1.25 * t).clamp(max=1)),  # no noise at first
        1 - t**200,
        nl.schedules.Function(lambda t: 1 - (2 * t - 1).clamp(min=0) ** 3),
        nl.schedules.Function(lambda t: torch.cos(torch.pi * t.float() / 2)),  # ends at -4e-8
    ],
)
def test_noise_that_begins_late_or_ends_below_zero_by_rounding_is_accepted(alpha):
    process = nl.Interpolation(alpha, {nl.Absorbing(3, 4): 1 - alpha, nl.Uniform(4): 0.3 * (1 - alpha)})
    time = torch.tensor([0.0, 1e-9, 0.01, 0.1, 0.3, 1.0], dtype=torch.float64)
    mixing = process.mixing(time)
    assert (mixing >= 0).all()
    torch.testing.assert_close(mixing.sum(-1), torch.ones_like(time))
    assert ((process.alpha(time) >= 0) & (process.alpha(time) <= 1)).all()
    # In float32 the rate of a cosine is lost within 1e-12 of the end.
    time[-1] = 0.999
    x = torch.tensor([[0, 1, 2]]).expand(6, -1)
    z = process.corrupt(x, time)
    assert nl.nelbo(process, torch.zeros(6, 3, 4), x, z, time).isfinite().all()


def test_weights_that_are_negative_by_more_than_rounding_are_refused():
    for below in (5.6e-17, 4e-8):
        weight = nl.schedules.Function(lambda t, below=below: t * (1 + below) - below)
        process = nl.Interpolation(1 - t, {nl.Uniform(3): t, nl.Absorbing(2, 3): weight})
        assert (process.raw_weights(torch.zeros(1, dtype=torch.float64)) >= 0).all()
        blend = nl.Blend({nl.Uniform(3): 1 - t, nl.Absorbing(2, 3): weight})
        assert (blend.shares(torch.zeros(1, dtype=torch.float64)) >= 0).all()
    weight = nl.schedules.Function(lambda t: t - 1e-6)
    for make in (lambda w: nl.Interpolation(1 - t, w), nl.Blend):
        with pytest.raises(ValueError, match="non-negative and finite; got -1e-06"):
            make({nl.Uniform(3): 1, nl.Absorbing(2, 3): weight})


def test_a_signal_that_ends_early_is_accepted_where_its_domain_ends_too():
    nl.Interpolation(1 - 1.25 * t, {nl.Uniform(3): 1.25 * t}, domain=(0.0, 0.8))


def test_a_mixing_keeps_to_the_support_it_declares():
    class Promise(nl.Mixing):
        vocab_size = 3

        def __init__(self, probs, support):
            super().__init__()
            self.row, self.support = torch.tensor(probs), torch.tensor(support)

        def probs(self, t):
            return self.row.to(t).expand(*t.shape, -1)

    nl.Interpolation(1 - t, {Promise([0.5, 0.5, 0.0], [True, True, False]): t})
    with pytest.raises(ValueError, match=r"no mass outside its support; Promise\(\) has 0.25 on token 2 at t = "):
        nl.Interpolation(1 - t, {Promise([0.5, 0.25, 0.25], [True, True, False]): t})


@pytest.mark.parametrize("times", [1, 2, 64, 1000])
def test_any_number_of_times_may_be_checked(times):
    nl.gidd(vocab_size=4, mask_id=3, p_uniform=0.2).validate(times)


@pytest.mark.parametrize(
    ("check", "alpha", "mixing"),
    [
        ("_check_continuity", kink(0.3), None),
        ("_check_slopes", lambda t: 1 - t.detach(), None),
        ("_check_jumps", lambda t: 1 - t, swing),
        ("_check_columns", lambda t: 1 - t, lambda t: blended(t.detach())),
    ],
)
def test_nothing_else_refuses_what_a_check_is_for(monkeypatch, check, alpha, mixing):
    monkeypatch.setattr(nl.process.validation, check, lambda *args: None)
    Process(alpha, mixing).validate()


def test_messages_on_the_page_are_those_of_the_code():
    page = (Path(__file__).parents[2] / "docs" / "guides" / "schedules.md").read_text(encoding="utf-8")
    for make in (
        Process(lambda t: (t < 0.5).double()).validate,
        Process(lambda t: 1 - t.detach()).validate,
        Process(lambda t: 1 - 0.998 * t).validate,
        lambda: (t * (1 - t)).inverse(torch.tensor([0.1])),
    ):
        with pytest.raises(ValueError) as error:
            make()
        assert f"| `{error.value}` |" in page
