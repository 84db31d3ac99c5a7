"""Times, tokens, masks and predictions out of range are refused in words by processes, bounds, losses, samplers, correctors."""

import math

import pytest
import torch
from family import gather
from worlds import INITIAL, PROCESSES, TRANSITION, V

import noiselab as nl
from noiselab import elbo, objectives
from noiselab.bench import registry
from noiselab.parametrization import to_leave_one_out, to_posterior, to_score

KINDS = {name: PROCESSES[name]() for name in ("gidd", "masked", "uniform", "stranger")}
KINDS |= {name: make() for name, make in gather("DEPENDENT").items()}
X = torch.tensor([[0, 1, 2], [2, 1, 0]])
HALF = torch.full((2,), 0.5, dtype=torch.float64)
EARLY = HALF - 0.2


def flat(process, shape=(2, 3)):
    return torch.zeros(*shape, process.vocab_size)


def like(process):
    data = process.data_tokens().double()
    return (data / data.sum()).expand(2, 3, -1)


# (process, x, z, s, t) -> anything; what enters each of them must be right.
EDGES = {
    "corrupt": lambda p, x, z, s, t: p.corrupt(x, t),
    "marginal": lambda p, x, z, s, t: p.marginal(x, t),
    "transition": lambda p, x, z, s, t: p.transition(z, s, t),
    "renoise": lambda p, x, z, s, t: p.renoise(z, s, t),
    "posterior": lambda p, x, z, s, t: p.posterior(z, like(p), s, t),
    "draw_posterior": lambda p, x, z, s, t: p.draw_posterior(x, z, s, t),
    "nelbo": lambda p, x, z, s, t: nl.nelbo(p, flat(p), x, z, t),
    "step_kl": lambda p, x, z, s, t: elbo.step_kl(p, flat(p), x, z, s, t),
    "prior_kl": lambda p, x, z, s, t: elbo.prior_kl(p, x, t),
    "prior_log_prob": lambda p, x, z, s, t: elbo.ends.prior_log_prob(p, z, t),
    "reconstruction": lambda p, x, z, s, t: elbo.reconstruction(p, flat(p), x, z, t),
    "score_entropy": lambda p, x, z, s, t: elbo.score_entropy(p, flat(p), x, z, t),
    "objective_loss": lambda p, x, z, s, t: objectives.objective_loss(p, flat(p), x, z, t),
    "cross_entropy": lambda p, x, z, s, t: objectives.cross_entropy(p, flat(p), x, z, t),
    "to_posterior": lambda p, x, z, s, t: to_posterior(p, flat(p)[:, 0], z[:, 0], t),
    "to_leave_one_out": lambda p, x, z, s, t: to_leave_one_out(p, flat(p)[:, 0], z[:, 0], t),
    "to_score": lambda p, x, z, s, t: to_score(p, flat(p)[:, 0], z[:, 0], t),
}
INTERPOLATING = {
    "nelbo_fused": lambda p, x, z, s, t: elbo.nelbo_fused(
        p, torch.zeros(2, 3, 4), torch.zeros(p.vocab_size, 4), None, x, z, t, torch.ones(2, 3)
    ),
}
READS = {  # which of x, z, s, t
    **dict.fromkeys(("corrupt", "marginal", "prior_kl"), "xt"),
    **dict.fromkeys(("transition", "renoise", "posterior"), "zst"),
    **dict.fromkeys(("to_posterior", "to_leave_one_out", "to_score", "prior_log_prob"), "zt"),
    "draw_posterior": "xzst",
    "step_kl": "xzst",
}


def edges():
    for name, process in KINDS.items():
        for edge, call in (EDGES | (INTERPOLATING if isinstance(process, nl.InterpolatingProcess) else {})).items():
            yield pytest.param(process, call, READS.get(edge, "xzt"), id=f"{edge}-{name}")


@pytest.mark.parametrize(("process", "call", "reads"), list(edges()))
def test_values_at_every_edge(process, call, reads, unchecked):
    x = X % int(process.data_tokens().sum())
    right = {"x": x, "z": x, "s": EARLY, "t": HALF}
    call(process, *right.values())
    bad = []
    for name in set(reads) & {"s", "t"}:
        for time in (1.5, 500.0, -0.1, math.nan, math.inf):
            one = right[name].clone()
            one[1] = time  # of one sequence alone
            bad.append((name, one, r"times must lie in \[0, 1\]; got"))
        bad.append((name, torch.full((3,), 0.5), "must have shape|must be floating-point numbers of shape"))
    if "s" in reads:
        bad.append(("s", HALF + 0.1, "s must not be later than t; got a step from t to s = t"))
    for name in set(reads) & {"x", "z"}:
        for token in (-100, process.vocab_size):
            one = right[name].clone()
            one[1, 0] = token
            bad.append((name, one, rf"must lie in \[0, {process.vocab_size}\); got"))
        bad.append(
            (name, right[name].double() if name == "z" else right[name] > 0, "must be tokens, integers; got torch")
        )
    for name, value, words in bad:
        with pytest.raises(ValueError, match=words):
            call(process, *(right | {name: value}).values())


def test_a_time_that_misses_an_end_by_rounding_is_the_end():
    """At t = -1e-17 the noise of the hybrid was that of the end of time, in 81 % of the tokens."""
    process, x = KINDS["gidd"], torch.zeros(8, 64, dtype=torch.long)
    for t in (-1e-17, -1e-7):
        assert torch.equal(process.corrupt(x, torch.full((8,), t, dtype=torch.float64)), x)
    z = process.corrupt(x, torch.full((8,), 1 + 1e-7, dtype=torch.float64))
    assert (z == V - 1).all()


def test_the_domain_of_a_process_may_end_early():
    process = nl.Interpolation(1 - nl.t, {nl.Absorbing(V - 1, V): nl.t}, domain=(0.0, 0.9))
    with pytest.raises(ValueError, match=r"times must lie in \[0, 0.9\]; got 0.5 to 0.95"):
        process.corrupt(X, torch.tensor([0.5, 0.95]))
    with pytest.raises(ValueError, match=r"times must lie in \[0, 0.9\]; got 0.95"):
        nl.nelbo(process, flat(process), X, X, torch.full((2,), 0.95))


@pytest.mark.parametrize("process", [KINDS["gidd"], KINDS["uniform"]], ids=["gidd", "uniform"])
def test_predictions_that_are_no_distributions(process, unchecked):
    z, x_hat = X, like(process)
    for bad in (x_hat.log().clamp(min=-50), 2 * x_hat, -x_hat, x_hat - 0.2):
        with pytest.raises(
            ValueError, match="x_hat must be distributions, such as the softmax of logits; got a row with sum"
        ):
            process.posterior(z, bad, EARLY, HALF)
        one = x_hat.clone()
        one[-1, -1] = bad[-1, -1]
        with pytest.raises(ValueError, match="x_hat must be distributions"):
            process.posterior(z, one, EARLY, HALF)
    with pytest.raises(ValueError, match=rf"shape \[batch, length, {process.vocab_size}\]"):
        process.posterior(z, x_hat[..., :-1], EARLY, HALF)
    half = x_hat.to(torch.bfloat16)  # rounded, and still one
    assert (process.posterior(z, half, EARLY, HALF).sum(-1) - 1).abs().max() < 1e-6


def test_weights_masks_and_counts(unchecked):
    process, logits = KINDS["masked"], flat(KINDS["masked"])
    z = torch.full_like(X, V - 1)
    with pytest.raises(ValueError, match="weight must not be negative; got -1"):
        nl.nelbo(process, logits, X, z, HALF, weight=torch.tensor([[1.0, -1.0, 1.0]] * 2))
    with pytest.raises(ValueError, match=r"logits must be floating-point numbers; got torch.int64"):
        nl.nelbo(process, logits.long(), X, z, HALF)
    with pytest.raises(ValueError, match=r"weight must be floating-point numbers; got torch.bool"):
        nl.nelbo(process, logits, X, z, HALF, weight=X > 0)
    for shape in ((1, 3), (2, 1), (3,), (2, 3, 1)):
        with pytest.raises(ValueError, match=r"one \[batch, length\]"):
            nl.nelbo(process, logits, X, z, HALF, weight=torch.ones(shape))
        with pytest.raises(ValueError, match=r"one \[batch, length\]"):
            elbo.nelbo_fused(process, torch.zeros(2, 3, 4), torch.zeros(V, 4), None, X, z, HALF, torch.ones(shape))
        mask = torch.ones(shape, dtype=torch.bool)
        for call in (
            lambda mask=mask: objectives.mean_over_tokens(torch.ones(2, 3), mask),
            lambda mask=mask: objectives.any_order_loss(process, logits, X, z, attention_mask=mask),
            lambda mask=mask: objectives.mask_exactly(process, X, torch.tensor([1, 2]), attention_mask=mask),
        ):
            with pytest.raises(ValueError, match=r"attention_mask must have the shape of the tokens, \[2, 3\]; got"):
                call()
    with pytest.raises(ValueError, match=r"attention_mask must be tokens, integers|attention_mask must lie in"):
        objectives.mean_over_tokens(torch.ones(2, 3), torch.full((2, 3), 0.5))
    with pytest.raises(ValueError, match=r"counts must lie in \[0, 4\); got 1 to 5"):
        objectives.mask_exactly(process, X, torch.tensor([1, 5]))
    with pytest.raises(ValueError, match=r"counts must have shape \[2\], one for each sequence; got \[1\]"):
        objectives.mask_exactly(process, X, torch.tensor([1]))
    with pytest.raises(
        ValueError, match=r"projection and bias must have shape \[5, 4\] and \[5\]; got \[5, 3\] and None"
    ):
        elbo.nelbo_fused(process, torch.zeros(2, 3, 4), torch.zeros(V, 3), None, X, z, HALF, torch.ones(2, 3))
    with pytest.raises(ValueError, match=r"times must lie in .*; got nan"):
        t = torch.full((2,), math.nan)
        nl.continuous_bound(process, nl.MarkovOracle(INITIAL, TRANSITION, process), X, times=(t, torch.ones(2)), low=0)


def test_no_token_is_left_out_of_a_cross_entropy():
    """-100 is the index that torch ignores; int32 tokens are tokens as well."""
    process, logits = KINDS["uniform"], torch.randn(2, 3, V, generator=torch.Generator().manual_seed(0))
    loss = objectives.cross_entropy(process, logits, X.int(), X, HALF, predicts="posterior")
    by_hand = -logits.masked_fill(~process.data_tokens(), -torch.inf).log_softmax(-1).gather(-1, X[..., None])[..., 0]
    torch.testing.assert_close(loss, by_hand)


def test_where_values_cannot_be_read_a_bound_is_nan(monkeypatch):
    """As on an accelerator, where reading them would stall, or when compiled; here told so."""
    process, t = KINDS["gidd"], torch.tensor([[0.2, 0.5, 0.7], [0.2, 1.5, math.nan]], dtype=torch.float64)
    want = nl.nelbo(process, flat(process)[:1], X[:1], X[:1], t[:1])
    monkeypatch.setattr(torch.compiler, "is_compiling", lambda: True)
    for bound in (nl.nelbo, elbo.score_entropy, elbo.reconstruction):
        found = bound(process, flat(process), X, X, t)
        assert found.isnan().tolist() == [[False] * 3, [False, True, True]]
        if bound is nl.nelbo:
            torch.testing.assert_close(found[:1], want)


def test_values_are_not_read_within_vmap(unchecked):
    process = KINDS["gidd"]
    found = torch.func.vmap(lambda t: elbo.prior_kl(process, X, t))(torch.stack([EARLY, HALF]))
    torch.testing.assert_close(found[1], elbo.prior_kl(process, X, HALF))


SAMPLERS = {n: f for kind in registry.find_samplers().values() for n, f in registry.factories_of(kind).items()}
CORRECTORS = {n: f for kind in registry.find_correctors().values() for n, f in registry.factories_of(kind).items()}


def made(make):
    process = next(p for p in (PROCESSES["gidd"](), PROCESSES["masked"]()) if registry.takes(make, p))
    return make(process, nl.MarkovOracle(INITIAL, TRANSITION, process))


@pytest.mark.parametrize("name", SAMPLERS)
def test_samplers(name, unchecked):
    sampler = made(SAMPLERS[name])
    around = [
        sampler,
        nl.samplers.BlockSampler(sampler, 2),
        nl.samplers.EarlyStopping(sampler, 2),
        nl.samplers.EndToken(sampler, 1),
        nl.Infilling(sampler, X, X == 1),
        nl.samplers.Prompted(sampler, X[:, :1]),
        nl.PredictorCorrector(sampler, nl.GibbsCorrector(sampler.process, sampler.denoiser)),
    ]
    grid = torch.linspace(1, 0, 3)
    for one in around:
        for z, t, s, words in (
            (X, HALF + 1, HALF, r"times must lie in \[0, 1\]; got 1.5"),
            (X, HALF, HALF - 1, r"times must lie in \[0, 1\]; got -0.5"),
            (X, HALF * math.nan, HALF, r"times must lie in \[0, 1\]; got nan"),
            (X, EARLY, HALF, "s must not be later than t"),
            (X.masked_fill(X == 1, -100), HALF, EARLY, r"must lie in \[0, 5\); got -100"),
            (X + V, HALF, EARLY, r"must lie in \[0, 5\); got 5 to 7"),
            (X.double(), HALF, EARLY, "must be tokens, integers; got torch.float64"),
        ):
            with pytest.raises(ValueError, match=words):
                one.step(z, t, s)
        for z, t, words in (
            (X, HALF + 1, r"times must lie in \[0, 1\]; got 1.5"),
            (X, HALF * math.nan, r"times must lie in \[0, 1\]; got nan"),
            (X.masked_fill(X == 2, -100), HALF, r"must lie in \[0, 5\); got -100"),
            (X + V, HALF, r"must lie in \[0, 5\); got \d to 7"),  # infilled tokens may be right
        ):
            with pytest.raises(ValueError, match=words):
                one.clean(z, t)
        with pytest.raises(ValueError, match=r"must lie in \[0, 5\); got"):
            list(one.walk(torch.where(X == 1, -100, V + X), grid))
        for times in (grid * 2, grid - 0.5, grid * math.nan, grid.flip(0), grid[None], [1.0, 0.0]):
            with pytest.raises(ValueError, match="times must"):
                one.sample((2, 3), times=times)


@pytest.mark.parametrize("name", CORRECTORS)
def test_correctors(name, unchecked):
    corrector = made(CORRECTORS[name])
    for z, t, words in (
        (X, HALF + 1, r"times must lie in \[0, 1\]; got 1.5"),
        (X, -HALF, r"times must lie in \[0, 1\]; got -0.5"),
        (X, HALF * math.nan, r"times must lie in \[0, 1\]; got nan"),
        (X.masked_fill(X == 2, -100), HALF, r"must lie in \[0, 5\); got -100"),
        (X + V, HALF, r"must lie in \[0, 5\); got 5 to 7"),
        (X.double(), HALF, "must be tokens, integers; got torch.float64"),
        (X, torch.full((3,), 0.5), "t must have shape"),
    ):
        with pytest.raises(ValueError, match=words):
            corrector.step(z, t)
    for rows in (X > 5, X[:1] == 1, X == 7):
        if rows.shape != X.shape:
            with pytest.raises(ValueError, match="rows must be Bool of shape"):
                corrector.step(X, HALF, rows=rows)
    with pytest.raises(ValueError, match="rows must be Bool of shape"):
        corrector.step(X, HALF, rows=X)
    if isinstance(corrector, nl.SelfCorrection):
        with pytest.raises(ValueError, match=r"tokens must lie in \[0, 5\); got"):
            corrector.correct(X + V)


class Careless(nl.InterpolatingProcess):
    def __init__(self):
        self.size = 3

    def alpha(self, t):
        return 1 - t

    def mixing(self, t):
        return torch.full((*t.shape, 3), 1 / 3, dtype=t.dtype)


class CarelessDenoiser(nl.Denoiser):
    def __init__(self):
        self.size = 3

    def forward(self, z, t):
        return torch.zeros(*z.shape, self.size)


class CarelessSampler(nl.samplers.Sampler):
    def __init__(self, process, denoiser):
        self.network = denoiser

    def step(self, z, t, s, *, generator=None):
        return self.process.corrupt(z, s)


class CarelessCorrector(nl.correctors.Corrector):
    def __init__(self, process, denoiser):
        self.network = denoiser

    def step(self, z, t, *, rows=None, generator=None):
        return self.process.renoise(z, t, t)


def test_newcomers_mistakes(unchecked):
    process = KINDS["uniform"]
    oracle = nl.MarkovOracle(INITIAL, TRANSITION, process)
    forgot = r"the __init__ of Careless(Denoiser)? must call super\(\).__init__\(\)"
    for call, words in (
        (lambda: Careless().validate(), forgot),
        (lambda: nl.AncestralSampler(Careless(), oracle), forgot),
        (lambda: Careless().corrupt(X, HALF), forgot),
        (lambda: nl.AncestralSampler(process, CarelessDenoiser()), forgot),
        (lambda: nl.SelfCorrection(CarelessDenoiser()), forgot),
        (lambda: CarelessDenoiser()(X, HALF), forgot),
        (lambda: process.mixing(0.5), "t must be a tensor of times; got 0.5"),
        (lambda: process.alpha(0.5), "t must be a tensor of times; got 0.5"),
        (lambda: oracle(X, 0.5), "t a tensor of their times.*; got t = 0.5"),
        (lambda: process.corrupt(X, 0.5), "t must be a tensor of times"),
        (lambda: nl.AncestralSampler(process, oracle).sample(4, steps=3), r"shape must be \(batch, length\).*; got 4"),
        (lambda: nl.uniform(vocab_size=4).corrupt(X, HALF[:1]), r"t must have shape \[2\] or \[2, 3\]; got \[1\]"),
        (
            lambda: nl.Interpolation(1 - nl.t, {nl.Uniform(3): nl.t}, support=[0, 1]),
            r"Bool of shape \[3\]; got \[0, 1\]",
        ),
    ):
        with pytest.raises(ValueError, match=words):
            call()
    for made, needs in ((CarelessSampler, ("process",)), (CarelessCorrector, ("process", "denoiser"))):
        with pytest.raises(
            AttributeError, match=f"no attribute 'process': the __init__ of {made.__name__} must call super"
        ):
            made(process, oracle).step(X, *[HALF] * (2 if made is CarelessSampler else 1))
        assert not any(hasattr(made(process, oracle), name) for name in needs)
