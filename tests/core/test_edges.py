"""Legitimate use that is easy to get wrong; each of these once was."""

import copy

import pytest
import torch
from torch.testing import assert_close
from worlds import DATA, INITIAL, PROCESSES, TRANSITION, Learned, Stranger, V, row

import noiselab as nl
from noiselab.denoisers.transforms import as_leave_one_out
from noiselab.testing import check_process

t = nl.t


class Blend(nl.InterpolatingProcess):
    """Two noises as one naturally writes them: 0/0 at t = 0."""

    def __init__(self):
        super().__init__(DATA)

    def alpha(self, t):
        return 1 - t

    def mixing(self, t):
        mask, even = row(0, 0, 0, 0, 1), row(0.25, 0.25, 0.25, 0.25, 0)
        weights = t[..., None] * mask + (t * t)[..., None] * even
        return weights / weights.sum(-1, keepdim=True)


@pytest.mark.parametrize("steps", [1, 2, 16])
def test_a_mixing_that_is_0_over_0_at_an_end_is_taken_at_its_limit(steps):
    process = Blend()
    check_process(process)
    oracle = nl.MarkovOracle(INITIAL, TRANSITION, process)
    x = nl.AncestralSampler(process, oracle).sample((200, 6), steps=steps, generator=torch.Generator().manual_seed(0))
    assert (x < V - 1).all()


def test_a_mixing_that_is_0_over_0_where_there_is_no_signal_is_taken_at_its_limit():
    class Ending(Blend):
        def mixing(self, t):
            return super().mixing(t) * ((1 - t * t) / (1 - t) / (1 + t))[..., None]

    ends, z = row(0.0, 1.0), torch.tensor([[0, 4], [1, 4]])
    process = Ending()
    process.validate()
    # At t = 1 masks and other tokens have one half each.
    want = torch.stack([torch.eye(V, dtype=torch.float64)[[0, 4]], row(0.125, 0.125, 0.125, 0.125, 0.5).expand(2, -1)])
    assert_close(process.marginal(z, ends), want, rtol=0, atol=1e-9)
    assert_close(process.prior_log_prob(z, ends)[1].exp(), row(0.125, 0.5), rtol=0, atol=1e-9)


def test_noise_that_is_not_finite_at_an_end_is_refused():
    class Broken(Stranger):
        def noise(self, t):
            return super().noise(t)._replace(weights=super().noise(t).weights / t[..., None])

    with pytest.raises(ValueError, match="finite at both ends of time; it is not at t = 0"):
        Broken().validate()


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float32])
def test_moving_a_model_to_low_precision_leaves_its_probabilities_alone(dtype):
    law = torch.rand(50_000, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    process = nl.Interpolation(1 - t, {nl.Unigram(law / law.sum()): t})
    before = process.mixings[0].row.clone()
    moved = nl.denoisers.LeaveOneOut(nl.MarkovOracle(row(1.0), torch.ones(1, 1), process), process).to(dtype)
    assert torch.equal(process.mixings[0].row, before) and moved.inner.initial.dtype == torch.float64
    x = torch.zeros(1, 100_000, dtype=torch.long)
    z = process.corrupt(x, torch.ones(1), generator=torch.Generator().manual_seed(0))
    assert z.unique().numel() > 20_000


def test_samples_start_where_pure_noise_is_drawn():
    process = PROCESSES["gidd"]()
    sampler = nl.AncestralSampler(process, nl.MarkovOracle(INITIAL, TRANSITION, process))
    with pytest.raises(ValueError, match=r"times must start at 1.0, where pure noise is drawn; got 0.3"):
        sampler.sample((1, 3), times=torch.tensor([0.3, 0.0], dtype=torch.float64))
    sampler.sample((1, 3), times=torch.linspace(1.0000001, 0, 4))  # float32 may miss the end by its rounding


def test_a_denoiser_must_be_one_and_say_what_it_predicts(unchecked):
    process = PROCESSES["gidd"]()
    oracle = nl.MarkovOracle(INITIAL, TRANSITION, process)
    words = "predicts must be 'leave_one_out', 'posterior' or 'score'; got 'leave-one-out'"
    with pytest.raises(ValueError, match=words):
        oracle.predicts = "leave-one-out"

    class Mistyped(nl.MarkovOracle):
        predicts = "leave-one-out"

    with pytest.raises(ValueError, match=words):
        nl.AncestralSampler(process, Mistyped(INITIAL, TRANSITION, process))
    assert as_leave_one_out(
        nl.denoisers.Posterior(nl.MarkovOracle(INITIAL, TRANSITION, process), process), process
    ).predicts


def test_a_clean_token_that_data_cannot_contain_costs_infinitely_much_on_every_path():
    process = nl.Interpolation(1 - t, {nl.Absorbing(4, 5): t}, support=torch.tensor([True, True, True, False, False]))
    x, z, time = torch.tensor([[3, 0]]), torch.tensor([[4, 4]]), torch.tensor([0.5])
    logits = torch.randn(1, 2, 5, generator=torch.Generator().manual_seed(0))
    for bound in (nl.nelbo, nl.elbo.nelbo_dense):
        value = bound(process, logits, x, z, time)[0]
        assert value[0].isinf() and value[1].isfinite()
    assert nl.elbo.reconstruction(process, logits, x, z, time)[0, 0].isinf()


@pytest.mark.parametrize("name", ["gidd", "learned", "stranger"])
def test_the_ends_of_time_are_defined_for_every_objective(name):
    process = PROCESSES[name]()
    x, z = torch.tensor([[0, 1, 2]]), torch.tensor([[0, 3, 1]])
    time = torch.tensor([[0.0, 0.5, 1.0]])
    if name != "stranger":
        z = torch.tensor([[0, 4, 4]])
    logits = torch.randn(1, 3, V, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    bound = nl.nelbo(process, logits, x, z, time)
    assert bound.isfinite().all() and nl.objectives.Clipped(2.0)(process, x, z, time).isfinite().all()
    assert_close(nl.objectives.objective_loss(process, logits, x, z, time), bound)
    frozen = copy.deepcopy(process).requires_grad_(False)
    assert_close(nl.nelbo(frozen, logits, x, z, time), bound.detach(), rtol=1e-6, atol=1e-9)


def test_a_shorter_domain_has_ends_of_its_own():
    short = nl.Interpolation(1 - 2 * t, {nl.Absorbing(4, 5): 2 * t}, domain=(0.0, 0.5))
    x, z, logits = torch.tensor([[0]]), torch.tensor([[4]]), torch.zeros(1, 1, 5, dtype=torch.float64)
    at_end = nl.nelbo(short, logits, x, z, torch.tensor([0.5]))
    assert_close(at_end, 2 * nl.nelbo(nl.masked(vocab_size=5, mask_id=4), logits, x, z, torch.tensor([1.0])))


@pytest.mark.parametrize("time", [0.0, 1e-12, 1e-9, 1e-7])
def test_noise_that_vanishes_fast_does_not_overflow(time):
    process = nl.Interpolation(1 - t, {nl.Uniform(5000): t**2})
    logits = torch.full((1, 1, 5000), -30.0)
    logits[0, 0, [1, 2501]] = 0
    x = torch.tensor([[1]])
    assert nl.nelbo(process, logits, x, x, torch.tensor([time], dtype=torch.float64)).isfinite().all()


def test_the_fused_gradient_of_a_bfloat16_projection_is_summed_in_float32():
    generator = torch.Generator().manual_seed(0)
    process, n, width, states = nl.masked(vocab_size=64, mask_id=63), 4096, 8, 64
    x = torch.randint(63, (1, n), generator=generator)
    z, time = torch.full_like(x, 63), torch.tensor([0.5])
    hidden = torch.randn(1, n, width, generator=generator).bfloat16()
    weight = torch.randn(states, width, generator=generator).bfloat16()
    gradients = []
    for dtype in (torch.bfloat16, torch.float64):
        w = weight.to(dtype).clone().requires_grad_()
        scale = torch.full((1, n), 1 / n)
        nl.elbo.nelbo_fused(process, hidden.to(dtype), w, None, x, z, time, scale, rows=16)[0].backward()
        gradients.append(w.grad.double())
    assert (gradients[0] - gradients[1]).norm() < 0.006 * gradients[1].norm()


def test_copies_keep_their_own_noise():
    process = Stranger()
    other = copy.copy(process)
    other.mixing = lambda t: row(1.0, 0, 0, 0, 0)
    time = torch.full((1, 1), 0.5, dtype=torch.float64)
    assert_close(other.noise(time).dense()[0, 0], 0.25 * row(1.0, 0, 0, 0, 0))
    assert process.noise(time).dense()[0, 0, 1] > 0


def test_loading_a_support_edits_no_argument_and_is_noticed():
    support = DATA.clone()
    process = nl.Interpolation(1 - t, {nl.Uniform(V): t}, support=support)
    assert torch.equal(process.host_support(), DATA)
    process.load_state_dict({**process.state_dict(), "support": ~DATA})
    assert torch.equal(support, DATA) and torch.equal(process.host_support(), ~DATA)


def test_tokens_are_never_paired_with_the_logits_of_others():
    x = torch.zeros(2, 3, dtype=torch.long)
    with pytest.raises(ValueError, match=r"one \[batch, length\]; got \[3, 2\], \[2, 3\], \[2, 3\]"):
        nl.elbo.tokens.check_shapes(torch.zeros(3, 2, V), x, x)


def test_all_of_top_p_is_everything():
    logits = torch.randn(20, 1, 50_000, generator=torch.Generator().manual_seed(0))

    class Fixed(nl.Denoiser):
        def forward(self, z, t):
            return logits

    z = torch.zeros(20, 1, dtype=torch.long)
    for p in (1, 1.0):
        assert nl.TopP(Fixed(), p)(z, torch.ones(20)).isfinite().all()


@pytest.mark.parametrize("name", PROCESSES)
def test_empty_batches_and_int32_tokens(name):
    process = PROCESSES[name]()
    for shape in ((0, 3), (2, 0)):
        x = torch.zeros(shape, dtype=torch.long)
        with torch.no_grad():
            assert nl.nelbo(process, torch.zeros(*shape, V), x, x, torch.full(shape[:1], 0.5)).shape == shape
    x = process.data_tokens().nonzero()[:2, 0][None].int()
    time = torch.tensor([0.5])
    for bound in (nl.nelbo, nl.elbo.nelbo_dense):
        assert bound(process, torch.zeros(1, 2, V), x, x, time).shape == (1, 2)
    assert process.marginal(x, time).shape == (1, 2, V)


def test_a_learned_process_takes_the_fast_path_where_no_gradient_is_wanted(monkeypatch):
    process = nl.Interpolation(1 - t, {nl.Absorbing(V - 1, V): Learned(), nl.Uniform(DATA): 0.3 * t})
    x, logits = torch.zeros(1, 3, dtype=torch.long), torch.randn(1, 3, V, dtype=torch.float64)
    slow = nl.nelbo(process, logits, x, x, torch.tensor([0.5]))
    monkeypatch.setattr(nl.elbo.bound, "nelbo_dense", None)
    with torch.no_grad():
        assert_close(nl.nelbo(process, logits, x, x, torch.tensor([0.5])), slow.detach())


def test_small_misunderstandings_are_named():
    with pytest.raises(ValueError, match="tokens must be a number or Bool"):
        nl.Uniform.__init__.__wrapped__(nl.Uniform.__new__(nl.Uniform), torch.tensor([0, 1, 2]))
    assert_close((2**t)(row(0.0, 1.0)), row(1.0, 2.0))
    with pytest.raises(ValueError, match="at least one token"):
        nl.SelfCorrection(
            nl.MarkovOracle(INITIAL, TRANSITION, PROCESSES["gidd"]()), support=torch.zeros(V, dtype=torch.bool)
        )

    class Needy(Stranger):
        def mixing(self, t):
            return torch.ones(*t.shape, self.vocab_size) / self.vocab_size

    with pytest.raises(ValueError, match="set vocab_size first"):
        Needy().validate()

    class Branching(Stranger):
        def alpha(self, t):
            return max(0.0, 1 - t)

    with pytest.raises(ValueError, match="alpha must be elementwise in a tensor of times"):
        Branching().validate()


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda p, x: p.corrupt(x, 0.5), "t must be a tensor of times, .2. or .2, 3.; got 0.5"),
        (
            lambda p, x: p.corrupt(x[0], torch.tensor([0.5])),
            "tokens must have shape .batch, length., .*; got tokens of .3.",
        ),
        (lambda p, x: p.corrupt(x, torch.ones(2), generator=0), "generator must be a torch.Generator"),
        (lambda p, x: nl.discrete_bound(p, None, x, 16), r"times must be a grid, such as torch.linspace\(1, 0, 17\)"),
        (lambda p, x: nl.stratified_times(3, low=0.8, high=0.2), "times must rise from low to high; got 0.8 to 0.2"),
        (
            lambda p, x: nl.times.token_times(3, 2, low=0.8, high=0.2),
            "times must rise from low to high; got 0.8 to 0.2",
        ),
    ],
)
def test_slips_of_a_first_user_are_named(unchecked, call, message):
    with pytest.raises(ValueError, match=message):
        call(PROCESSES["gidd"](), torch.tensor([[0, 1, 2], [0, 1, 2]]))


def test_a_mixing_must_answer_for_times_of_any_shape():
    class Flat(nl.Mixing):
        vocab_size = 3

        def probs(self, t):
            return torch.full((3,), 1 / 3, dtype=torch.float64)

    with pytest.raises(
        ValueError, match=r"probs of Flat.* must have shape \[\*t.shape, 3\]; for times of shape \[2, 1\]"
    ):
        nl.Interpolation(1 - nl.t, {Flat(): nl.t})


class LettersThenMask(nl.InterpolatingProcess):
    """Letters with weight 1 - sin^2, the mask with sin^2: near t = 1 the letters' noise is a difference of numbers near 1."""

    def __init__(self, lost=0.0):
        super().__init__(torch.arange(V) < V - 1)
        self.lost = lost

    def alpha(self, t):
        return torch.cos(torch.pi * t / 2) ** 2

    def mixing(self, t):
        masked = torch.sin(torch.pi * t / 2)[..., None] ** 2
        letters, mask = (self.support / (V - 1)).double(), (~self.support).double()
        share = (1 - masked) * (1 - self.lost * t[..., None])
        return share * letters + (1 - share) * mask


def test_a_small_noise_that_is_a_difference_of_large_shares_is_valid():
    LettersThenMask().validate()
    check_process(LettersThenMask())


def test_but_one_that_falls_faster_than_the_signal_is_not():
    with pytest.raises(ValueError, match="rate into every token must be non-negative"):
        LettersThenMask(lost=1.0).validate()
