"""Denoisers around denoisers."""

import itertools

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch.testing import assert_close
from worlds import INITIAL, PROCESSES, TRANSITION, V

import noiselab as nl
from noiselab.denoisers.transforms import Suppress, TopK


class Fixed(nl.Denoiser):
    def __init__(self, logits, predicts="leave_one_out"):
        super().__init__()
        self.logits, self.predicts = logits, predicts

    def forward(self, z, t):
        return self.logits.expand(*z.shape, -1)


def oracle_world(name):
    process = PROCESSES[name]()
    z = process.corrupt(torch.randint(0, 4, (6, 7)), torch.full((6,), 0.6))
    return process, nl.MarkovOracle(INITIAL, TRANSITION, process), z, torch.linspace(0.1, 0.9, 6)


@pytest.mark.parametrize("name", PROCESSES)
def test_selected_rows_are_rows_of_the_whole(name):
    process, oracle, z, t = oracle_world(name)
    rows = torch.rand(z.shape) < 0.4
    for denoiser in (
        oracle,
        nl.Temperature(oracle, 0.5),
        nl.TopP(nl.Temperature(oracle, 2), 0.9),
        nl.denoisers.MinP(oracle, 0.1),
        nl.denoisers.Support(oracle, torch.arange(V) < 3),
        TopK(oracle, 2),
        Suppress(oracle, [1]),
        nl.denoisers.Posterior(oracle, process),
        nl.denoisers.LeaveOneOut(nl.denoisers.Posterior(oracle, process), process),
        nl.denoisers.Score(oracle, process),
    ):
        before = z.clone()
        assert_close(denoiser(z, t, rows), denoiser(z, t)[rows])
        assert_close(denoiser(z, t[:, None].expand(z.shape), rows), denoiser(z, t)[rows])
        assert torch.equal(z, before)


@pytest.mark.parametrize("name", PROCESSES)
def test_conversion_is_bayes_rule_and_its_own_inverse(name):
    process, oracle, z, t = oracle_world(name)
    posterior = nl.denoisers.Posterior(oracle, process)(z, t).softmax(-1)
    time = t.double()[:, None].expand(z.shape)
    one_hot = torch.eye(V, dtype=torch.float64)
    like = torch.stack([process.marginal(one_hot[v].expand(*z.shape, V), time) for v in range(V)], -1)
    like = like.gather(-2, z[..., None, None].expand(*z.shape, 1, V))[..., 0, :]  # q_t(z | v)
    joint = oracle(z, t).softmax(-1) * like
    assert_close(posterior, joint / joint.sum(-1, keepdim=True))
    back = nl.denoisers.LeaveOneOut(nl.denoisers.Posterior(oracle, process), process)(z, t).softmax(-1)
    certain = process.is_clean(z, t)
    assert_close(back[~certain], oracle(z, t).softmax(-1)[~certain])


def wrappings(oracle, process):
    """The same oracle, in the dress of every prediction, singly and one over the other."""
    single = [oracle, nl.denoisers.Posterior(oracle, process), nl.denoisers.Score(oracle, process)]
    return [
        *single,
        nl.denoisers.Posterior(single[2], process),
        nl.denoisers.Score(single[2], process),
        nl.denoisers.LeaveOneOut(single[2], process),
    ]


def without_evidence(denoiser):
    """What happens to somebody who does not say what the network predicts."""
    denoiser.predicts = "leave_one_out"
    return denoiser


@pytest.mark.parametrize("name", PROCESSES)
def test_samplers_have_one_law_for_every_prediction(name):
    """The exact law of one step at each position, and the tokens drawn from the same uniform numbers."""
    process, oracle, z, t = oracle_world(name)
    t = torch.full_like(t, 0.6)
    s = t - 0.25
    laws, draws = [], []
    for denoiser in wrappings(oracle, process):
        sampler = nl.AncestralSampler(process, denoiser)
        assert sampler.denoiser.predicts == "leave_one_out"
        laws.append(process.posterior(z, sampler.denoiser(z, t).softmax(-1), s, t))
        draws.append(sampler.step(z, t, s, generator=torch.Generator().manual_seed(0)))
    certain = process.is_clean(z, t)
    for law, draw in zip(laws[1:], draws[1:], strict=True):
        assert_close(law[~certain], laws[0][~certain], rtol=1e-8, atol=1e-10)
        assert torch.equal(draw, draws[0])
    wrong = process.posterior(z, without_evidence(nl.denoisers.Posterior(oracle, process))(z, t).softmax(-1), s, t)
    assert ((wrong - laws[0])[~certain].abs().max().item() > 0.02) == (name != "masked")


@pytest.mark.parametrize("name", PROCESSES)
def test_scores_are_solved_just_before_the_end_of_time_where_they_say_nothing(name):
    process, oracle, *_ = oracle_world(name)
    z = process.prior(6, 7, generator=torch.Generator().manual_seed(0))
    t = torch.ones(6, dtype=torch.float64)
    for wrap in (nl.denoisers.LeaveOneOut, nl.denoisers.Posterior):
        law = wrap(nl.denoisers.Score(oracle, process), process)(z, t).softmax(-1)
        assert_close(law, wrap(oracle, process)(z, t).softmax(-1), rtol=0, atol=2e-3)
    if name in ("masked", "uniform"):
        scores, end = nl.denoisers.Score(oracle, process)(z, t)[0], t[:1].expand(7)
        at_the_end = nl.parametrization.to_leave_one_out(process, scores, z[0], end, predicts="score").softmax(-1)
        assert (at_the_end - law[0]).abs().max() > 0.05


def test_logits_of_clean_tokens_are_not_scores():
    process, oracle, *_ = oracle_world("gidd")
    with pytest.raises(
        ValueError, match=r"Temperature needs logits of clean tokens; .* noiselab.denoisers.LeaveOneOut first"
    ):
        nl.Temperature(nl.denoisers.Score(oracle, process), 0.5)
    nl.Temperature(nl.denoisers.LeaveOneOut(nl.denoisers.Score(oracle, process), process), 0.5)


def test_scores_cannot_be_solved_where_noise_depends_on_the_token():
    class Still(nl.TokenDependentProcess):
        def alpha(self, t):
            return 1 - t

        def mixing(self, t):
            return torch.full((*t.shape, V, V), 1 / V, dtype=torch.float64)

    with pytest.raises(ValueError, match=r"solving a score for the clean token .* got a Still"):
        nl.AncestralSampler(Still(), Fixed(torch.zeros(V), "score"))
    nl.AncestralSampler(Still(), Fixed(torch.zeros(V), "posterior"))


@given(st.lists(st.floats(-8, 8), min_size=6, max_size=6), st.floats(0.05, 1))
def test_truncations(entries, p):
    logits = torch.tensor(entries, dtype=torch.float64)
    z, t = torch.zeros(1, 1, dtype=torch.long), torch.tensor([0.5])
    whole = logits.softmax(-1)
    kept = nl.TopP(Fixed(logits), p)(z, t)[0, 0].isfinite()
    assert whole[kept].max() >= whole.max() * (1 - 1e-6)
    # Enough mass, and not without the least probable token kept (to float32 rounding).
    assert whole[kept].sum() >= p - 1e-5
    assert whole[kept].sum() - whole[kept].min() <= p + 1e-5
    kept = nl.denoisers.MinP(Fixed(logits), p)(z, t)[0, 0].isfinite()
    assert torch.equal(kept, (whole >= p * whole.max() * (1 - 1e-12))) or (whole / whole.max() - p).abs().min() < 1e-9


def test_temperature_to_zero_is_the_arg_max_and_infinity_is_uniform():
    logits = torch.tensor([1.0, 3.0, 2.0])
    z, t = torch.zeros(1, 1, dtype=torch.long), torch.tensor([0.5])
    assert_close(nl.Temperature(Fixed(logits), 1e-3)(z, t)[0, 0].softmax(-1), torch.tensor([0.0, 1.0, 0.0]))
    half = nl.Temperature(Fixed(1e4 * logits.half()), 0.01)(z, t)[0, 0].softmax(-1)
    assert_close(half, torch.tensor([0.0, 1.0, 0.0]))
    assert_close(nl.Temperature(Fixed(logits), 1e6)(z, t)[0, 0].softmax(-1), torch.full((3,), 1 / 3), rtol=1e-5, atol=0)


TRUNCATIONS = {
    "top-k 1": lambda inner: TopK(inner, 1),
    "top-k 3": lambda inner: TopK(inner, 3),
    "top-k all": lambda inner: TopK(inner, 100),
    "top-p tiny": lambda inner: nl.TopP(inner, 1e-9),
    "top-p": lambda inner: nl.TopP(inner, 0.7),
    "top-p whole": lambda inner: nl.TopP(inner, 1),
    "min-p whole": lambda inner: nl.denoisers.MinP(inner, 1),
    "min-p": lambda inner: nl.denoisers.MinP(inner, 0.3),
    "min-p none": lambda inner: nl.denoisers.MinP(inner, 0),
}
ROWS = {
    "equal": [0.0] * 6,
    "two equal": [1.0, 3.0, 3.0, -2.0, 0.0, 1.0],
    "one token": [-torch.inf, -torch.inf, 5.0, -torch.inf, -torch.inf, -torch.inf],
    "two tokens": [-torch.inf, 1.0, -torch.inf, -torch.inf, 0.5, -torch.inf],
    "far apart": [6e4, 0.0, -6e4, 5e4, -6e4, 6e4],
    "nearly equal": [1.0, 1.0 + 1e-7, 1.0, 1.0, 1.0, 1.0],
    "all low": [-6e4, -5.99e4, -6e4, -6e4, -6e4, -6e4],
}


@pytest.mark.parametrize("name", TRUNCATIONS)
def test_the_most_probable_token_survives_every_truncation_in_every_dtype(name):
    for dtype in (torch.float16, torch.bfloat16, torch.float32, torch.float64):
        logits = torch.tensor(list(ROWS.values()), dtype=dtype)  # a sequence whose positions are the rows
        z, t = torch.zeros(1, len(logits), dtype=torch.long), torch.ones(1)
        cut = TRUNCATIONS[name](Fixed(logits))(z, t)[0]
        assert cut.dtype == dtype and torch.equal(cut[cut.isfinite()], logits[cut.isfinite()])
        assert torch.equal(cut.amax(-1), logits.amax(-1)) and cut.softmax(-1).isfinite().all()
        if name == "top-k 3":
            assert (cut.isfinite().sum(-1) >= logits.isfinite().sum(-1).clamp(max=3)).all()


@pytest.mark.parametrize("seed", range(3))
def test_truncations_are_those_of_transformers(seed):
    """Where no two tokens are equally probable: there they choose differently, at random."""
    from transformers.generation.logits_process import MinPLogitsWarper, TopKLogitsWarper, TopPLogitsWarper

    logits = 3 * torch.randn(50, 200, generator=torch.Generator().manual_seed(seed))
    z, t = torch.zeros(50, 1, dtype=torch.long), torch.ones(50)

    class Rows(nl.Denoiser):
        def forward(self, z, t):
            return logits[:, None]

    for p in (0.05, 0.3, 0.9, 0.999):
        for ours, theirs in (
            (nl.TopP(Rows(), p), TopPLogitsWarper(p)),
            (nl.denoisers.MinP(Rows(), p), MinPLogitsWarper(p)),
            (TopK(Rows(), int(200 * p) + 1), TopKLogitsWarper(int(200 * p) + 1)),
            (nl.TopP(TopK(nl.Temperature(Rows(), 0.7), 20), p), chain(p)),
        ):
            assert_close(ours(z, t)[:, 0], theirs(None, logits))


def chain(p):
    """Temperature, top-k, top-p, in the order in which transformers applies them."""
    from transformers.generation.logits_process import TemperatureLogitsWarper, TopKLogitsWarper, TopPLogitsWarper

    def warp(ids, logits):
        for warper in (TemperatureLogitsWarper(0.7), TopKLogitsWarper(20), TopPLogitsWarper(p)):
            logits = warper(ids, logits)
        return logits

    return warp


def test_a_tie_at_the_kth_place_keeps_all_who_share_it():
    logits = torch.tensor([2.0, 1.0, 1.0, 0.0])
    kept = TopK(Fixed(logits), 2)(torch.zeros(1, 1, dtype=torch.long), torch.ones(1))[0, 0].isfinite()
    assert kept.tolist() == [True, True, True, False]
    with pytest.raises(ValueError, match="k must be at least 1; got 0"):
        TopK(Fixed(logits), 0)


def test_suppressed_tokens_get_no_mass_and_one_must_stay():
    logits, z, t = torch.tensor([2.0, 1.0, 1.0, 0.0]), torch.zeros(1, 1, dtype=torch.long), torch.ones(1)
    want = torch.tensor([2.0, 0.0]).softmax(-1)
    for tokens in ([1, 2], (2, 1, 1), torch.tensor([2, 1])):
        law = Suppress(Fixed(logits), tokens)(z, t)[0, 0].softmax(-1)
        assert torch.equal(law[1:3], torch.zeros(2)) and torch.equal(law[::3], want)
    other = nl.denoisers.Support(Fixed(logits), torch.tensor([True, False, False, True]))
    assert torch.equal(other(z, t), Suppress(Fixed(logits), [1, 2])(z, t))
    assert torch.equal(Suppress(Fixed(logits), [])(z, t)[0, 0], logits)
    assert repr(Suppress(Fixed(logits), [2, 1, 1])) == "Suppress(Fixed(), 2 tokens)"
    with pytest.raises(ValueError, match="each of tokens must be at least 0; got -1"):
        Suppress(Fixed(logits), [1, -1])
    for tokens in ([4], range(4)):
        with pytest.raises(ValueError, match=r"tokens must lie in \[0, 4\) and leave one"):
            Suppress(Fixed(logits), tokens)(z, t)


LAW = torch.tensor([0.5, 0.25, 0.15, 0.1], dtype=torch.float64)
EDITS = {
    "temperature": (lambda inner: nl.Temperature(inner, 0.5), LAW**2),
    "min-p": (lambda inner: nl.denoisers.MinP(inner, 0.25), LAW * torch.tensor([1, 1, 1, 0])),
    "top-p": (lambda inner: nl.TopP(inner, 0.7), LAW * torch.tensor([1, 1, 0, 0])),
    "top-k": (lambda inner: TopK(inner, 3), LAW * torch.tensor([1, 1, 1, 0])),
    "suppress": (lambda inner: Suppress(inner, [0]), LAW * torch.tensor([0, 1, 1, 1])),
}


def deviation(x, law):
    """Standard deviations of the chi-square statistic beyond its mean; impossible tokens fail."""
    count, n = torch.bincount(x.flatten(), minlength=len(law)), x.numel()
    assert (count[law == 0] == 0).all()
    count, want = count[law > 0], law[law > 0] / law.sum() * n
    free = max(1, len(want) - 1)
    return (((count - want) ** 2 / want).sum() - free) / (2 * free) ** 0.5


@pytest.mark.long_for("top-[kp]-gidd*")
@pytest.mark.parametrize("steps", [8, 128])
@pytest.mark.parametrize("noise", ["masked", "gidd"])
@pytest.mark.parametrize("name", EDITS)
def test_edits_act_on_the_prediction_so_the_law_does_not_depend_on_steps(name, noise, steps):
    """One token: the samples' law is the edited law of data, at any number of steps."""
    process, (edit, want) = PROCESSES[noise](), EDITS[name]
    oracle = nl.MarkovOracle(LAW, torch.eye(4, dtype=torch.float64), process)
    sampler = nl.AncestralSampler(process, edit(oracle))
    x = sampler.sample((10_000, 1), steps=steps, generator=torch.Generator().manual_seed(steps))
    assert deviation(x, torch.nn.functional.pad(want, (0, 1))) < 4


@pytest.mark.parametrize(("steps", "published"), [(8, (0.54, 0.22, 0.08)), (128, (0.73, 0.15, 0.04))])
def test_min_p_on_the_transition_depends_on_the_number_of_steps(steps, published):
    """The planted mistake, as some samplers do it: even a threshold that would cut nothing changes the law, with N."""
    process, n, g = nl.masked(vocab_size=6, mask_id=5), 10_000, torch.Generator().manual_seed(0)
    law = torch.tensor([0.5, 0.2, 0.1, 0.1, 0.1, 0], dtype=torch.float64)
    z, grid = process.prior(n, 1), torch.linspace(1, 0, steps + 1, dtype=torch.float64)
    for t, s in itertools.pairwise(grid):
        move = process.posterior(z, law.expand(n, 1, 6), s.expand(n), t.expand(n))
        move = torch.where(move < 0.02 * move.amax(-1, keepdim=True), 0, move)
        z = torch.where(z == 5, nl.categorical.choose(move, nl.categorical.uniforms(n, 1, generator=g)), z)
    share = torch.bincount(z[:, 0], minlength=6) / n
    assert_close(share[:3], torch.tensor(published), atol=0.02, rtol=0)
    assert deviation(z, law) > 10
    x = nl.AncestralSampler(process, nl.denoisers.MinP(Fixed(law.log()), 0.02)).sample((n, 1), steps=steps, generator=g)
    assert deviation(x, law) < 4


def test_the_order_of_edits_matters():
    """Heat before the cut lets more tokens through than after it."""
    z, t = torch.zeros(1, 1, dtype=torch.long), torch.ones(1)
    before = nl.TopP(nl.Temperature(Fixed(LAW.log()), 2), 0.7)(z, t)[0, 0].softmax(-1)
    after = nl.Temperature(nl.TopP(Fixed(LAW.log()), 0.7), 2)(z, t)[0, 0].softmax(-1)
    root = LAW.sqrt() / LAW.sqrt().sum()
    assert_close(before, root * torch.tensor([1, 1, 1, 0]) / root[:3].sum())
    assert_close(after, root * torch.tensor([1, 1, 0, 0]) / root[:2].sum())


class Split(nl.denoisers.ProjectedDenoiser):
    def __init__(self):
        super().__init__()
        self.embed, self.head, self.projected = torch.nn.Embedding(V, 8), torch.nn.Linear(8, V), 0

    def hidden(self, z, t):
        return self.embed(z)

    def project(self, hidden):
        self.projected += hidden.shape[:-1].numel()
        return self.head(hidden)


def test_only_selected_rows_are_projected_and_the_loss_can_be_fused():
    denoiser, process = Split(), PROCESSES["gidd"]()
    x = torch.randint(0, 4, (3, 5), generator=torch.Generator().manual_seed(0))
    t = torch.tensor([0.2, 0.5, 0.8])
    z = process.corrupt(x, t, generator=torch.Generator().manual_seed(1))
    rows = torch.zeros(3, 5, dtype=torch.bool)
    rows[1, 2:4] = True
    denoiser(z, t, rows)
    assert denoiser.projected == 2

    scale = torch.full((3, 5), 1 / 15)
    nl.nelbo(process, denoiser(z, t), x, z, t).mean().backward()
    want = [p.grad.clone() for p in denoiser.parameters()]
    denoiser.zero_grad()
    loss, values = nl.elbo.nelbo_fused(
        process, denoiser.hidden(z, t), denoiser.head.weight, denoiser.head.bias, x, z, t, scale
    )
    loss.backward()
    assert_close(loss, values.mean())
    assert_close([p.grad for p in denoiser.parameters()], want)
