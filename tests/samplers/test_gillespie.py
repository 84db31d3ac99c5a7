"""The reverse chain event by event."""

import pytest
import torch
from exact_worlds import INITIAL, NOISES, TRANSITION, chi_square, generator, oracle_of, p_value

import noiselab as nl
from noiselab.process import as_token_times
from noiselab.processes.token_rates import TokenRates
from noiselab.samplers.candidates import Candidates
from noiselab.samplers.gillespie import FirstHittingSampler, GillespieSampler, _put


@pytest.mark.parametrize("steps", [1, 5])
def test_first_hitting_is_exact_whatever_the_grid(steps):
    process = NOISES["masked"]()
    counting = nl.denoisers.CallCounter(oracle_of(process))
    assert p_value(FirstHittingSampler(process, counting), steps=steps) > 1e-3
    assert counting.sequences == 4 * 10_000  # once for each token
    assert counting.calls == 4 or steps > 1


@pytest.mark.long_for("gidd", "uniform")
@pytest.mark.parametrize("name", NOISES)
def test_gillespie_is_exact_in_a_single_step(name):
    process = NOISES[name]()
    counting = nl.denoisers.CallCounter(oracle_of(process))
    assert p_value(GillespieSampler(process, counting), length=2, n=1000, steps=1) > 1e-3
    if name == "masked":  # never asked where nothing can change
        assert counting.calls == 2 and counting.sequences == 2 * 1000


class Between(nl.InterpolatingProcess):
    """Uniform noise on a part of time only, outside of which its methods must not be used."""

    domain = (0.25, 0.75)

    def alpha(self, t):
        assert ((t >= 0.25) & (t <= 0.75)).all()
        return 1.5 - 2 * t

    def mixing(self, t):
        assert ((t >= 0.25) & (t <= 0.75)).all()
        return torch.full((3,), 1 / 3)


def test_a_process_is_used_in_its_domain_only():
    process = Between()
    assert p_value(GillespieSampler(process, oracle_of(process)), length=2, n=500, steps=1) > 1e-3


def test_events_of_other_tokens_stay_when_some_are_drawn_again():
    """New events of one token, whether they are fewer or more than the old ones, also in sequences of one token."""
    times = torch.arange(24, dtype=torch.float64).view(2, 3, 4)
    old = Candidates(times, -times, times.long(), times / 2, times / 24)
    for width in (1, 6):
        new = Candidates(*(part[:, 0].repeat(1, width).view(2, -1)[:1, :width] for part in old))
        at = torch.tensor([1]), torch.tensor([2])
        for before, fresh, after in zip(old, new, _put(old, at, new), strict=True):
            kept = torch.ones(2, 3, dtype=torch.bool).index_put(at, torch.tensor(False))
            assert torch.equal(after[..., :4][kept], before[kept]) and torch.equal(after[at][0, :width], fresh[0])


def test_one_network_call_less_exact_is_seen(monkeypatch):
    """The planted mistake: all tokens of a sequence are evaluated at once, at the start of the step."""
    process = NOISES["masked"]()
    assert p_value(nl.AncestralSampler(process, oracle_of(process)), steps=1) < 1e-9

    def always(sampler, z, where, now, s, t):
        return oracle_of(process)(torch.full_like(z, 3), t)[torch.arange(len(z)), where]

    monkeypatch.setattr("noiselab.samplers.gillespie._evaluate", always)
    assert p_value(FirstHittingSampler(process, oracle_of(process)), steps=1) < 1e-9


@pytest.mark.parametrize("signal", [1 - nl.t, (1 - nl.t) ** 2, nl.schedules.cosine()], ids=str)
def test_masks_are_filled_at_the_times_of_the_schedule(signal):
    """By time s a mask at t has been filled with probability 1 - (1 - alpha_s) / (1 - alpha_t), independently."""
    process, n = nl.masked(vocab_size=4, mask_id=3, signal=signal), 20_000
    z = torch.full((n, 2), 3)
    s, t = torch.full((n,), 0.3).double(), torch.full((n,), 0.8).double()
    for kind in (FirstHittingSampler, GillespieSampler):
        after = kind(process, oracle_of(process)).step(z, t, s, generator=generator())
        left = (after == 3).double()
        p = ((1 - process.alpha(s[:1])) / (1 - process.alpha(t[:1]))).item()
        assert abs(left.mean() - p) < 5 * (p * (1 - p) / n / 2) ** 0.5
        assert abs(left.prod(-1).mean() - p**2) < 5 * (p**2 * (1 - p**2) / n) ** 0.5


@pytest.mark.parametrize("name", NOISES)
def test_gillespie_from_t_to_s_has_the_marginal_at_s(name):
    """Noisy data at t become noisy data at s: the law of pairs, by enumeration."""
    process, n = NOISES[name](), 3000
    oracle, t, s = oracle_of(process), torch.tensor([0.6]).double(), torch.tensor([0.25]).double()
    x = oracle.sample(n, 2, generator=generator())
    z = process.corrupt(x, t.expand(n), generator=generator(1))
    z = GillespieSampler(process, oracle).step(z, t.expand(n), s.expand(n), generator=generator(2))
    V = process.vocab_size
    like = process.likelihood(torch.arange(V)[None], s)[0][:, :3]  # q_s(z | x)
    want = torch.einsum("x,xy,ax,by->ab", INITIAL, TRANSITION, like, like).flatten()
    seen = torch.bincount(z[:, 0] * V + z[:, 1], minlength=V * V) / n
    assert ((seen - want).abs() <= 5 * (want * (1 - want) / n).sqrt() + 1e-9).all()


@pytest.mark.long_for("gidd", "uniform")
@pytest.mark.parametrize("name", NOISES)
def test_batched_equals_one_by_one_and_prompts_stay(name):
    process = NOISES[name]()
    kinds = [GillespieSampler, FirstHittingSampler] if name == "masked" else [GillespieSampler]
    for kind in kinds:
        sampler = kind(process, oracle_of(process))
        together = sampler.sample((2, 2), steps=1, generator=[generator(seed) for seed in range(2)])
        alone = [sampler.sample((1, 2), steps=1, generator=[generator(seed)]) for seed in range(2)]
        assert torch.equal(together, torch.cat(alone))
        t = torch.ones(2, 2, dtype=torch.float64)
        s, z = torch.zeros_like(t), process.prior(2, 2, generator=generator())
        t[:, 1], z[:, 1] = 0, 2
        kept = z.clone()
        after = sampler.step(z, t, s, generator=generator(1))
        assert (after[:, 1] == 2).all() and (after < 3).all() and torch.equal(z, kept)


def test_noise_that_does_not_fit_is_refused():
    uniform, gidd = NOISES["uniform"](), NOISES["gidd"]()
    for process in (uniform, gidd):
        with pytest.raises(ValueError, match="needs absorbing noise"):
            FirstHittingSampler(process, oracle_of(process))
    words, masks = torch.arange(5) < 3, {nl.Absorbing(3, 5): 0.5 * nl.t, nl.Absorbing(4, 5): 0.5 * nl.t}
    word = nl.Unigram(torch.tensor([0.0, 0.0, 1.0]))
    # Two masks; and noise that is always one token, which occurs in the data.
    for process in (nl.Interpolation(1 - nl.t, masks, support=words), nl.Interpolation(1 - nl.t, {word: nl.t})):
        with pytest.raises(ValueError, match="needs absorbing noise on one token outside the data"):
            FirstHittingSampler(process, oracle_of(process))
    process = TokenRates(torch.tensor([1.0, 2.0, 0.5, 1.0]), mask_id=3)
    with pytest.raises(ValueError, match="needs an InterpolatingProcess; got"):
        GillespieSampler(process, oracle_of(process))


def test_a_users_own_masking_is_masking():
    class Own(nl.InterpolatingProcess):
        def alpha(self, t):
            return 1 - t**2

        def mixing(self, t):
            return torch.tensor([0.0, 0.0, 0.0, 1.0])

    process = Own(torch.arange(4) < 3)
    assert p_value(FirstHittingSampler(process, oracle_of(process)), n=4000, steps=1) > 1e-3


class Opinion(nl.Denoiser):
    """A denoiser that is wrong: an opinion on each token from the other one of two, which changes with time."""

    predicts = "leave_one_out"

    def __init__(self):
        super().__init__()
        self.table = torch.randn(2, 4, 4, generator=generator(5), dtype=torch.float64)

    def forward(self, z, t):
        t = as_token_times(t, z).expand(z.shape)
        logits = torch.stack([self.table[i][z[:, 1 - i]] * (1 + torch.cos(5 * t[:, i, None])) for i in range(2)], 1)
        return logits.index_fill(-1, torch.tensor(3), -torch.inf)


def hybrid_masses(t):
    """alpha and b of `gidd` with a fifth of uniform tokens of three at t = 1/2, and the rate into each token."""

    def masses(t):
        uniform = 0.5 * (t * (1 - t)) ** 0.5
        return (1 - t) / (1 + uniform), torch.stack([*3 * [uniform / 3], t]) / (1 + uniform)

    (alpha, b), h = masses(t), 1e-6
    (alpha_after, b_after), (alpha_before, b_before) = masses(t + h), masses(t - h)
    return alpha, b, ((b_after - b_before) - (alpha_after - alpha_before) / alpha * b) / (2 * h)


def reverse_rates(denoiser, t):
    """The rate of each pair to each other pair by one reverse jump, entry by entry, [16, 16]."""
    alpha, b, into = hybrid_masses(t)
    pairs = torch.cartesian_prod(torch.arange(4), torch.arange(4))
    predicted = denoiser(pairs, t.expand(16)).softmax(-1)
    rates = torch.zeros(16, 16, dtype=torch.float64)
    for k, pair in enumerate(pairs.tolist()):
        for place in range(2):
            q = alpha * predicted[k, place] + b
            for y in set(range(4)) - {pair[place]}:
                after = list(pair)
                after[place] = y
                rates[k, 4 * after[0] + after[1]] = into[pair[place]] * q[y] / q[pair[place]]
    return rates


def test_the_law_of_pairs_solves_the_master_equation_of_a_wrong_denoiser():
    """The reverse chain of any denoiser, by integrating its rates from t to s with Runge and Kutta's method."""
    process, denoiser, n, steps = NOISES["gidd"](), Opinion(), 20_000, 200
    t, s = torch.tensor(0.95).double(), torch.tensor(0.1).double()
    law, h = torch.zeros(16, dtype=torch.float64), (t - s) / steps
    law[4 * 3 + 1] = 1  # a mask and a token

    def slope(law, time):
        rates = reverse_rates(denoiser, time)
        return law @ rates - law * rates.sum(-1)

    for k in range(steps):
        now = t - k * h
        first = slope(law, now)
        second = slope(law + h / 2 * first, now - h / 2)
        third = slope(law + h / 2 * second, now - h / 2)
        fourth = slope(law + h * third, now - h)
        law = law + h / 6 * (first + 2 * second + 2 * third + fourth)
    z = torch.tensor([[3, 1]]).expand(n, -1)
    z = GillespieSampler(process, denoiser).step(z, t.expand(n), s.expand(n), generator=generator())
    assert chi_square(z, law, tokens=4) > 1e-3


def test_looking_ahead_saves_calls_and_changes_nothing(monkeypatch):
    process = NOISES["gidd"]()
    counting = nl.denoisers.CallCounter(oracle_of(process))
    sampler = GillespieSampler(process, counting)

    def sample():
        return sampler.sample((3, 6), steps=2, generator=[generator(seed) for seed in range(3)])

    ahead = sample()
    calls = counting.calls
    counting.reset()
    monkeypatch.setattr("noiselab.samplers.gillespie.TOKENS_AT_ONCE", 0)
    assert torch.equal(sample(), ahead)
    assert counting.calls > 2 * calls


def test_clocks_are_inverted_for_all_tokens_at_once():
    """A hundred sequences of twelve tokens: the schedule is evaluated a few times per call of the network."""
    evaluated = []

    def falling(t):
        evaluated.append(t.numel())
        return 1 - t

    process = nl.Interpolation(
        falling, {nl.Absorbing(3, 4): nl.t, nl.Uniform(torch.arange(4) < 3): 0.5 * (nl.t * (1 - nl.t)) ** 0.5}
    )
    counting = nl.denoisers.CallCounter(oracle_of(process))
    sampler = GillespieSampler(process, counting)
    evaluated.clear()
    sampler.sample((100, 12), steps=1, generator=generator())
    assert counting.calls < 100 and len(evaluated) < 15 * counting.calls
