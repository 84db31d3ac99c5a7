"""Learning a process through the bound: the gradient by enumeration, and what learning can and cannot gain."""

import pytest
import torch
from torch.testing import assert_close
from worlds import row

import noiselab as nl
from noiselab import schedules as S
from noiselab import t
from noiselab.likelihood import learned
from noiselab.processes import Coarse, TokenRates

MASK = 2
INITIAL = row(0.7, 0.3)
TRANSITION = torch.tensor([[0.9, 0.1], [0.25, 0.75]], dtype=torch.float64)


def hybrid(share=0.5):
    """Masks, and a learned share of uniform noise, with a learned signal."""
    signal, data = S.MonotoneNetwork(2), torch.tensor([True, True, False])
    noises = {nl.Absorbing(MASK, 3): 1 - signal, nl.Uniform(data): S.LearnedConstant(share) * signal * (1 - signal)}
    return nl.Interpolation(signal, noises)


class Moving(nl.InterpolatingProcess):
    """Written in two methods, with a parameter in each."""

    def __init__(self):
        super().__init__()
        self.power = torch.nn.Parameter(torch.tensor(1.3, dtype=torch.float64))
        self.row = torch.nn.Parameter(row(0.2, -0.5, 0.4))

    def alpha(self, t):
        return 1 - t**self.power

    def mixing(self, t):
        return self.row.softmax(-1).expand(*t.shape, 3)


class Network(nl.Denoiser):
    """Wrong, and different for every z and t."""

    def __init__(self):
        super().__init__()
        generator = torch.Generator().manual_seed(1)
        self.table = torch.nn.Parameter(torch.randn(3, 3, generator=generator, dtype=torch.float64))

    def forward(self, z, t):
        from_neighbour = self.table[z.roll(1, -1)] if z.shape[1] > 1 else self.table[z] * 0.2
        return from_neighbour + self.table[0] * t.double()[:, None, None]


def scene(process, length, time):
    """All z of one x, log q(z | x), and the bound's integrand of each."""
    x = torch.tensor([[0, 1, 1]])[:, :length]
    z = nl.likelihood.every_sequence(3, length)
    x, time = x.expand(len(z), -1), torch.full((len(z),), time, dtype=torch.float64)
    possible = (process.probability(x, z, time) > 0).all(-1)
    return x[possible], z[possible], time[possible]


def gradients(loss, *modules):
    parameters = [p for module in modules for p in module.parameters()]
    found = torch.autograd.grad(loss, parameters, allow_unused=True)
    return torch.cat(
        [torch.zeros_like(p).flatten() if g is None else g.flatten() for p, g in zip(parameters, found, strict=True)]
    )


def exact_gradient(process, denoiser, length, time):
    x, z, time = scene(process, length, time)
    q = process.probability(x, z, time).prod(-1)
    return gradients((q * nl.nelbo(process, denoiser(z, time), x, z, time).sum(-1)).sum(), process, denoiser)


def expected_gradient(process, denoiser, length, time, monkeypatch):
    """The mean over all pairs of draws of the gradient of `learned_nelbo`; and of its value."""
    x, z, time = scene(process, length, time)
    n = len(z)
    first, second = torch.cartesian_prod(torch.arange(n), torch.arange(n)).unbind(-1)
    pairs = torch.cat([z[first], z[second]])
    q = process.probability(x, z, time).prod(-1).detach()
    with monkeypatch.context() as patch:
        patch.setattr(type(process), "corrupt", lambda self, x, t, generator=None: pairs)
        surrogate = nl.likelihood.learned_nelbo(process, denoiser, x[first], time[first])
    value = (q * nl.nelbo(process, denoiser(z, time), x, z, time).sum(-1)).sum()
    assert_close((q[first] * q[second] * surrogate).sum(), value)
    return gradients((q[first] * q[second] * surrogate).sum(), process, denoiser)


def plain_gradient(process, denoiser, length, time):
    x, z, time = scene(process, length, time)
    q = process.probability(x, z, time).prod(-1).detach()
    return gradients((q * nl.nelbo(process, denoiser(z, time), x, z, time).sum(-1)).sum(), process, denoiser)


CASES = [(hybrid, 1, 0.3), (hybrid, 2, 0.6), (Moving, 1, 0.8), (Moving, 2, 0.2)]


@pytest.mark.parametrize(("make", "length", "time"), CASES)
def test_the_gradient_is_unbiased(make, length, time, monkeypatch):
    torch.manual_seed(0)
    process, denoiser = make(), Network()
    want = exact_gradient(process, denoiser, length, time)
    assert_close(expected_gradient(process, denoiser, length, time, monkeypatch), want)
    # Plain backpropagation is right for the denoiser, and wrong for the process.
    own = sum(p.numel() for p in process.parameters())
    plain = plain_gradient(process, denoiser, length, time)
    assert_close(plain[own:], want[own:])
    assert (plain - want)[:own].norm() > 0.05 * want[:own].norm()


@pytest.mark.parametrize(
    "mistake",
    [
        lambda first, second, score: (first + second) / 2,  # no score
        lambda first, second, score: (first + second) / 2 - (first - second).detach() / 2 * (score - score.detach()),
        lambda first, second, score: (first + second) / 2 + (first - second).detach() * (score - score.detach()),
        lambda first, second, score: (first + second) / 2 + first.detach() / 2 * (score - score.detach()),
    ],
)
def test_that_law_sees_mistakes(mistake, monkeypatch):
    process, denoiser = hybrid(), Network()
    want = exact_gradient(process, denoiser, 1, 0.3)

    def wrong(first, second, log_first, log_second):
        return mistake(first, second, log_first - log_second)

    monkeypatch.setattr(learned, "leave_one_out_surrogate", wrong)
    try:
        got = expected_gradient(process, denoiser, 1, 0.3, monkeypatch)
    except AssertionError:
        return
    assert (got - want).norm() > 1e-3 * want.norm()


def test_without_parameters_it_is_the_mean_over_two_draws():
    process, denoiser = nl.gidd(vocab_size=3, mask_id=MASK, p_uniform=0.2), Network()
    x, time = torch.tensor([[0, 1], [1, 1]]), torch.tensor([0.3, 0.8])
    got = nl.likelihood.learned_nelbo(process, denoiser, x, time, generator=torch.Generator().manual_seed(0))
    two = process.corrupt(x.repeat(2, 1), time.repeat(2), generator=torch.Generator().manual_seed(0))
    each = nl.nelbo(process, denoiser(two, time.repeat(2)), x.repeat(2, 1), two, time.repeat(2)).sum(-1)
    assert_close(got, (each[:2] + each[2:]) / 2)


def test_a_generator_for_each_sequence_makes_batches_what_single_ones_are():
    process, denoiser = hybrid(), Network()
    x, time = torch.tensor([[0, 1], [1, 1], [0, 0]]), torch.tensor([0.3, 0.8, 0.5])

    def generators():
        return [torch.Generator().manual_seed(i) for i in range(3)]

    together = nl.likelihood.learned_nelbo(process, denoiser, x, time, generator=generators())
    alone = [
        nl.likelihood.learned_nelbo(process, denoiser, x[[i]], time[[i]], generator=[generators()[i]])
        for i in range(len(x))
    ]
    assert_close(together, torch.cat(alone))


def test_denoisers_of_other_kinds_are_converted():
    process = hybrid()
    oracle = nl.MarkovOracle(INITIAL, TRANSITION, process)
    x, time = torch.tensor([[0, 1]]), torch.tensor([0.4])
    values = [
        nl.likelihood.learned_nelbo(process, denoiser, x, time, generator=torch.Generator().manual_seed(0))
        for denoiser in (oracle, nl.denoisers.Posterior(oracle, process))
    ]
    assert_close(*values)


X = nl.likelihood.every_sequence(2, 2)


def total(process, denoiser, nodes=40):
    """The bound averaged over the data, by enumeration and quadrature."""
    law = nl.MarkovOracle(INITIAL, TRANSITION, process).log_prob(X).exp().detach()
    return nl.likelihood.expected_bound(process, denoiser, X, nodes=nodes).mean(law).total.item()


def test_for_the_exact_denoiser_the_bound_does_not_depend_on_the_process():
    """The bound is the entropy whatever the noise: there is nothing to learn from it but variance."""
    entropy = nl.MarkovOracle(INITIAL, TRANSITION, hybrid()).entropy(2)
    for share in (0.1, 2.0):
        process = hybrid(share)
        assert total(process, nl.MarkovOracle(INITIAL, TRANSITION, process)) == pytest.approx(entropy, abs=1e-4)


def learn(process, denoiser, steps, rate):
    """Stochastic gradients by `learned_nelbo`, on the clock of even quadrature."""
    generator = torch.Generator().manual_seed(0)
    optimizer = torch.optim.Adam(process.parameters(), lr=rate, betas=(0.8, 0.99))
    oracle = nl.MarkovOracle(INITIAL, TRANSITION, process)
    for step in range(steps):
        for group in optimizer.param_groups:
            group["lr"] = rate * (1 - step / steps)
        x = oracle.sample(128, 2, generator=generator)
        time, weight = nl.times.sine_clock(nl.stratified_times(128, generator=generator))
        optimizer.zero_grad()
        (weight * nl.likelihood.learned_nelbo(process, denoiser, x, time, generator=generator)).mean().backward()
        optimizer.step()


def test_a_share_of_noises_is_learned():
    """The denoiser is exact for one share of uniform noise: there the bound is the entropy, elsewhere above it."""

    def make(share):
        data = torch.tensor([True, True, False])
        return nl.Interpolation(1 - t, {nl.Absorbing(MASK, 3): t, nl.Uniform(data): share * t * (1 - t)})

    denoiser = nl.MarkovOracle(INITIAL, TRANSITION, make(2.0)).requires_grad_(False)
    share = S.LearnedConstant(0.1)
    process = make(share)
    before = total(process, denoiser)
    learn(process, denoiser, 120, 0.15)
    entropy = denoiser.entropy(2)
    after = total(process, denoiser)
    assert entropy - 1e-4 < after < entropy + 0.1 * (before - entropy) and before - entropy > 0.02
    assert share.log_value.exp().item() == pytest.approx(2.0, rel=0.35)


@pytest.mark.long
def test_a_schedule_is_learned():
    """The denoiser is exact for uniform noise of one schedule: the network finds it."""

    def make(alpha):
        return nl.Interpolation(alpha, {nl.Uniform(2): 1 - alpha})

    target, network = S.polynomial(3), S.MonotoneNetwork(4)
    denoiser, process = nl.MarkovOracle(INITIAL, TRANSITION, make(target)), make(network)
    entropy, before = denoiser.entropy(2), total(process, denoiser, 200)
    learn(process, denoiser, 150, 0.1)
    after = total(process, denoiser, 200)
    assert entropy - 1e-4 < after < entropy + 0.1 * (before - entropy) and before - entropy > 0.02
    assert all(p.grad.isfinite().all() for p in network.parameters())


def power(start=1.7):
    """1 - t ** w of a learned w, exactly 1 at t = 0 and 0 at t = 1."""
    return 1 - t ** S.LearnedConstant(start)


def sparse():
    """Two rows with zeros, on different tokens: q is 0 on one of them, whatever the parameters."""
    half = nl.Unigram(row(0.6, 0.4, 0.0, 0.0))
    return nl.Interpolation(power(), {half: 1 - power(2.3), nl.Absorbing(3, 4): 1 - power(1.2)})


ZEROS = {
    "a network": lambda: nl.masked(vocab_size=4, mask_id=3, signal=S.MonotoneNetwork(3)),
    "a power": lambda: nl.masked(vocab_size=4, mask_id=3, signal=power()),
    "a sparse row": sparse,
    "rates of tokens": lambda: TokenRates(torch.tensor([1.0, 2.0, 0.7, 1.0]), mask_id=3, learned=True),
    "coarse tokens": lambda: Coarse(torch.tensor([2, 2, 2, 3]), mask_id=3, fine=power(2.0), unmasked=power(1.3)),
    "rates that no noise has": lambda: nl.Interpolation(
        power(), {nl.Absorbing(3, 4): t, nl.Unigram(row(0.5, 0.5, 0.0, 0.0)): 0.3 * (1 - power(2.0))}
    ),
}
LOSSES = {
    "bound": lambda p, logits, x, z, time: nl.nelbo(p, logits, x, z, time),
    "step": lambda p, logits, x, z, time: nl.elbo.step_kl(p, logits, x, z, 0.6 * time, time),
    "last step": lambda p, logits, x, z, time: nl.elbo.step_kl(p, logits, x, z, 0 * time, time),
    "no step": lambda p, logits, x, z, time: nl.elbo.step_kl(p, logits, x, z, time, time),
    "reconstruction": lambda p, logits, x, z, time: nl.elbo.reconstruction(p, logits, x, z, time),
    "prior": lambda p, logits, x, z, time: nl.elbo.prior_kl(p, x, torch.ones_like(time)),
}


def expected(loss, process, time):
    """The mean of a loss over z, enumerated, for every clean token."""
    data = process.data_tokens().nonzero()[:, 0]
    x, z = torch.cartesian_prod(data, torch.arange(4))[:, :, None].unbind(1)
    time = torch.full((len(x),), time, dtype=torch.float64)
    q = process.probability(x, z, time)
    possible = (q > 0)[:, 0]
    logits = torch.linspace(-1, 1, 4, dtype=torch.float64).expand(len(x), 1, 4)[possible]
    values = LOSSES[loss](process, logits, x[possible], z[possible], time[possible])
    return (q[possible] * values).sum()


@pytest.mark.parametrize("loss", LOSSES)
@pytest.mark.parametrize("name", ZEROS)
def test_gradients_are_those_of_differences_where_a_probability_is_exactly_zero(name, loss):
    torch.manual_seed(0)
    process = ZEROS[name]().double()
    for time in (0.4, 1.0) if loss == "no step" else (0.4,):
        got = gradients(expected(loss, process, time), process)
        assert got.isfinite().all()
        want = []
        for parameter in process.parameters():
            flat = parameter.data.view(-1)
            for k in range(len(flat)):
                values, start = [], flat[k].item()
                for moved in (start + 1e-5, start - 1e-5):
                    flat[k] = moved
                    values.append(expected(loss, process, time).item())
                flat[k] = start
                want.append((values[0] - values[1]) / 2e-5)
        assert_close(got, torch.tensor(want, dtype=torch.float64), rtol=1e-6, atol=1e-8)


def test_a_slope_of_q_log_q_at_zero_would_be_seen(monkeypatch):
    def wrong(q, p):
        return (torch.special.xlogy(q, q) - torch.special.xlogy(q, torch.where(q > 0, p, 1))).sum(-1)

    monkeypatch.setattr(nl.elbo.definition, "kl_divergence", wrong)
    process = ZEROS["a power"]()
    assert gradients(expected("bound", process, 0.4), process).isnan().all()


@pytest.mark.parametrize("name", ["a network", "a power"])
@pytest.mark.parametrize("loss", ["bound", "step", "reconstruction"])
def test_a_prediction_that_underflows_spoils_no_gradient_where_the_token_is_revealed(name, loss):
    process, time = ZEROS[name](), torch.tensor([0.4])
    x = torch.tensor([[0, 1]])
    logits = torch.tensor([-1e4, 1e4, -1e4, 0.0]).expand(1, 2, 4)
    value = LOSSES[loss](process, logits, x, x, time)
    assert (value == 0).all() and gradients(value.sum(), process).isfinite().all()


def test_the_bound_of_posterior_logits_has_finite_gradients_for_masking():
    signal = S.MonotoneNetwork(4)
    process = nl.masked(vocab_size=3, mask_id=MASK, signal=signal)
    logits, x = torch.tensor([[[0.3, -0.2, 0.0]] * 2], dtype=torch.float64), torch.tensor([[0, 1]])
    z, time = torch.tensor([[MASK, 1]]), row(0.4)

    def loss():
        return nl.objectives.objective_loss(process, logits, x, z, time, predicts="posterior").sum()

    loss().backward()
    grads = [p.grad for p in signal.parameters()]
    assert all(g.isfinite().all() for g in grads) and any((g != 0).any() for g in grads)
    parameter, h = signal.middles, 1e-6
    with torch.no_grad():
        parameter[0] += h
        more = loss()
        parameter[0] -= 2 * h
        less = loss()
    assert_close(parameter.grad[0], (more - less) / (2 * h), rtol=1e-4, atol=1e-8)
