"""The exact denoiser's bound is the entropy, for every ready-made process; and what holds of truncated time ranges."""

import pytest
import torch
from small_worlds import LEAKY, SMALL, Turning, known, world
from worlds import INITIAL, PROCESSES, TRANSITION, Stranger

import noiselab as nl
from noiselab.process import as_token_times

ROOTS = [name for name in SMALL if "gidd" in name and "gamma" not in name]


def surplus_of(process, oracle, x, low=0.0, high=None, denoiser=None):
    """The bound of each x minus -log p(x), which it equals for the exact denoiser; and its terms."""
    terms = nl.likelihood.expected_bound(process, denoiser or oracle, x, low=low, high=high)
    return terms.total + oracle.log_prob(x), terms


@pytest.mark.long_for("gidd 0.1-6", "gidd, gamma 2-6", "coarse masked-6")
@pytest.mark.parametrize("length", [1, 3, 6])
@pytest.mark.parametrize("name", SMALL)
def test_by_enumeration_the_bound_is_the_entropy(name, length):
    process, oracle, x, p, entropy = world(name, length, seed=length)
    if len(x) > 100:  # three data tokens: the bound is that of every x by itself
        x, p = x[::29], p[::29]
    surplus, _ = surplus_of(process, oracle, x)
    gap, worst = (p * surplus).sum().item(), surplus.abs().max().item()
    print(f"{name}, length {length}: entropy {entropy:.6f}, bound - entropy {gap:+.1e}, for any x at most {worst:.1e}")
    # What is left at the published ends of the log-SNR, -9 and 9, is in the process, and no error of the bound.
    assert -1e-8 < gap < (3e-4 if name == LEAKY else 1e-8)
    assert worst < (1e-2 if name == LEAKY else 1e-6)


@pytest.mark.long
def test_what_the_log_snr_leaves_at_its_ends_falls_with_its_range():
    """The excess of the published range, -9 to 9, is noise and signal left at the ends: e^-9 of them."""
    gaps = []
    for end in (7, 9, 12):
        process = nl.processes.log_snr_hybrid(vocab_size=3, mask_id=2, shift=1, log_snr=(-end, end))
        oracle, x, p, _ = known(process, 6, seed=6)
        times = nl.times.quadrature(240)
        terms = nl.likelihood.expected_bound(process, oracle, x, times=times)
        gaps.append((p * (terms.total + oracle.log_prob(x))).sum().item())
    print("bound - entropy of six tokens, log-SNR up to 7, 9, 12:", *(f"{gap:.1e}" for gap in gaps))
    assert 1e-3 > gaps[0] > 4 * gaps[1] > 40 * gaps[2] > 0 and gaps[1] < 1e-4


@pytest.mark.parametrize("name", PROCESSES)
def test_it_is_for_larger_vocabularies(name):
    process = PROCESSES[name]().requires_grad_(False)
    oracle = nl.MarkovOracle(INITIAL, TRANSITION, process)
    x = nl.likelihood.every_sequence(oracle.tokens, 2)
    surplus, _ = surplus_of(process, oracle, x)
    gap = (oracle.log_prob(x).exp() * surplus).sum().item()
    print(f"{name}: {gap:+.1e}")
    assert -1e-8 < gap < 1e-4


def drawn_surplus(process):
    oracle = nl.MarkovOracle(INITIAL, TRANSITION, process)
    generator = torch.Generator().manual_seed(1)

    def surplus():
        x = oracle.sample(400, 5, generator=generator)
        return nl.continuous_bound(process, oracle, x, generator=generator).total + oracle.log_prob(x)

    found = nl.likelihood.average(surplus, 16)
    print(f"bound - entropy {found} of {oracle.entropy(5):.4f}")
    assert found.error < 0.05 * oracle.entropy(5)
    return found


@pytest.mark.parametrize("name", ["masked", "gidd", "chain", "stranger"])
def test_by_drawing_the_bound_is_the_entropy(name):
    """On other processes by enumeration, above; that draws have their law is a law of each process."""
    assert abs(drawn_surplus(PROCESSES[name]().requires_grad_(False)).distance(0)) < 3


class EarlyCorruption(Stranger):
    def corrupt(self, x, t, *, generator=None):
        return super().corrupt(x, 0.9 * t, generator=generator)


def test_noise_drawn_too_early_breaks_the_identity():
    assert abs(drawn_surplus(EarlyCorruption()).distance(0)) > 4


@pytest.mark.parametrize("name", SMALL)
def test_the_posterior_is_no_leave_one_out_prediction(name):
    """Declared as what it is, it is converted; passed off as leave-one-out, it costs more than the entropy."""
    process, oracle, x, p, _ = world(name, 3, seed=1)
    posterior = nl.denoisers.Posterior(oracle, process)
    right, _ = surplus_of(process, oracle, x, denoiser=posterior)
    assert abs((p * right).sum()) < (1e-3 if name == LEAKY else 1e-4)
    posterior.predicts = "leave_one_out"
    wrong, _ = surplus_of(process, oracle, x, denoiser=posterior)
    print(f"{name}: posterior as leave-one-out {(p * wrong).sum():+.4f}")
    assert ((p * wrong).sum() > 0.05) == ("masked" not in name)


class SlowRate(Turning):
    def rate_into(self, z, t):
        return 0.999 * super().rate_into(z, t)


class ForgottenSignal(Turning):
    """A rate without its second term, (alpha'/alpha) b."""

    def rate_into(self, z, t):
        t = as_token_times(t, z)
        return torch.func.jvp(lambda t: self.noise(t).at(z), (t,), (torch.ones_like(t),))[1]


@pytest.mark.parametrize("wrong", [SlowRate, ForgottenSignal])
def test_planted_mistakes_break_the_identity(wrong):
    process = wrong()
    oracle, x, p, _ = known(process, 3)
    surplus, _ = surplus_of(process, oracle, x)
    assert (p * surplus).sum() < -1e-3


@pytest.mark.parametrize("eps", [1e-2, 1e-3, 1e-4, 1e-5])
@pytest.mark.parametrize("name", [name for name in SMALL if name not in (LEAKY, "chain")])
def test_truncated_it_stays_a_bound(name, eps):
    process, oracle, x, p, entropy = world(name, 3)
    high = process.domain[1] * (1 - eps)
    surplus, terms = surplus_of(process, oracle, x, low=eps, high=high)
    diffusion, rebuilt, prior = (v.item() for v in terms.mean(p))
    gap = (p * surplus).sum().item()
    print(
        f"{name} over [{eps:g}, {high:g}]: {diffusion:.6f} + {rebuilt:.6f} + {prior:.6f} - {entropy:.6f} = {gap:+.2e}; "
        f"without reconstruction {gap - rebuilt:+.2e}, without prior {gap - prior:+.2e}"
    )
    assert -1e-8 < gap < 0.1
    if name in ROOTS:  # square-root noise
        assert gap - rebuilt < -0.005 * (eps / 1e-5) ** 0.3
    if high < process.domain[1]:
        assert prior > 0


@pytest.mark.parametrize("name", ["gidd 0.5", "uniform", "turning"])
def test_stopped_early_without_the_prior_it_is_none(name):
    process, oracle, x, p, _ = world(name, 3)
    surplus, terms = surplus_of(process, oracle, x, high=0.8)
    assert (p * surplus).sum() > 0 > (p * (surplus - terms.prior)).sum() + 1e-3


def test_masking_stopped_early_pays_for_what_is_still_seen():
    process, oracle, x, p, _ = world("masked", 3)
    surplus, terms = surplus_of(process, oracle, x, high=0.9)
    assert terms.prior.isfinite().all() and 1 > (p * surplus).sum() > 0 > (p * (surplus - terms.prior)).sum() + 1e-3
    assert (nl.likelihood.expected_bound(*world("masked, cosine", 2)[:3]).prior == 0).all()  # cos(pi / 2) is 6e-17


@pytest.mark.parametrize("name", ["gidd 0.5", "uniform", "masked"])
def test_any_denoiser_pays_more(name):
    process, oracle, x, p, _ = world(name, 3)
    for wrong in (nl.Temperature(oracle, 0.7), nl.Temperature(oracle, 1.5)):
        surplus, _ = surplus_of(process, oracle, x, denoiser=wrong)
        assert (p * surplus).sum() > 0.01
