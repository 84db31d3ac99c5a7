"""A process by another clock: its laws, its bound, and what is refused."""

import pytest
import torch
from torch.testing import assert_close
from worlds import DATA, INITIAL, PROCESSES, TRANSITION, V, row

import noiselab as nl
from noiselab import schedules as S
from noiselab import t
from noiselab.testing import check_process

CLOCKS = {
    "square": t**2,
    "sine": S.sin(S.pi / 2 * t),
    "network": S.MonotoneNetwork(5, rising=True),
}
U = torch.linspace(0.05, 0.95, 10, dtype=torch.float64)


def scene(process, times=U):
    generator = torch.Generator().manual_seed(0)
    x = torch.randint(V, (len(times), 3), generator=generator)
    if process.support is not None:
        x = process.support.nonzero()[:, 0][x % int(process.support.sum())]
    logits = torch.randn(len(times), 3, V, generator=generator, dtype=torch.float64)
    return x, process.corrupt(x, times, generator=generator), logits


def bound_is_stretched(process, inner, clock):
    x, z, logits = scene(process)
    stretch = clock.derivative(U)[:, None]
    assert_close(nl.nelbo(process, logits, x, z, U), stretch * nl.nelbo(inner, logits, x, z, clock(U)))
    dense = nl.elbo.nelbo_dense(process, logits, x, z, U)
    assert_close(dense, stretch * nl.elbo.nelbo_dense(inner, logits, x, z, clock(U)))


@pytest.mark.parametrize("clock", CLOCKS.values(), ids=CLOCKS)
@pytest.mark.parametrize("name", ["gidd", "mask and unigram", "stranger", "learned", "fixed row"])
@torch.no_grad()
def test_the_bound_is_the_inner_one_times_the_slope_of_the_clock(name, clock):
    inner = PROCESSES[name]()
    bound_is_stretched(nl.process.ChangeOfTime(inner, clock), inner, clock)


@torch.no_grad()
def test_that_law_sees_mistakes():
    inner, clock = PROCESSES["stranger"](), CLOCKS["square"]

    class Forgetful(nl.process.ChangeOfTime):
        def mixing(self, t):
            return self.process.mixing(t)  # the inner mixing at the outer time

        def noise(self, t):
            return nl.InterpolatingProcess.noise(self, t)

    with pytest.raises(AssertionError):
        bound_is_stretched(Forgetful(inner, clock), inner, clock)
    with pytest.raises(AssertionError):
        bound_is_stretched(nl.process.ChangeOfTime(inner, clock), inner, t)


@pytest.mark.parametrize("name", ["gidd", "stranger", "sparse unigram"])
def test_it_is_a_process(name):
    check_process(nl.process.ChangeOfTime(PROCESSES[name](), CLOCKS["sine"]))


@torch.no_grad()
def test_laws_and_steps_are_the_inner_ones():
    inner = PROCESSES["gidd"]()
    process = nl.process.ChangeOfTime(inner, t**2)
    x, z, logits = scene(process)
    u, v = U * 0.7, U
    assert_close(process.marginal(x, v), inner.marginal(x, v**2))
    for ours, theirs in zip(
        process.factored_transition(z, u, v), inner.factored_transition(z, u**2, v**2), strict=True
    ):
        assert_close(ours, theirs)
    x_hat = logits.masked_fill(~DATA, -torch.inf).softmax(-1)
    assert_close(process.posterior(z, x_hat, u, v), inner.posterior(z, x_hat, u**2, v**2))
    drawn = [
        p.corrupt(x, time, generator=torch.Generator().manual_seed(1)) for p, time in ((process, v), (inner, v**2))
    ]
    assert torch.equal(*drawn)
    assert torch.equal(process.support, inner.support) and process.vocab_size == inner.vocab_size


def test_time_may_differ_by_token():
    process = nl.process.ChangeOfTime(PROCESSES["stranger"](), t**2)
    x, z, logits = scene(process)
    times = torch.stack([U, U.flip(0), U / 2], 1)
    one_by_one = [nl.nelbo(process, logits[:, [i]], x[:, [i]], z[:, [i]], times[:, i]) for i in range(3)]
    assert_close(nl.nelbo(process, logits, x, z, times), torch.cat(one_by_one, 1))


def test_an_exact_denoiser_is_as_good_by_every_clock():
    """The integral over time stays, and so do samples: a denoiser that is given another time returns the same."""
    inner = PROCESSES["gidd"]()
    x = torch.tensor([[0, 1]])
    for process in (inner, nl.process.ChangeOfTime(inner, CLOCKS["network"](t**2))):
        oracle = nl.MarkovOracle(INITIAL, TRANSITION, process)
        bound = nl.likelihood.expected_bound(process, oracle, x, nodes=40).total
        assert_close(bound, -oracle.log_prob(x), rtol=1e-4, atol=1e-4)


@torch.no_grad()
def test_a_process_gets_any_signal():
    inner, cosine = PROCESSES["gidd"](), S.cosine()
    process = nl.process.ChangeOfTime(inner, nl.schedules.Function(inner.alpha).inverse(cosine))
    assert_close(process.alpha(U), cosine(U))
    bound_is_stretched(process, inner, process.clock)


@torch.no_grad()
def test_the_domain_is_the_inverse_image():
    inner = nl.Interpolation(1 - t, {nl.Uniform(3): t}, domain=(0.04, 0.81))
    process = nl.process.ChangeOfTime(inner, t**2)
    assert process.domain == pytest.approx((0.2, 0.9), abs=1e-12)
    assert process.inner_time(torch.tensor(process.domain)).tolist() == pytest.approx([0.04, 0.81])


@pytest.mark.parametrize(
    ("clock", "message"),
    [
        (1 - t, r"must rise from t = 0 to t = 1; got 1 - t, with 1 to 0"),
        (nl.schedules.Function(lambda t: (t - 0.3).clamp(min=0) / 0.7), "must rise from"),
        (nl.schedules.Function(lambda t: t * torch.nan), "must rise from"),
        (t / 2, r"run through the domain of the process, 0 to 1; got t / 2, from 0 to 0.5"),
        (0.1 + 0.9 * t, "run through the domain"),
        (nl.schedules.Function(lambda t: t / 2 + (t > 0.4) / 2), "alpha must be continuous"),
    ],
)
def test_bad_clocks(clock, message):
    with pytest.raises(ValueError, match=message):
        nl.process.ChangeOfTime(nl.masked(vocab_size=V, mask_id=4), clock)


def test_a_learned_clock_gets_its_gradient():
    clock = S.MonotoneNetwork(3, rising=True)
    process = nl.process.ChangeOfTime(nl.Interpolation(1 - t, {nl.Unigram(row(0.4, 0.3, 0.1, 0.1, 0.1)): t}), clock)
    x, z, logits = scene(process)
    nl.nelbo(process, logits, x, z, U).sum().backward()
    for parameter in clock.parameters():
        for i in range(len(parameter)):
            sums = []
            for step in (1e-5, -1e-5):
                with torch.no_grad():
                    parameter[i] += step
                    sums.append(nl.nelbo(process, logits, x, z, U).sum())
                    parameter[i] -= step
            assert_close(parameter.grad[i], (sums[0] - sums[1]) / 2e-5, rtol=1e-5, atol=1e-6)
