"""ReMDM and DDIM for any noise."""

import pytest
import torch
from exact_worlds import NOISES, generator, law_of, oracle_of, p_value
from worlds import PROCESSES, V

import noiselab as nl
from noiselab.correctors.remasking import RemaskingCorrector
from noiselab.samplers.deterministic import DeterministicSampler
from noiselab.samplers.remasking import RemaskingSampler, remasking_move

X_HAT = torch.tensor([0.1, 0.5, 0.25, 0.15, 0.0], dtype=torch.float64)
TIMES = [(1.0, 0.9), (0.7, 0.4), (0.3, 0.28), (0.2, 0.0), (0.015, 0.005)]


def remdm(z, mask, alpha_s, alpha_t, sigma):
    """The published step for masking: Wang et al. (2025), equation 4, its mean over X_HAT."""
    law = torch.zeros(V).double()
    if z != mask:
        law[z], law[mask] = 1 - sigma, sigma
        return law
    law += (alpha_s - (1 - sigma) * alpha_t) / (1 - alpha_t) * X_HAT
    law[mask] = (1 - alpha_s - sigma * alpha_t) / (1 - alpha_t)
    return law


def published_sigma(schedule, eta, alpha_s, alpha_t):
    largest = min(1.0, (1 - alpha_s) / alpha_t) if alpha_t > 0 else 1.0
    return min(eta, largest) if schedule == "cap" else eta * largest


@pytest.mark.parametrize(("t", "s"), TIMES)
@pytest.mark.parametrize(
    ("schedule", "eta"), [("cap", 0.02), ("cap", 0.5), ("cap", 1.0), ("rescale", 0.1), ("rescale", 1.0)]
)
def test_for_masks_each_step_is_the_published_one(schedule, eta, t, s):
    process = nl.masked(vocab_size=V, mask_id=V - 1)
    sampler = RemaskingSampler(process, oracle(process), schedule, amount=eta)
    for z in (1, V - 1):
        if t == 1 and z != V - 1:
            continue
        tokens, times = torch.tensor([[z]]), [torch.tensor([[time]], dtype=torch.float64) for time in (s, t)]
        kappa = sampler.keeping(tokens, *times)
        move = remasking_move(process, tokens, *times, kappa)
        mask = torch.zeros(V).double().index_fill(0, torch.tensor(V - 1), 1)
        at = X_HAT if z == V - 1 else torch.zeros(V).double().index_fill(0, torch.tensor(z), 1)
        want = remdm(z, V - 1, 1 - s, 1 - t, published_sigma(schedule, eta, 1 - s, 1 - t))
        torch.testing.assert_close(law_of(move, z, at, mask), want, rtol=0, atol=1e-12)


def oracle(process):
    return oracle_of(process) if process.vocab_size < 5 else nl.MarkovOracle(X_HAT[:4], X_HAT[:4].expand(4, 4), process)


def averaged(process, z, s, t, kappa, x_hat):
    """kappa q(z_s | z_t, x) + (1 - kappa) q_s(z_s | x), its mean over the posterior of x, by Bayes' rule and matrices."""
    states = torch.arange(process.vocab_size)[None]
    like_s, like_t = (process.likelihood(states, time)[0] for time in (s, t))  # [z, x]
    posterior = x_hat * like_t[z]
    posterior = posterior / posterior.sum()
    keep, fresh = process.factored_transition(torch.tensor([[z]]), s, t)
    jump = fresh + keep * (states[0] == z)
    law = torch.zeros(process.vocab_size).double()
    for x, p in enumerate(posterior.tolist()):
        if p > 0:
            reverse = jump[0] * like_s[:, x]
            law += p * (kappa * reverse / reverse.sum() + (1 - kappa) * like_s[:, x])
    return law


@pytest.mark.parametrize("name", ["masked", "gidd", "uniform", "mask and unigram", "stranger"])
@pytest.mark.parametrize("kappa", [1.0, 0.6, 0.0])
def test_the_masses_are_those_of_the_mixture(name, kappa):
    process = PROCESSES[name]()
    x_hat = X_HAT * process.data_tokens()
    for t, s in ((0.9, 0.5), (0.5, 0.45), (0.3, 0.0)):
        t, s = torch.tensor([t], dtype=torch.float64), torch.tensor([s], dtype=torch.float64)
        noise = process.noise(s[:, None])
        total = noise.total()[0, 0]
        source = noise.dense()[0, 0] / total if total > 0 else torch.full((V,), 0.2).double()
        for z in range(V):
            if process.is_clean(torch.tensor([[z]]), t) and x_hat[z] == 0:
                continue
            k = torch.tensor([[kappa]], dtype=torch.float64)
            move = remasking_move(process, torch.tensor([[z]]), s, t, k)
            torch.testing.assert_close(
                law_of(move, z, x_hat, source), averaged(process, z, s, t, kappa, x_hat), rtol=1e-9, atol=1e-12
            )


@pytest.mark.parametrize("name", NOISES)
@pytest.mark.parametrize("make", ["cap", "rescale", "share"])
def test_draws_have_the_law_of_the_masses(name, make):
    """Every noisy data set at t becomes noisy data at s with the right marginal of each token, whatever is redrawn."""
    process, n = NOISES[name](), 40_000
    if make == "share" and name == "gidd":
        return
    o = oracle_of(process)
    sampler = (
        DeterministicSampler(process, o, share=0.7)
        if make == "share"
        else RemaskingSampler(process, o, make, amount=0.4)
    )
    t, s = torch.tensor([0.6]).double(), torch.tensor([0.35]).double()
    x = o.sample(n, 2, generator=generator())
    z = process.corrupt(x, t.expand(n), generator=generator(1))
    after = sampler.step(z, t.expand(n), s.expand(n), generator=generator(2))
    clean = torch.stack([torch.bincount(column, minlength=process.vocab_size) / n for column in x.T]).double()
    want = process.marginal(clean[None], s)[0]
    share = torch.stack([torch.bincount(column, minlength=process.vocab_size) / n for column in after.T])
    assert ((share - want).abs() <= 5.5 * (want * (1 - want) / n).sqrt() + 1e-9).all()
    changed = (after != z).double().mean()
    ancestral = (
        (nl.AncestralSampler(process, o).step(z, t.expand(n), s.expand(n), generator=generator(2)) != z).double().mean()
    )
    assert changed > ancestral  # it goes back as well


def test_without_remasking_it_is_the_ancestral_sampler():
    for make in NOISES.values():
        process = make()
        o = oracle_of(process)
        a = nl.AncestralSampler(process, o).sample((200, 5), steps=6, generator=generator())
        b = RemaskingSampler(process, o, amount=0).sample((200, 5), steps=6, generator=generator())
        assert (a == b).double().mean() > 0.999 and RemaskingSampler(process, o, amount=0).converges


@pytest.mark.long_for("uniform")
@pytest.mark.parametrize("name", ["masked", "uniform"])
def test_ddim_tends_to_the_law_of_the_data(name):
    process = NOISES[name]()
    sampler = DeterministicSampler(process, oracle_of(process))
    grid = torch.linspace(1, 0, 193, dtype=torch.float64)
    assert p_value(sampler, times=grid) > 1e-3 and sampler.converges
    assert p_value(sampler, steps=6) < 1e-6


def test_ddim_draws_no_noise():
    """Under uniform noise with share 1 a step takes only tokens that the prediction allows; the ancestral step does not."""
    process = nl.uniform(vocab_size=4)

    class Never(nl.Denoiser):
        def forward(self, z, t, rows=None):
            logits = torch.tensor([0.0, 0.0, -torch.inf, -torch.inf]).expand(*z.shape, -1)
            return logits if rows is None else logits[rows]

    z, t, s = torch.zeros(4000, 3, dtype=torch.long), torch.full((4000,), 0.9), torch.full((4000,), 0.5)
    assert (DeterministicSampler(process, Never()).step(z, t, s, generator=generator()) < 2).all()
    assert (nl.AncestralSampler(process, Never()).step(z, t, s, generator=generator()) >= 2).any()


def test_the_least_noise_is_ddims_formula():
    """sigma 1[z] + (a_s - sigma a_t) p + (b_s - sigma b_t), written out, for uniform noise and any share."""
    process, n = nl.uniform(vocab_size=4), 60_000
    x_hat = torch.tensor([0.1, 0.2, 0.3, 0.4]).double()

    class Fixed(nl.Denoiser):
        def forward(self, z, t, rows=None):
            logits = x_hat.log().expand(*z.shape, -1)
            return logits if rows is None else logits[rows]

    a_t, a_s = 0.4, 0.7
    for share in (1.0, 0.5, 0.0):
        sigma = share * min((1 - a_s) / (1 - a_t), a_s / a_t)
        posterior = x_hat * (a_t * (torch.arange(4) == 2) + (1 - a_t) / 4)
        posterior = posterior / posterior.sum()
        want = sigma * (torch.arange(4) == 2) + (a_s - sigma * a_t) * posterior + (1 - a_s - sigma * (1 - a_t)) / 4
        z, t, s = torch.full((n, 1), 2), torch.full((n,), 1 - a_t).double(), torch.full((n,), 1 - a_s).double()
        y = DeterministicSampler(process, Fixed(), share=share).step(z, t, s, generator=generator())
        seen = torch.bincount(y[:, 0], minlength=4) / n
        assert ((seen - want).abs() <= 5 * (want * (1 - want) / n).sqrt()).all()


def test_confidence_remasks_where_the_model_doubts():
    process = nl.masked(vocab_size=4, mask_id=3)

    class Doubting(nl.Denoiser):
        def forward(self, z, t, rows=None):
            logits = torch.zeros(*z.shape, 4)
            logits[:, 0] = torch.tensor([-9.0, 5.0, 5.0, 0.0])
            return logits if rows is None else logits[rows]

    z, t, s = torch.zeros(20_000, 4, dtype=torch.long), torch.full((20_000,), 0.5), torch.full((20_000,), 0.49)
    after = RemaskingSampler(process, Doubting(), "confidence", amount=0.5).step(z, t, s, generator=generator())
    share = (after == 3).double().mean(0)
    p = torch.tensor([1 / (1 + 2 * torch.tensor(14.0).exp()), 1 / 3, 1 / 3, 1 / 3]).double()
    want = 0.5 * min(1, 0.49 / 0.5) * (-p).softmax(0)
    assert ((share - want).abs() < 5 * (want / 20_000).sqrt()).all() and share[0] > share[1]


@pytest.mark.parametrize("name", NOISES)
def test_the_loop_leaves_single_tokens_law_alone_and_masks_the_number_that_it_fills(name):
    process, n = NOISES[name](), 40_000
    o, t = oracle_of(process), torch.tensor([0.5]).double()
    z = process.corrupt(o.sample(n, 3, generator=generator()), t.expand(n), generator=generator(1))
    after = RemaskingCorrector(process, o, amount=0.3).step(z, t.expand(n), generator=generator(2))
    before, later = (
        torch.stack([torch.bincount(column, minlength=process.vocab_size) / n for column in tokens.T])
        for tokens in (z, after)
    )
    assert (after != z).double().mean() > 0.1 and (before - later).abs().max() < 5 * (0.5 / n) ** 0.5
    rows = torch.tensor([[True, False, True]]).expand(n, -1)
    some = RemaskingCorrector(process, o, amount=0.3).step(z, t.expand(n), rows=rows, generator=generator(2))
    assert torch.equal(some[:, 1], z[:, 1])


@pytest.mark.parametrize("name", NOISES)
def test_batched_equals_one_by_one_and_equal_times_stay(name):
    process = NOISES[name]()
    o = oracle_of(process)
    samplers = [RemaskingSampler(process, o, schedule, amount=0.3) for schedule in ("cap", "rescale", "confidence")]
    samplers += [DeterministicSampler(process, o, share=0.8)] if name != "gidd" else []
    for sampler in samplers:
        together = sampler.sample((4, 5), steps=6, generator=[generator(seed) for seed in range(4)])
        alone = [sampler.sample((1, 5), steps=6, generator=[generator(seed)]) for seed in range(4)]
        assert torch.equal(together, torch.cat(alone)) and (together < 3).all()
        t = torch.full((200, 5), 0.7, dtype=torch.float64)
        z = process.corrupt(torch.zeros(200, 5, dtype=torch.long), t, generator=generator())
        s = t.clone()
        s[:, ::2] = 0
        after = sampler.step(z, t, s, generator=generator(1))
        assert torch.equal(after[:, 1::2], z[:, 1::2])


def test_what_does_not_fit_is_refused():
    process = NOISES["gidd"]()
    o = oracle_of(process)
    with pytest.raises(ValueError, match="needs a time-constant mixing"):
        DeterministicSampler(process, o)
    with pytest.raises(ValueError, match=r"share must lie in \[0, 1\]; got 2"):
        DeterministicSampler(NOISES["uniform"](), oracle_of(NOISES["uniform"]()), share=2.0)
    with pytest.raises(ValueError, match=r"amount must lie in \[0, 1\]; got -0.1"):
        RemaskingSampler(process, o, amount=-0.1)
    with pytest.raises(ValueError, match="between must be"):
        RemaskingSampler(process, o, between=(0.6, 0.5))
