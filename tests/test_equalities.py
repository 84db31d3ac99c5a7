"""Our bounds are the published ones: every row of `equalities.EQUALITIES`, and the table that shows them."""

import math

import equalities
import published
import pytest
import torch
from equalities import BY_PAGE, END, EQUALITIES, PAGES, START
from family import MASK, V, bound, relative_error
from hypothesis import given, settings
from hypothesis import strategies as st
from worlds import INITIAL, TRANSITION

import noiselab as nl
from noiselab.processes import TokenRates
from noiselab.processes.discrete import Steps
from noiselab.schedules import Time
from noiselab.testing import bound_does_not_depend_on_the_clock, bound_equals_definition, bound_is_tight, check_process

BOUND_LAWS = (bound_equals_definition, bound_does_not_depend_on_the_clock, bound_is_tight)
IN_STEPS = {"md4 steps", "d3pm absorbing", "d3pm uniform", "digress", "scdd steps"}
SLIP = 1e-5  # the size of the planted mistakes


@pytest.mark.parametrize("name", EQUALITIES)
def test_equal(name):
    assert EQUALITIES[name].error() < EQUALITIES[name].limit


def cells(line):
    return [cell.strip() for cell in line.strip().strip("|").split("|")]


@pytest.mark.parametrize("name", BY_PAGE)
def test_the_page_shows_these_rows(name):
    """All but the measured figures, which may differ from machine to machine; `python tests/equalities.py --write`."""
    rows = BY_PAGE[name]
    text = (PAGES / f"{name}.md").read_text(encoding="utf-8")
    shown = [cells(line) for line in text.split(START)[1].split(END)[0].strip().splitlines()]
    made = [cells(line) for line in equalities.table(rows, dict.fromkeys(rows, 0.0)).splitlines()]
    assert [row[:-1] for row in shown] == [row[:-1] for row in made]
    assert all(float(row[-1]) < row_of.limit for row, row_of in zip(shown[2:], rows.values(), strict=True))


# Mistakes of one in a hundred thousand, planted on our side, turn the rows red.


def wrong_weight(patch):
    own = [each for each in vars(nl.processes).values() if isinstance(each, type) and "rate" in vars(each)]
    for process, name in ((nl.InterpolatingProcess, "rate_into"), *((process, "rate") for process in own)):
        rate = getattr(process, name)
        patch.setattr(process, name, lambda self, z, t, rate=rate: (1 + SLIP) * rate(self, z, t))


def wrong_slope_of_the_signal(patch):
    rate = nl.InterpolatingProcess.rate_into

    def slipped(self, z, t):
        time = nl.process.as_token_times(t, z)
        alpha, slope = torch.func.jvp(lambda t: self.alpha(t).double(), (time,), (torch.ones_like(time),))
        return rate(self, z, t) - SLIP * slope / alpha * self.noise(time).at(z)

    patch.setattr(nl.InterpolatingProcess, "rate_into", slipped)


def wrong_schedule(patch):
    """Every clock is a little slow in between. (One that is slow by a factor would leave a linear masking's loss as it is.)"""
    clocks = [(Time, name) for name in ("forward", "_value", "_complement")]
    for schedule, name in (*clocks, (Steps, "forward"), (TokenRates, "masked_share")):
        method = getattr(schedule, name)
        patch.setattr(schedule, name, lambda self, t, method=method: method(self, t - SLIP * t * (1 - t)))


MISTAKES = {
    wrong_weight: set(EQUALITIES) - IN_STEPS,
    wrong_slope_of_the_signal: set(EQUALITIES) - IN_STEPS - {"genmd4", "coarse", "neighbours", "absorbing hybrid"},
    wrong_schedule: set(EQUALITIES),
}


@pytest.mark.parametrize(
    ("mistake", "name"),
    [(mistake, name) for mistake, names in MISTAKES.items() for name in EQUALITIES if name in names],
)
def test_mistakes_are_seen(mistake, name, monkeypatch):
    mistake(monkeypatch)
    assert EQUALITIES[name].error() > 1e3 * EQUALITIES[name].limit


@settings(max_examples=8)
@given(share=st.floats(0.01, 0.95), gamma=st.floats(0.1, 2), seed=st.integers(0, 99))
def test_gidd_of_any_share_and_gamma(share, gamma, seed):
    process = nl.gidd(vocab_size=V, mask_id=MASK, p_uniform=share, gamma=gamma)
    for pair in bound(process, published.gidd(share, gamma, MASK, V), seed):
        assert relative_error(*pair) < 1e-9


@settings(max_examples=8)
@given(scale=st.floats(-1, 1), shift=st.floats(-4, 4), seed=st.integers(0, 99))
def test_log_snr_of_any_scale_and_shift(scale, shift, seed):
    process = nl.processes.log_snr_hybrid(vocab_size=V, mask_id=MASK, scale=scale, shift=shift)
    for pair in bound(process, published.log_snr(scale, shift, MASK, V), seed):
        assert relative_error(*pair) < 1e-9


# The processes themselves.


@settings(max_examples=25)
@given(scale=st.floats(-2, 2), shift=st.floats(-25, 25))
def test_the_condition_on_the_scale_is_that_of_a_markov_process(scale, shift):
    """pi - pi' >= 0 at every log-SNR, looked at on a fine grid."""
    snr = torch.linspace(-9, 9, 2001, dtype=torch.float64)
    share = torch.sigmoid(scale * snr + shift)
    slope = scale * share * (1 - share)
    falling = min((share - slope).min().item(), (1 - share + slope).min().item())
    steepest = abs(scale) / (1 + math.exp(math.copysign(1, scale) * (shift - 9 * scale)))
    if abs(steepest - 1) < 1e-6:
        return
    assert (steepest <= 1) == (falling >= -1e-16)
    if steepest > 1:
        with pytest.raises(ValueError, match="Markov process"):
            nl.processes.log_snr_hybrid(vocab_size=3, mask_id=2, scale=scale, shift=shift)
    else:
        nl.processes.log_snr_hybrid(vocab_size=3, mask_id=2, scale=scale, shift=shift)


def test_a_scale_that_is_refused_would_be_no_process():
    """The same weights, composed by hand, are refused by `validate`."""
    snr, share = 9 - 18 * nl.t, nl.schedules.sigmoid(1.2 * (9 - 18 * nl.t))
    alpha = nl.schedules.from_log_snr(snr)
    noises = {nl.Absorbing(2, 3): (1 - alpha) * (1 - share), nl.Uniform(torch.arange(3) < 2): (1 - alpha) * share}
    with pytest.raises(ValueError, match="not a Markov process"):
        nl.Interpolation(alpha, noises)


def test_shifts_as_released_are_pure_noises():
    time = torch.linspace(0, 1, 9, dtype=torch.float64)
    words, masks = (
        nl.processes.log_snr_hybrid(vocab_size=5, mask_id=4, shift=shift).mixing(time) for shift in (1000, -1000)
    )
    torch.testing.assert_close(words, torch.tensor([0.25, 0.25, 0.25, 0.25, 0]).double().expand(9, -1))
    torch.testing.assert_close(masks, torch.tensor([0, 0, 0, 0, 1]).double().expand(9, -1))


@pytest.mark.parametrize("shift", [0, 1000])
def test_the_log_snr_bound_needs_its_ends_and_is_tight_with_them(shift):
    process = nl.processes.log_snr_hybrid(vocab_size=5, mask_id=4, shift=shift)
    oracle, x = nl.MarkovOracle(INITIAL, TRANSITION, process), nl.likelihood.every_sequence(4, 2)
    law, entropy = oracle.log_prob(x).exp(), oracle.entropy(2)
    terms = [term @ law for term in nl.likelihood.expected_bound(process, oracle, x, nodes=96)]
    assert terms[0] < entropy - 1e-3
    assert entropy < sum(terms) < entropy + 2e-4


def test_the_first_release_ends_where_its_signal_does():
    check_process(nl.processes.gidd_v1_0(vocab_size=5, mask_id=4, p_uniform=0.2), BOUND_LAWS)
    for share, gamma in ((0.1, 1.0), (0.5, 0.7), (0.9, 2.0)):
        process = nl.processes.gidd_v1_0(vocab_size=5, mask_id=4, p_uniform=share, gamma=gamma)
        end = torch.tensor([process.domain[1]], dtype=torch.float64)
        assert 0 <= process.alpha(end).item() < 1e-6
        assert process.signal(end + 1e-6).item() < 0


def test_a_chain_has_the_laws_of_its_steps_on_the_grid_and_linear_signal_between():
    betas = torch.tensor([0.1, 0.3, 0.5, 1.0], dtype=torch.float64)
    row = torch.tensor([0.5, 0.3, 0.2], dtype=torch.float64)
    process = nl.processes.d3pm(nl.Unigram(row), betas)
    steps, time = published.replacing(betas, row), torch.arange(5, dtype=torch.float64) / 4
    x = torch.arange(3).expand(5, -1)
    law = torch.stack(
        [torch.linalg.multi_dot([torch.eye(3).double(), torch.eye(3).double(), *steps[:k]]) for k in range(5)]
    )
    torch.testing.assert_close(process.marginal(x, time), law)
    alpha = process.alpha(torch.cat([time[:-1], time[1:], (time[:-1] + time[1:]) / 2])).view(3, -1)
    torch.testing.assert_close(alpha[2], (alpha[0] + alpha[1]) / 2)


@pytest.mark.parametrize("steps", [1, 3, 20])
def test_absorbing_betas_are_masked_on_a_grid(steps):
    time = torch.arange(steps + 1, dtype=torch.float64) / steps
    chain = nl.processes.d3pm(nl.Absorbing(4, 5), nl.processes.absorbing_betas(steps))
    torch.testing.assert_close(chain.alpha(time), nl.masked(vocab_size=5, mask_id=4).alpha(time))


FREQUENCIES = torch.tensor([0.5, 0.3, 0.2, 0.0])


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: nl.uniform(vocab_size=4, special=[4]), r"must lie in \[0, 4\); got 4"),
        (lambda: nl.uniform(vocab_size=2, special=[0, 1]), "at least one token must be left"),
        (lambda: nl.masked(vocab_size=4, mask_id=4), r"absorbing token must lie in \[0, 4\)"),
        (lambda: nl.masked(vocab_size=4, mask_id=3, signal=nl.t), "alpha must be 1 at t = 0"),
        (lambda: nl.gidd(vocab_size=4, mask_id=3, p_uniform=1), r"p_uniform must lie in \[0, 1\); got 1"),
        (lambda: nl.gidd(vocab_size=4, mask_id=3, p_uniform=0.1, gamma=3), r"gamma must lie in \(0, 2\]; got 3"),
        (
            lambda: nl.processes.gidd_v1_0(vocab_size=4, mask_id=3, p_uniform=0),
            r"p_uniform must lie in \(0, 1\); got 0",
        ),
        (
            lambda: nl.processes.gidd_v1_0(vocab_size=4, mask_id=3, p_uniform=0.1, gamma=0),
            "gamma must be positive and finite; got 0",
        ),
        (
            lambda: nl.processes.log_snr_hybrid(vocab_size=4, mask_id=3, log_snr=(1, 9)),
            "log_snr must be a negative and a positive",
        ),
        (lambda: nl.processes.log_snr_hybrid(vocab_size=4, mask_id=3, log_snr=(-9, 5)), "alpha must be 1 at t = 0"),
        (
            lambda: nl.processes.log_snr_hybrid(vocab_size=4, mask_id=3, log_snr=(-5, 9)),
            "alpha must fall to 0 at t = 1",
        ),
        (lambda: nl.unigram(FREQUENCIES / 2), "row must be a distribution"),
        (
            lambda: nl.processes.mask_and_unigram(FREQUENCIES, mask_id=0, p_unigram=0.1),
            "the mask must have frequency 0; got 0.5",
        ),
        (
            lambda: nl.processes.mask_and_unigram(FREQUENCIES, mask_id=3, p_unigram=1.5),
            r"p_unigram must lie in \[0, 1\); got 1.5",
        ),
        (
            lambda: nl.processes.d3pm(nl.Uniform(4), torch.tensor([0.5, 1, 0.5])),
            "except that the last may be 1; got 0.5 to 1",
        ),
        (lambda: nl.processes.d3pm(nl.Uniform(4), torch.tensor([0.5, 0.0])), "betas must lie in"),
        (
            lambda: nl.processes.d3pm(nl.Uniform(4), torch.zeros(0)),
            r"betas must be a tensor of shape \[T\]; got shape \[0\]",
        ),
        (lambda: nl.processes.d3pm(nl.Uniform(4), torch.tensor([0.5, 0.5])), "alpha must fall to 0 at t = 1"),
    ],
)
def test_what_is_refused(make, message):
    with pytest.raises(ValueError, match=message):
        make()
