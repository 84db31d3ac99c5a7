"""Denoisers around denoisers."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch.testing import assert_close
from worlds import INITIAL, PROCESSES, TRANSITION, V

import noiselab as nl


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
        nl.MinP(oracle, 0.1),
        nl.Support(oracle, torch.arange(V) < 3),
        nl.Posterior(oracle, process),
        nl.LeaveOneOut(nl.Posterior(oracle, process), process),
        nl.Score(oracle, process),
    ):
        before = z.clone()
        assert_close(denoiser(z, t, rows), denoiser(z, t)[rows])
        assert_close(denoiser(z, t[:, None].expand(z.shape), rows), denoiser(z, t)[rows])
        assert torch.equal(z, before)


@pytest.mark.parametrize("name", PROCESSES)
def test_conversion_is_bayes_rule_and_its_own_inverse(name):
    process, oracle, z, t = oracle_world(name)
    posterior = nl.Posterior(oracle, process)(z, t).softmax(-1)
    time = t.double()[:, None].expand(z.shape)
    one_hot = torch.eye(V, dtype=torch.float64)
    like = torch.stack([process.marginal(one_hot[v].expand(*z.shape, V), time) for v in range(V)], -1)
    like = like.gather(-2, z[..., None, None].expand(*z.shape, 1, V))[..., 0, :]  # q_t(z | v)
    joint = oracle(z, t).softmax(-1) * like
    assert_close(posterior, joint / joint.sum(-1, keepdim=True))
    back = nl.LeaveOneOut(nl.Posterior(oracle, process), process)(z, t).softmax(-1)
    certain = process.reveals(z, t)
    assert_close(back[~certain], oracle(z, t).softmax(-1)[~certain])


def wrappings(oracle, process):
    """The same oracle, in the dress of every prediction, singly and one over the other."""
    single = [oracle, nl.Posterior(oracle, process), nl.Score(oracle, process)]
    return [*single, nl.Posterior(single[2], process), nl.Score(single[2], process), nl.LeaveOneOut(single[2], process)]


def forget(denoiser):
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
    certain = process.reveals(z, t)
    for law, draw in zip(laws[1:], draws[1:], strict=True):
        assert_close(law[~certain], laws[0][~certain], rtol=1e-8, atol=1e-10)
        assert torch.equal(draw, draws[0])
    wrong = process.posterior(z, forget(nl.Posterior(oracle, process))(z, t).softmax(-1), s, t)
    assert ((wrong - laws[0])[~certain].abs().max().item() > 0.02) == (name != "masked")


@pytest.mark.parametrize("name", PROCESSES)
def test_scores_are_solved_just_before_the_end_of_time_where_they_say_nothing(name):
    process, oracle, *_ = oracle_world(name)
    z = process.prior(6, 7, generator=torch.Generator().manual_seed(0))
    t = torch.ones(6, dtype=torch.float64)
    for wrap in (nl.LeaveOneOut, nl.Posterior):
        law = wrap(nl.Score(oracle, process), process)(z, t).softmax(-1)
        assert_close(law, wrap(oracle, process)(z, t).softmax(-1), rtol=0, atol=2e-3)
    if name in ("masked", "uniform"):
        scores, end = nl.Score(oracle, process)(z, t)[0], t[:1].expand(7)
        at_the_end = nl.to_leave_one_out(process, scores, z[0], end, predicts="score").softmax(-1)
        assert (at_the_end - law[0]).abs().max() > 0.05


def test_logits_of_clean_tokens_are_not_scores():
    process, oracle, *_ = oracle_world("gidd")
    with pytest.raises(ValueError, match=r"Temperature changes logits of clean tokens; .* noiselab.LeaveOneOut first"):
        nl.Temperature(nl.Score(oracle, process), 0.5)
    nl.Temperature(nl.LeaveOneOut(nl.Score(oracle, process), process), 0.5)


def test_scores_cannot_be_solved_where_noise_depends_on_the_token():
    class Still(nl.TokenDependentProcess):
        def alpha(self, t):
            return 1 - t

        def mixing(self, t):
            return torch.full((*t.shape, V, V), 1 / V, dtype=torch.float64)

    with pytest.raises(ValueError, match=r"solved for the clean token .* got a Still"):
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
    kept = nl.MinP(Fixed(logits), p)(z, t)[0, 0].isfinite()
    assert torch.equal(kept, (whole >= p * whole.max() * (1 - 1e-12))) or (whole / whole.max() - p).abs().min() < 1e-9


def test_temperature_to_zero_is_the_arg_max_and_infinity_is_uniform():
    logits = torch.tensor([1.0, 3.0, 2.0])
    z, t = torch.zeros(1, 1, dtype=torch.long), torch.tensor([0.5])
    assert_close(nl.Temperature(Fixed(logits), 1e-3)(z, t)[0, 0].softmax(-1), torch.tensor([0.0, 1.0, 0.0]))
    assert_close(nl.Temperature(Fixed(logits), 1e6)(z, t)[0, 0].softmax(-1), torch.full((3,), 1 / 3), rtol=1e-5, atol=0)


@pytest.mark.parametrize("steps", [4, 64])
def test_truncation_acts_on_the_prediction_so_the_law_does_not_depend_on_steps(steps):
    """One token under top-p: the samples' law is the truncated data law, at any number of steps."""
    process = PROCESSES["gidd"]()
    law = torch.tensor([0.5, 0.25, 0.15, 0.1], dtype=torch.float64)
    oracle = nl.MarkovOracle(law, torch.eye(4, dtype=torch.float64), process)
    sampler = nl.AncestralSampler(process, nl.TopP(oracle, 0.7))
    n = 20_000
    x = sampler.sample((n, 1), steps=steps, generator=torch.Generator().manual_seed(0))
    want = torch.tensor([2 / 3, 1 / 3, 0, 0], dtype=torch.float64)
    share = torch.bincount(x[:, 0], minlength=4) / n
    assert ((share - want).abs() <= 5 * (want * (1 - want) / n).sqrt()).all()


class Split(nl.ProjectedDenoiser):
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
    loss, values = nl.nelbo_fused(
        process, denoiser.hidden(z, t), denoiser.head.weight, denoiser.head.bias, x, z, t, scale
    )
    loss.backward()
    assert_close(loss, values.mean())
    assert_close([p.grad for p in denoiser.parameters()], want)
