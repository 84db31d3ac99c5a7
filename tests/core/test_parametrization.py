"""Leave-one-out, posterior and score: definitions by enumeration, round trips, one reverse step for all."""

import itertools

import pytest
import torch
from hypothesis import given, settings
from torch.testing import assert_close
from worlds import INITIAL, PROCESSES, TRANSITION, Stranger, V, processes, row

import noiselab as nl
from noiselab.process import evidence

CONVERT = {
    "leave_one_out": nl.parametrization.to_leave_one_out,
    "posterior": nl.parametrization.to_posterior,
    "score": nl.parametrization.to_score,
}
EYE = torch.eye(V, dtype=torch.float64)


def possible_rows(process, dtype=torch.float64, n=3, seed=0):
    """Leave-one-out logits on the support, a noisy token that data and noise can make, times: each n times."""
    generator = torch.Generator().manual_seed(seed)
    t = torch.linspace(0.15, 0.85, n, dtype=torch.float64).repeat_interleave(V)
    z = torch.arange(V).repeat(n)
    logits = 2 * torch.randn(len(z), V, generator=generator, dtype=torch.float64)
    logits = logits.masked_fill(~process.data_tokens(), -torch.inf).to(dtype)
    keep = (process.marginal(logits.double().softmax(-1)[:, None], t)[:, 0].gather(-1, z[:, None]) > 0)[:, 0]
    return logits[keep], z[keep], t[keep]


def kernel(process, t):
    """q_t(y | v) as a matrix [n, v, y] for each time."""
    return torch.stack([process.marginal(EYE[v].expand(len(t), 1, V), t)[:, 0] for v in range(V)], 1)


def laws(outputs, predicts):
    return outputs.exp() if predicts == "score" else outputs.softmax(-1)


def conversions_are_their_definitions(process):
    logits, z, t = possible_rows(process)
    x_hat, q = logits.softmax(-1), kernel(process, t)
    like = q.gather(-1, z[:, None, None].expand(-1, V, 1))[..., 0]
    joint = x_hat * like
    law = (x_hat[:, None] @ q)[:, 0]
    assert_close(
        nl.parametrization.to_posterior(process, logits, z, t).softmax(-1), joint / joint.sum(-1, keepdim=True)
    )
    scores = nl.parametrization.to_score(process, logits, z, t)
    assert_close(scores.exp(), law / law.gather(-1, z[:, None]))
    assert (scores.gather(-1, z[:, None]) == 0).all()


def conversions_are_undone(process):
    logits, z, t = possible_rows(process)
    certain = process.is_clean(z[:, None], t)[:, 0]
    answers = {name: CONVERT[name](process, logits, z, t, predicts="leave_one_out") for name in CONVERT}
    for have, want in itertools.product(CONVERT, CONVERT):
        got = CONVERT[want](process, answers[have], z, t, predicts=have)
        # Where z can have come from one token only, the posterior has forgotten the rest.
        keep = ~certain if have == "posterior" and want != "posterior" else torch.ones_like(certain)
        assert_close(laws(got, want)[keep], laws(answers[want], want)[keep], rtol=1e-8, atol=1e-10)


@pytest.mark.parametrize("law", [conversions_are_their_definitions, conversions_are_undone])
@pytest.mark.parametrize("name", PROCESSES)
def test_conversions(name, law):
    law(PROCESSES[name]())


@settings(max_examples=40)
@given(processes())
def test_conversions_of_random_processes(make):
    process = make()
    conversions_are_their_definitions(process)
    conversions_are_undone(process)


def wrong_sign(logits, z, by):
    return logits.scatter_add(-1, z[..., None], -by[..., None].to(logits))


def no_signal(process, z, t):
    return -process.noise(t[:, None].double()).at(z[:, None]).log()[:, 0]


def no_noise_taken_out(process, outputs, z, t):
    return outputs.scatter(-1, z[:, None], 0).log_softmax(-1)


def scores_not_normalised(process, outputs, z, t):
    noise = process.noise(t[:, None]).dense()[:, 0]
    return (outputs.exp() - noise).clamp(min=0).log()


def double_noise(process, t):
    alpha, noise = SIGNAL_AND_NOISE(process, t)
    return alpha, 2 * noise


SIGNAL_AND_NOISE = evidence._signal_and_noise
MISTAKES = [
    ("_shift", wrong_sign),
    ("_log_odds", no_signal),
    ("solved", no_noise_taken_out),
    ("solved", scores_not_normalised),
    ("_signal_and_noise", double_noise),
]


@pytest.mark.parametrize(("place", "mistake"), MISTAKES, ids=lambda value: getattr(value, "__name__", value))
def test_planted_mistakes_are_seen(monkeypatch, place, mistake):
    monkeypatch.setattr(evidence, place, mistake)
    with pytest.raises(AssertionError):
        conversions_are_their_definitions(Stranger())
        conversions_are_undone(Stranger())


def every_sequence(process, length=3, time=0.4):
    """All noisy sequences, their time, and p_t(z) by enumeration of all clean ones."""
    oracle = nl.MarkovOracle(INITIAL, TRANSITION, process)
    x = oracle.tokens[torch.cartesian_prod(*[torch.arange(4)] * length)]
    z = torch.cartesian_prod(*[torch.arange(V)] * length)
    t = torch.full((len(z),), time, dtype=torch.float64)
    q = kernel(process, t[:1])[0]
    mass = (oracle.log_prob(x).exp()[:, None] * q[x[:, None], z].prod(-1)).sum(0)
    return oracle, z, t, mass


@pytest.mark.parametrize("name", PROCESSES)
def test_the_score_is_the_ratio_of_the_probabilities_of_neighbouring_sequences(name):
    oracle, z, t, mass = every_sequence(PROCESSES[name]())
    scores = nl.denoisers.Score(oracle, oracle.process)(z, t).exp()
    possible = mass > 0
    powers = V ** torch.arange(z.shape[1] - 1, -1, -1)
    for i, y in itertools.product(range(z.shape[1]), range(V)):
        neighbour = z.clone()
        neighbour[:, i] = y
        ratio = mass[(neighbour * powers).sum(-1)] / mass
        assert_close(scores[possible, i, y], ratio[possible], rtol=1e-9, atol=1e-12)


def marginalised_step(process, z, posterior, s, t):
    """The sum over v of q(z_s | z_t, v) p(v | z_t), from the two-step law of the forward process."""
    jump = kernel_between(process, s, t).gather(-1, z[:, None, None].expand(-1, V, 1))[..., 0]  # q(z_t | z_s)
    early, late = kernel(process, s), kernel(process, t)
    given_v = early * jump[:, None]  # [n, v, z_s]
    like = late.gather(-1, z[:, None, None].expand(-1, V, 1))
    step = torch.where(like > 0, given_v / torch.where(like > 0, like, 1), 0)
    return (posterior[:, None] @ step)[:, 0]


def kernel_between(process, s, t):
    """q(z_t | z_s) [n, z_s, z_t]: from `transition`, checked elsewhere against the two marginals."""
    columns = []
    for z in range(V):
        keep, fresh = process.factored_transition(torch.full((len(t), 1), z), s, t)
        columns.append(keep * (torch.arange(V) == z) + fresh)
    return torch.stack(columns, -1)


def one_step_for_all(process, convert=nl.parametrization.to_posterior):
    logits, z, t = possible_rows(process)
    s = t / 2
    plug_in = process.posterior(z[:, None], logits.softmax(-1)[:, None], s, t)[:, 0]
    posterior = convert(process, logits, z, t).softmax(-1)
    assert_close(marginalised_step(process, z, posterior, s, t), plug_in, rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize("name", PROCESSES)
def test_averaging_over_the_posterior_is_plugging_in_leave_one_out(name):
    one_step_for_all(PROCESSES[name]())


@settings(max_examples=30)
@given(processes())
def test_averaging_over_the_posterior_is_plugging_in_leave_one_out_at_random(make):
    one_step_for_all(make())


def test_averaging_over_another_law_is_not():
    with pytest.raises(AssertionError):
        one_step_for_all(Stranger(), convert=lambda process, logits, z, t: logits)


@pytest.mark.parametrize("name", PROCESSES)
def test_the_joint_of_d3pm_is_the_plug_in_step_of_whatever_it_is_given(name):
    """The sum over v of q(z_s, z_t | v) p(v), as Austin et al. write it, equation 4: no likelihood of z_t is divided out.

    Given the posterior it is therefore another step than the average over the posterior, unless noise is masks.
    """
    process = PROCESSES[name]()
    logits, z, t = possible_rows(process)
    s = t / 2
    posterior = nl.parametrization.to_posterior(process, logits, z, t).softmax(-1)
    jump = kernel_between(process, s, t).gather(-1, z[:, None, None].expand(-1, V, 1))[..., 0]
    joint = (posterior[:, None] @ kernel(process, s))[:, 0] * jump
    joint = joint / joint.sum(-1, keepdim=True)
    assert_close(joint, process.posterior(z[:, None], posterior[:, None], s, t)[:, 0])
    right = process.posterior(z[:, None], logits.softmax(-1)[:, None], s, t)[:, 0]
    assert ((joint - right).abs().max().item() > 0.02) == (name != "masked")


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("name", PROCESSES)
def test_low_precision(name, dtype):
    process = PROCESSES[name]()
    logits, z, t = possible_rows(process, dtype)
    exact = logits.double()
    scores = nl.parametrization.to_score(process, logits, z, t)
    assert scores.dtype == torch.float32 and nl.parametrization.to_posterior(process, logits, z, t).dtype == dtype
    wide = nl.parametrization.to_score(process, exact, z, t)
    assert_close(scores.double(), wide, rtol=1e-5, atol=1e-5)
    back = nl.parametrization.to_leave_one_out(process, scores, z, t, predicts="score").softmax(-1).double()
    assert_close(back, exact.softmax(-1), rtol=1e-3, atol=1e-5)


def test_a_wide_vocabulary_in_float32_near_both_ends_of_time():
    process = nl.gidd(vocab_size=20_001, mask_id=20_000, p_uniform=0.1)
    generator = torch.Generator().manual_seed(0)
    t = torch.tensor([1e-3, 0.5, 1 - 1e-3], dtype=torch.float64)
    z = torch.tensor([7, 20_000, 7])
    logits = 3 * torch.randn(3, 20_001, generator=generator)
    x_hat = logits[:, :-1].double().softmax(-1)
    scores = nl.parametrization.to_score(process, logits, z, t)
    assert_close(scores.double(), nl.parametrization.to_score(process, logits.double(), z, t), rtol=1e-5, atol=1e-4)
    back = nl.parametrization.to_leave_one_out(process, scores, z, t, predicts="score").double().softmax(-1)[:, :-1]
    assert float((back - x_hat).abs().sum(-1)[:2].max()) < 1e-3
    assert (
        float((back - x_hat).abs().sum(-1)[2]) < 0.1
    )  # noise is a thousand times the signal: 1e-7 becomes 1e-4 a token


def test_free_scores_that_no_prediction_has_are_clamped():
    process = nl.gidd(vocab_size=V, mask_id=4, p_uniform=0.3)
    z, t = torch.tensor([4, 4, 0]), torch.tensor([0.5, 0.5, 0.5])
    b = process.noise(t[:1, None].double()).dense()[0, 0]
    q = torch.stack([row(0.5 * b[0], 0.4, 0.2, 0.1, 0), 0.1 * b, row(0.3, 0.2, 0.1, 0.1, 0.3)])
    q[:2, 4] = 1 - q[:2, :4].sum(-1)
    scores = (q / q.gather(-1, z[:, None])).log()
    x_hat = nl.parametrization.to_leave_one_out(process, scores, z, t, predicts="score").softmax(-1)
    left = (q - b).clamp(min=0)[:, :4]
    assert_close(x_hat[0, :4], left[0] / left[0].sum())
    assert x_hat[0, 0] == 0 and (x_hat[:, 4] == 0).all()
    assert_close(x_hat[1, :4], row(0.25, 0.25, 0.25, 0.25))  # all below the noise: q itself, here even
    shifted = scores.scatter(-1, z[:, None], 17.0)  # the entry at z is 1 by definition, whatever a network says
    assert_close(nl.parametrization.to_leave_one_out(process, shifted, z, t, predicts="score").softmax(-1), x_hat)


def test_an_impossible_token_is_named_unless_unchecked():
    process = nl.Interpolation(1 - nl.t, {nl.Unigram(row(0.5, 0, 0.3, 0.2, 0)): nl.t}, support=torch.arange(V) < 4)
    z, t, logits = torch.tensor([0, 4]), torch.tensor([0.5, 0.25]), torch.zeros(2, V)
    for convert in CONVERT.values():
        with pytest.raises(ValueError, match=r"z must be possible at time t; got token 4 at t = 0.25"):
            convert(process, logits, z, t)
        convert(process, logits, z, t, check=False)
    with pytest.raises(ValueError, match=r"got token 1 at t = 1"):
        nl.parametrization.to_posterior(process, logits, torch.tensor([1, 1]), torch.tensor([0.25, 1.0]))


def test_another_name_of_a_prediction_is_refused(unchecked):
    with pytest.raises(ValueError, match="predicts must be one of 'leave_one_out', 'posterior', 'score'; got 'x0'"):
        nl.parametrization.to_posterior(
            Stranger(), torch.zeros(1, V), torch.zeros(1).long(), torch.full((1,), 0.5), predicts="x0"
        )


class Confused(nl.TokenDependentProcess):
    """Tokens are confused in pairs, then masked."""

    def alpha(self, t):
        return (1 - t) ** 2

    def mixing(self, t):
        pairs = torch.block_diag(*2 * [torch.full((2, 2), 0.5)], torch.ones(1, 1)).to(t)
        share = ((1 - t) / (2 - t))[..., None, None]
        return share * pairs + (1 - share) * torch.eye(5)[4].to(t).expand(5, 5)


def test_noise_that_depends_on_the_token():
    process = Confused(torch.arange(V) < 4)
    conversions_are_their_definitions(process)
    logits, z, t = possible_rows(process)
    posterior = nl.parametrization.to_posterior(process, logits, z, t)
    assert (posterior[z == 0][:, 2:] == -torch.inf).all()  # token 0 cannot have been 2 or 3
    back = nl.parametrization.to_leave_one_out(process, posterior, z, t)
    like = process.likelihood(z[:, None], t)[:, 0]
    want = logits.softmax(-1) * (like > 0)
    assert_close(back.softmax(-1), want / want.sum(-1, keepdim=True))
    # What is forgotten is not read: the reverse step is the same.
    step = [process.posterior(z[:, None], law.softmax(-1)[:, None], t / 2, t)[:, 0] for law in (logits, back)]
    assert_close(step[1], step[0])
    with pytest.raises(ValueError, match=r"requires state-independent corruption .* got a Confused"):
        nl.parametrization.to_leave_one_out(
            process, nl.parametrization.to_score(process, logits, z, t), z, t, predicts="score"
        )


def test_gradients_pass_through():
    process = Stranger()
    logits, z, t = possible_rows(process)
    for have, want in itertools.permutations(CONVERT, 2):
        start = CONVERT[have](process, logits, z, t, predicts="leave_one_out").detach().requires_grad_()

        def law(outputs, have=have, want=want):
            return laws(CONVERT[want](process, outputs, z, t, predicts=have), want)

        assert torch.autograd.gradcheck(law, (start,), atol=1e-6)
