"""Noise that depends on the token it destroys: overrides against definitions, laws by enumeration, the bound."""

import itertools
import math

import pytest
import torch
from families.by_token import CIRCLE
from family import gather
from worlds import PROCESSES, Stranger, copies, row

import noiselab as nl
from noiselab.denoisers.transforms import LeaveOneOut, Posterior
from noiselab.process import TokenDependentProcess
from noiselab.processes.coarse import Coarse
from noiselab.processes.neighbours import Neighbours
from noiselab.processes.token_rates import TokenRates

t = nl.t


class Pairs(TokenDependentProcess):
    """A user's process, in two methods: tokens are confused in pairs, then masked."""

    def alpha(self, t):
        return (1 - t) ** 2

    def mixing(self, t):
        confused = torch.block_diag(*2 * [torch.full((2, 2), 0.5)], torch.ones(1, 1)).to(t)
        mask = torch.eye(5)[4].to(t).expand(5, 5)
        share = ((1 - t) / (2 - t))[..., None, None]
        return share * confused + (1 - share) * mask


class Matrices(TokenDependentProcess):
    """An interpolating process written with matrices of equal rows."""

    def __init__(self, inner):
        super().__init__(inner.support)
        self.inner = inner

    def alpha(self, t):
        return self.inner.alpha(t)

    def mixing(self, t):
        states = self.inner.vocab_size
        return self.inner.mixing(t).double().expand(*t.shape, states)[..., None, :].expand(*t.shape, states, states)


class Bare(TokenDependentProcess):
    """The two methods of a process, and nothing else of it."""

    def __init__(self, inner):
        super().__init__(inner.support)
        self.inner = inner

    def alpha(self, t):
        return self.inner.alpha(t)

    def mixing(self, t):
        return self.inner.mixing(t)


DEPENDENT = copies({"pairs": lambda: Pairs(torch.arange(5) < 4), **gather("DEPENDENT")})
FEW = [name for name in DEPENDENT if name != "coarse"]  # tokens, for what enumerates pairs of them
STRUCTURED = [name for name in DEPENDENT if name != "pairs"]


def every_token(process, n=1):
    return torch.arange(process.vocab_size).expand(n, -1)


def times(*values):
    return torch.tensor(values, dtype=torch.float64)


@pytest.mark.parametrize("name", STRUCTURED)
def test_structured_methods_are_the_definitions(name):
    process = DEPENDENT[name]()
    bare, time, later = Bare(process), times(0.1, 0.45, 0.8), times(0.2, 0.6, 0.97)
    z = every_token(process, 3)
    x_hat = torch.rand(3, process.vocab_size, process.vocab_size, generator=torch.Generator().manual_seed(0)).double()
    close = torch.testing.assert_close
    close(process.marginal(z, time), bare.marginal(z, time))
    close(process.marginal(x_hat, time), bare.marginal(x_hat, time))
    close(process.likelihood(z, time), bare.likelihood(z, time))
    close(process.probability(z.flip(1), z, time), bare.probability(z.flip(1), z, time))
    close(process.transition(z, time, later), bare.transition(z, time, later), rtol=1e-9, atol=1e-9)
    close(process.rate(z, time), bare.rate(z, time), rtol=1e-8, atol=1e-8)
    close(process.is_clean(z, time), bare.is_clean(z, time))
    per_token = time[:, None].expand(3, process.vocab_size).contiguous()
    close(process.rate(z, per_token), process.rate(z, time))
    close(process.likelihood(z, per_token), process.likelihood(z, time))


@pytest.mark.parametrize("name", DEPENDENT)
def test_it_is_a_markov_process(name):
    process = DEPENDENT[name]()
    process.validate()
    z = every_token(process)
    r, s, u = times(0.2), times(0.5), times(0.9)
    # Columns are into z: [from, into] after a transpose.
    one, two, both = (process.transition(z, *pair)[0].T for pair in ((r, s), (s, u), (r, u)))
    torch.testing.assert_close(one @ two, both)
    torch.testing.assert_close(both.sum(-1), torch.ones(process.vocab_size, dtype=torch.float64))
    torch.testing.assert_close(process.marginal(z, r)[0] @ one, process.marginal(z, s)[0])
    slope = process.transition(z, s - 1e-6, s)[0].T / 1e-6
    off = ~torch.eye(process.vocab_size, dtype=torch.bool)
    torch.testing.assert_close(process.rate(z, s)[0].T[off], slope[off], rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("name", DEPENDENT)
def test_draws_have_the_marginal_law(name):
    process, n = DEPENDENT[name](), 20_000
    x = process.data_tokens().nonzero()[:, 0]
    z = process.corrupt(x.expand(n, -1), times(0.4).expand(n), generator=torch.Generator().manual_seed(0))
    want = process.marginal(x[None], times(0.4))[0]
    share = torch.stack([torch.bincount(column, minlength=process.vocab_size) / n for column in z.T])
    assert ((share - want).abs() <= 5 * (want * (1 - want) / n).sqrt() + 1e-9).all()


@pytest.mark.parametrize("name", ["gidd", "uniform", "stranger", "mask and unigram"])
def test_equal_rows_are_an_interpolating_process(name):
    inner = PROCESSES[name]()
    process = Matrices(inner)
    generator = torch.Generator().manual_seed(0)
    data = inner.data_tokens().nonzero()[:, 0]
    x = data[torch.randint(len(data), (4, 6), generator=generator)]
    time = times(0.1, 0.3, 0.6, 0.9)
    z = inner.corrupt(x, time, generator=generator)
    logits = torch.randn(4, 6, inner.vocab_size, dtype=torch.float64, generator=generator)
    close = torch.testing.assert_close
    close(nl.nelbo(process, logits, x, z, time), nl.nelbo(inner, logits, x, z, time), rtol=1e-8, atol=1e-10)
    close(nl.elbo.nelbo_by_token(inner, logits, x, z, time), nl.nelbo(inner, logits, x, z, time), rtol=1e-8, atol=1e-10)
    x_hat = logits.masked_fill(~inner.data_tokens(), -torch.inf).softmax(-1)
    close(process.posterior(z, x_hat, 0.7 * time, time), inner.posterior(z, x_hat, 0.7 * time, time))


def exact_bound(process, denoiser, law, nodes):
    """The bound of the denoiser on data of the law {x: p}, all z summed out, by quadrature in time."""
    x, p = torch.tensor(list(law)), torch.tensor(list(law.values()), dtype=torch.float64)
    return (p * nl.likelihood.expected_bound(process, denoiser, x, nodes=nodes).total).sum().item()


class Mistaken(nl.Transform):
    """Says that it predicts leave-one-out, whatever it wraps."""

    def __init__(self, inner):
        super().__init__(inner)
        self.predicts = "leave_one_out"

    def edit(self, logits, z, t):
        return logits


def world(process, length):
    data = process.data_tokens().nonzero()[:, 0].tolist()[:4]
    generator = torch.Generator().manual_seed(5)
    initial, transition = (
        torch.rand(len(data), generator=generator),
        torch.rand(len(data), len(data), generator=generator),
    )
    chain = torch.zeros(process.vocab_size), torch.full((process.vocab_size, process.vocab_size), 0.0)
    chain[0][data] = initial / initial.sum()
    chain[1][:, data] = 1 / len(data)
    chain[1][torch.tensor(data)[:, None], data] = transition / transition.sum(-1, keepdim=True)
    oracle = nl.MarkovOracle(*chain, process)
    x = torch.tensor(list(itertools.product(data, repeat=length)))
    law = {tuple(row.tolist()): math.exp(p) for row, p in zip(x, oracle.log_prob(x), strict=True)}
    return oracle, law


@pytest.mark.parametrize(("name", "length"), [*((name, 1) for name in DEPENDENT), *((name, 2) for name in FEW)])
def test_leave_one_out_gives_the_entropy_and_the_posterior_does_not(name, length):
    process = DEPENDENT[name]()
    oracle, law = world(process, length)
    bound = exact_bound(process, oracle, law, nodes=40)
    print(f"{name}, length {length}: bound {bound:.6f}, entropy {oracle.entropy(length):.6f}")
    assert abs(bound - oracle.entropy(length)) < 2e-4
    mistaken = exact_bound(process, Mistaken(Posterior(oracle, process)), law, nodes=10)
    if isinstance(process, Coarse):
        # A coarse token, like a mask, says nothing about which of its tokens it was: the two agree.
        assert abs(mistaken - oracle.entropy(length)) < 1e-2
    else:
        assert mistaken > oracle.entropy(length) + 0.01


def test_the_bound_of_token_rates_is_the_published_one():
    """GenMD4: at a mask, sum over y of -alpha_y'/(1 - alpha_y) (mu_y - x_y - x_y log mu_y), mu the posterior."""
    process, generator = DEPENDENT["token rates"](), torch.Generator().manual_seed(0)
    powers = process.log_powers.exp()[:4]
    x = torch.randint(4, (3, 5), generator=generator)
    logits = torch.randn(3, 5, 5, dtype=torch.float64, generator=generator)
    z, time = torch.full((3, 5), 4), times(0.2, 0.5, 0.9)
    value = nl.nelbo(process, logits, x, z, time)
    x_hat, at = logits[..., :4].softmax(-1), time[:, None, None]
    mu = x_hat * at**powers
    mu = mu / mu.sum(-1, keepdim=True)
    one_hot = torch.nn.functional.one_hot(x, 4)
    factor = powers * at ** (powers - 1) / at**powers
    want = (factor * (mu - one_hot - one_hot * mu.log())).sum(-1)
    torch.testing.assert_close(value, want)
    revealed = nl.nelbo(process, logits, x, x, time)
    assert (revealed == 0).all()


@pytest.mark.parametrize("name", DEPENDENT)
def test_the_law_of_samples_tends_to_that_of_the_data(name):
    process = DEPENDENT[name]()
    oracle, _ = world(process, 2)
    x = nl.likelihood.every_sequence(process.vocab_size, 2)
    data = oracle.log_prob(x).exp()
    gaps = []
    for steps in (2, 8, 32):
        grid = torch.linspace(1, 0, steps + 1, dtype=torch.float64) ** 2
        law = nl.likelihood.model_law(process, oracle, 2, grid)
        gaps.append(torch.special.xlogy(data, data / law)[data > 0].sum().item())
    print(name, gaps)
    assert gaps[0] > 2 * gaps[1] > 4 * gaps[2] and gaps[2] < 2e-3


@pytest.mark.parametrize("name", DEPENDENT)
def test_samples_have_the_law_of_the_model(name):
    process, n = DEPENDENT[name](), 20_000
    oracle, _ = world(process, 2)
    grid = torch.tensor([1.0, 0.5, 0.2, 0.0], dtype=torch.float64)
    law = nl.likelihood.model_law(process, oracle, 2, grid)
    x = nl.AncestralSampler(process, oracle).sample((n, 2), times=grid, generator=torch.Generator().manual_seed(0))
    assert process.data_tokens()[x].all()
    share = torch.bincount(x[:, 0] * process.vocab_size + x[:, 1], minlength=len(law)) / n
    assert ((share - law).abs() <= 5 * (law * (1 - law) / n).sqrt() + 1e-9).all()


@pytest.mark.parametrize("name", DEPENDENT)
def test_posterior_is_one_factor_away(name):
    process = DEPENDENT[name]()
    oracle, _ = world(process, 3)
    z = process.corrupt(oracle.sample(50, 3), times(0.5).expand(50))
    back = LeaveOneOut(Posterior(oracle, process), process)(z, times(0.5).expand(50))
    possible = process.likelihood(z, times(0.5).expand(50)) > 0
    want = oracle(z, times(0.5).expand(50)).masked_fill(~possible, -torch.inf).softmax(-1)
    torch.testing.assert_close(back.masked_fill(~possible, -torch.inf).softmax(-1), want)


class OneHop(TokenDependentProcess):
    """A single hop to a neighbour, or a mask: no Markov process."""

    def alpha(self, t):
        return 1 - t

    def mixing(self, t):
        hop, mask = (
            torch.block_diag(torch.eye(3).roll(1, 1), torch.ones(1, 1)).to(t),
            torch.eye(4)[3].to(t).expand(4, 4),
        )
        share = t[..., None, None]
        return (1 - share) * hop + share * mask


class Spoiled(Pairs):
    def mixing(self, t):
        return 0.98 * super().mixing(t)


class Slow(Pairs):
    def alpha(self, t):
        return 1 - t / 2


class Late(Pairs):
    def alpha(self, t):
        return 1 - t.clamp(min=0.1)


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        (OneHop, "no rate may be negative, or this is not a Markov process; got"),
        (Spoiled, "every row of mixing must be non-negative and sum to 1; got sum 0.98"),
        (Slow, "at t = 1 noise must not depend on the clean token any more"),
        (Late, "tokens must be clean at t = 0; token 0 is so with probability"),
    ],
)
def test_what_is_no_process_is_refused(wrong, message):
    with pytest.raises(ValueError, match=message):
        wrong().validate()


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: TokenRates(row(1, -1), mask_id=1), "powers must be positive"),
        (lambda: TokenRates(row(1, 1), mask_id=2), "mask_id must lie in"),
        (lambda: Coarse(torch.tensor([1, 2, 2, 3]), mask_id=3), "the parent of a token must be its own parent"),
        (lambda: Coarse(torch.tensor([0, 1, 2]), mask_id=2), "at least one token must have a parent"),
        (lambda: Coarse(torch.tensor([2, 1, 2]), mask_id=2), "the mask must be its own parent and no other's"),
        (lambda: Neighbours(CIRCLE, torch.zeros(5, 2), mask_id=4), "some weight of every token positive"),
        (
            lambda: Neighbours(CIRCLE, torch.ones(5, 2), mask_id=3),
            "the mask must be nobody's neighbour; it is one of token 0",
        ),
        (
            lambda: Neighbours(CIRCLE, torch.ones(5, 2), mask_id=4, hops=2 - t),
            "tokens must be clean at t = 0|hops|rise",
        ),
    ],
)
def test_bad_arguments_are_refused(make, message):
    with pytest.raises(ValueError, match=message):
        make()


def test_a_weight_per_token_is_refused():
    process, x = DEPENDENT["pairs"](), torch.tensor([[0]])
    with pytest.raises(ValueError, match="weight per token"):
        nl.nelbo(process, torch.zeros(1, 1, 5), x, x, times(0.5), weight=torch.ones(1, 1))


class ForgetsWhereItCameFrom(Pairs):
    """A planted mistake: the rate of a fixed token, whatever the start."""

    def rate(self, z, t):
        return super().rate(z, t).roll(1, -1).scatter(-1, z[..., None], 0)


class NoSlopeOfMixing(Pairs):
    def rate(self, z, t):
        return 0.95 * super().rate(z, t)


@pytest.mark.parametrize("wrong", [ForgetsWhereItCameFrom, NoSlopeOfMixing])
def test_planted_mistakes_break_the_identity(wrong):
    process = wrong(torch.arange(5) < 4)
    oracle, law = world(process, 1)
    assert not abs(exact_bound(process, oracle, law, nodes=40) - oracle.entropy(1)) < 2e-3


def test_a_stranger_of_equal_rows_is_checked_too():
    assert isinstance(Matrices(Stranger()), nl.NoiseProcess)
    Matrices(Stranger()).validate()


def test_rates_of_tokens_are_learned_through_the_bound():
    """A denoiser that knows token 0 from its neighbours, and not the others, is helped by masking 0 earlier or later."""
    powers = torch.full((2,), 1.0, dtype=torch.float64)
    classes = torch.tensor([0, 1, 1, 0])
    process = TokenRates(powers, mask_id=3, classes=classes, learned=True)

    class Independent(nl.Denoiser):
        """Sees no neighbour that is masked, and of the others only whether they are token 0."""

        def forward(self, z, t):
            beside = (z.roll(1, 1) == 0).double()[..., None]
            likely = torch.tensor([0.8, 0.1, 0.1, 0], dtype=torch.float64)
            return (beside * likely + (1 - beside) * torch.tensor([0.2, 0.4, 0.4, 0], dtype=torch.float64)).log()

    x = torch.tensor([[0, 0], [1, 2], [2, 1], [0, 0]])
    law = torch.full((4,), 0.25, dtype=torch.float64)

    def bound():
        with torch.no_grad():
            return (law * nl.likelihood.expected_bound(process, Independent(), x, nodes=24, low=0.0).total).sum().item()

    before = bound()
    optimizer = torch.optim.Adam(process.parameters(), lr=0.1)
    generator = torch.Generator().manual_seed(0)
    for _ in range(40):
        time = nl.stratified_times(256, low=1e-3, high=1 - 1e-3, generator=generator)
        nl.likelihood.learned_nelbo(
            process, Independent(), x.repeat(64, 1), time, generator=generator
        ).mean().backward()
        optimizer.step()
        optimizer.zero_grad()
    after = bound()
    print(f"bound {before:.4f} -> {after:.4f} nats, powers {process.log_powers.exp().tolist()}")
    assert after < before - 0.01


def test_learned_rates_keep_their_digits():
    process = TokenRates(row(1 / 3, 2.0, 1.0), mask_id=2, learned=True)
    parameter = process.log_powers
    before = parameter.detach().clone()
    moved = torch.nn.ModuleList([process]).to(torch.bfloat16)
    assert moved[0].log_powers is parameter and parameter.dtype == torch.float64 and torch.equal(parameter, before)


def test_learned_hops_are_all_counted():
    hops = nl.schedules.LearnedConstant(2.0)
    process = Neighbours(CIRCLE, torch.ones(5, 2), mask_id=4, hops=hops * t)
    with torch.no_grad():
        hops.log_value.fill_(math.log(40.0))
    law = process.marginal(torch.tensor([[0]]), times(0.9))
    torch.testing.assert_close(law.sum(-1), torch.ones(1, 1, dtype=torch.float64))


def test_matrices_without_signal_are_refused_in_words():
    class Fast(Pairs):
        def alpha(self, t):
            return (1 - t) ** 4

        def mixing(self, t):
            confused = torch.block_diag(*2 * [torch.full((2, 2), 0.5)], torch.ones(1, 1)).to(t)
            mask = torch.eye(5)[4].to(t).expand(5, 5)
            unmasked, alpha = (1 - t)[..., None, None], self.alpha(t)[..., None, None]
            return ((unmasked - alpha) * confused + (1 - unmasked) * mask) / (1 - alpha)

    with pytest.raises(ValueError, match="the matrices must be invertible in float64 inside the domain"):
        Fast(torch.arange(5) < 4).validate()
    early = Fast(torch.arange(5) < 4)
    early.domain = (0.0, 0.99)
    early.validate()
    oracle, law = world(early, 1)
    gap = exact_bound(early, oracle, law, nodes=40) - oracle.entropy(1)
    assert -1e-8 < gap < 0.1


@pytest.mark.parametrize("name", STRUCTURED)
def test_a_revealed_token_costs_nothing_whatever_the_prediction(name):
    process = DEPENDENT[name]()
    x = process.data_tokens().nonzero()[:2, 0][None]
    logits = torch.zeros(1, 2, process.vocab_size, dtype=torch.float64).scatter(-1, x[..., None], -1e4)
    logits.requires_grad_()
    certain = process.is_clean(x, times(0.5))
    value = nl.nelbo(process, logits, x, x, times(0.5))
    value.sum().backward()
    assert (value[certain] == 0).all() and value.isfinite().all() and logits.grad.isfinite().all()
