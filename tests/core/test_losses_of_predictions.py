"""Losses of every prediction: equal bounds, their minimisers by enumeration, exact numbers of masks."""

import itertools
import math
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from torch.testing import assert_close
from worlds import INITIAL, PROCESSES, TRANSITION, Learned, Stranger, V

import noiselab as nl
from noiselab.elbo import score
from noiselab.elbo.score import score_entropy_dense
from noiselab.objectives import elbo, low_variance

REFERENCE = Path(__file__).parents[1] / "fixtures" / "reference"


def batch(process, t, length=30, seed=0):
    generator = torch.Generator().manual_seed(seed)
    data = process.data_tokens().nonzero()[:, 0]
    x = data[torch.randint(0, 4, (len(t), length), generator=generator)]
    z = process.corrupt(x, t, generator=generator)
    return 2 * torch.randn(*x.shape, V, generator=generator, dtype=torch.float64), x, z


def rows_of(convert, process, outputs, z, t, **kwargs):
    times = (t if t.dim() == 2 else t[:, None]).double().expand(z.shape).flatten()
    return convert(process, outputs.flatten(0, 1), z.flatten(), times, **kwargs).view_as(outputs)


def every_time():
    return torch.cat([torch.linspace(0.02, 0.98, 9), torch.tensor([1e-4, 1 - 1e-4])]).double()


# Score entropy.


def score_entropy_is_the_bound(process, loss=nl.elbo.score_entropy):
    for t in (every_time(), torch.rand(5, 30, generator=torch.Generator().manual_seed(1), dtype=torch.float64)):
        logits, x, z = batch(process, t)
        leaves = [logits.clone().requires_grad_() for _ in range(2)]
        scores = rows_of(nl.parametrization.to_score, process, leaves[0], z, t)
        values = [loss(process, scores, x, z, t), nl.nelbo(process, leaves[1], x, z, t)]
        assert_close(values[0], values[1], rtol=1e-9, atol=1e-9)
        for value in values:
            value.sum().backward()
        assert_close(leaves[0].grad, leaves[1].grad, rtol=1e-6, atol=1e-8)


@pytest.mark.parametrize("name", PROCESSES)
def test_the_score_entropy_of_a_prediction_is_its_bound(name):
    score_entropy_is_the_bound(PROCESSES[name]())


def no_ratios(process, log_scores, x, z, t):
    return score_entropy_dense(process, log_scores + 0.01, x, z, t)


def other_token_at_z(process, log_scores, x, z, t):
    return score_entropy_dense(process, log_scores, z, z, t)


def data_tokens_only(process, log_scores, x, z, t):
    return score_entropy_dense(process, log_scores.index_fill(-1, torch.tensor(V - 1), -20.0), x, z, t)


@pytest.mark.parametrize("wrong", [no_ratios, other_token_at_z, data_tokens_only])
def test_mistaken_score_entropies_are_seen(wrong):
    with pytest.raises(AssertionError):
        score_entropy_is_the_bound(PROCESSES["gidd"](), wrong)


def test_a_mistaken_chunk_is_seen(monkeypatch):
    chunk = score._chunk

    def without_the_clean_token(log_s, b, x, z, *rest, **kwargs):
        return chunk(log_s, b, z, z, *rest, **kwargs)

    monkeypatch.setattr(score, "_chunk", without_the_clean_token)
    with pytest.raises(AssertionError):
        score_entropy_is_the_bound(Stranger())


@pytest.mark.parametrize("name", PROCESSES)
def test_free_scores_value_and_gradient_are_those_of_the_definition(name):
    process, t = PROCESSES[name](), every_time()
    free, x, z = batch(process, t)
    weight = torch.rand(x.shape, generator=torch.Generator().manual_seed(2), dtype=torch.float64)
    weight[0], weight[1] = 0, 1
    # Chunks of one token, within a sequence, of one and a half sequences, and of all.
    for chosen, chunk_bytes in itertools.product((None, weight), (1, 8 * V * 7, 8 * V * 45, 1 << 22)):
        leaves = [free.clone().requires_grad_() for _ in range(2)]
        values = [
            nl.elbo.score_entropy(process, leaves[0], x, z, t, weight=chosen, chunk_bytes=chunk_bytes),
            score_entropy_dense(process, leaves[1], x, z, t, weight=chosen),
        ]
        assert_close(values[0], values[1])
        assert (values[1] >= 0).all()
        upstream = torch.rand(x.shape, generator=torch.Generator().manual_seed(3), dtype=torch.float64)
        for value in values:
            value.backward(upstream)
        assert_close(leaves[0].grad, leaves[1].grad)
        assert torch.equal(leaves[0].detach(), free)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("name", ["masked", "gidd", "uniform", "stranger"])
def test_scores_of_low_precision(name, dtype):
    process, t = PROCESSES[name](), every_time()
    free, x, z = batch(process, t)
    low = free.to(dtype).requires_grad_()
    exact = nl.elbo.score_entropy(process, low.detach().double(), x, z, t)
    value = nl.elbo.score_entropy(process, low, x, z, t)
    assert value.dtype == torch.float32
    assert_close(value.double(), exact, rtol=1e-4, atol=1e-6 * exact.abs().max().item())
    value.sum().backward()
    assert low.grad.dtype == dtype and low.grad.isfinite().all()


def test_score_entropy_of_the_published_implementation():
    """SEDD's own loss, uniform and absorbing, at the scores that belong to the logits."""
    others = load_file(REFERENCE / "udlm_sedd.safetensors")
    for name, process in (
        ("uniform", nl.uniform(vocab_size=13)),
        ("absorbing", nl.masked(vocab_size=14, mask_id=13)),
    ):
        x, z, logits = (others[f"{name}.{key}"] for key in ("x", "z_t", "logits"))
        t, want = others["t"].double(), others[f"{name}.sedd_elbo"]
        scores = rows_of(nl.parametrization.to_score, process, logits, z, t)
        error = (nl.elbo.score_entropy(process, scores, x, z, t) - want).abs() / want.abs().clamp(min=1e-6 * want.max())
        assert error.max() < 1e-9


def test_score_entropy_where_noise_depends_on_the_token_and_where_it_is_learned():
    class Confused(nl.TokenDependentProcess):
        def alpha(self, t):
            return (1 - t) ** 2

        def mixing(self, t):
            pairs = torch.block_diag(*2 * [torch.full((2, 2), 0.5)], torch.ones(1, 1)).to(t)
            share = ((1 - t) / (2 - t))[..., None, None]
            return share * pairs + (1 - share) * torch.eye(5)[4].to(t).expand(5, 5)

    process, t = Confused(torch.arange(V) < 4), torch.tensor([0.2, 0.7])
    logits, x, z = batch(process, t)
    scores = rows_of(nl.parametrization.to_score, process, logits, z, t)
    bound = nl.nelbo(process, logits, x, z, t)
    assert_close(nl.elbo.score_entropy(process, scores, x, z, t), bound)
    posterior = rows_of(nl.parametrization.to_posterior, process, logits, z, t)
    for outputs, predicts in ((posterior, "posterior"), (scores, "score")):
        assert_close(nl.objectives.objective_loss(process, outputs, x, z, t, predicts=predicts), bound)
    with pytest.raises(ValueError, match="weight per token"):
        nl.elbo.score_entropy(process, scores, x, z, t, weight=torch.ones(z.shape))
    with pytest.raises(ValueError, match=r"reweighted objective, requires an InterpolatingProcess, .*; got a Confused"):
        nl.objectives.objective_loss(process, logits, x, z, t, nl.objectives.Clipped(1))

    power = Learned()
    learned = nl.Interpolation(1 - nl.t, {nl.Absorbing(V - 1, V): power, nl.Uniform(V): 0.3 * nl.t})
    logits, x, z = batch(learned, t)
    nl.elbo.score_entropy(learned, logits, x, z, t).mean().backward()
    assert power.power.grad.abs() > 1e-3


@pytest.mark.parametrize(
    ("shape", "message"), [((2, 30, 4), "width of the process, 5; got 4"), ((1, 30, V), "one \\[batch")]
)
def test_scores_of_another_shape(unchecked, shape, message):
    process, t = Stranger(), torch.tensor([0.3, 0.6])
    _, x, z = batch(process, t)
    with pytest.raises(ValueError, match=message):
        nl.elbo.score_entropy(process, torch.zeros(shape), x, z, t)


# The same bound from every prediction.


@pytest.mark.parametrize(
    "objective", [elbo, nl.objectives.Clipped(1.0), nl.objectives.Dynamic(0.1)], ids=["elbo", "clipped", "dynamic"]
)
@pytest.mark.parametrize("name", PROCESSES)
def test_objectives_of_every_prediction_agree(name, objective):
    process, t = PROCESSES[name](), torch.linspace(0.05, 0.95, 6)
    logits, x, z = batch(process, t)
    certain = process.is_clean(z, t)
    want = nl.objectives.objective_loss(process, logits, x, z, t, objective)
    for predicts, convert in (("posterior", nl.parametrization.to_posterior), ("score", nl.parametrization.to_score)):
        outputs = rows_of(convert, process, logits, z, t)
        got = nl.objectives.objective_loss(process, outputs, x, z, t, objective, predicts=predicts)
        # A reweighted loss may ask what the posterior of a revealed token has forgotten.
        keep = ~certain if predicts == "posterior" and objective is not elbo else torch.ones_like(certain)
        assert_close(got[keep], want[keep], rtol=1e-7, atol=1e-9)


@pytest.mark.parametrize("name", PROCESSES)
def test_the_bound_of_the_marginalised_step_by_its_own_formula(name):
    """Reverse rates averaged over the posterior, r sum_v p(v | z) q(y | v) / q(z | v), in the bound of a jump process."""
    process, t = PROCESSES[name](), torch.linspace(0.05, 0.95, 6)
    logits, x, z = batch(process, t)
    certain = process.is_clean(z, t)
    data = process.data_tokens()
    law = logits.masked_fill(~data, -torch.inf).softmax(-1)
    time, one_hot = process.interior(t, z), torch.eye(V, dtype=torch.float64)
    q = torch.stack([process.marginal(one_hot[v].expand(*z.shape, V), time) for v in range(V)], -2)
    at_z = z[..., None, None].expand(*z.shape, V, 1)
    ratio = q / q.gather(-1, at_z)
    guessed = (law[..., None] * ratio).nan_to_num(0, 0, 0).sum(-2)
    true = ratio.gather(-2, x[..., None, None].expand(*x.shape, 1, V))[..., 0, :]
    term = torch.special.xlogy(true, true) - torch.special.xlogy(true, guessed) - true + guessed
    want = process.rate_into(z, time) * term.scatter(-1, z[..., None], 0).sum(-1)
    got = nl.objectives.objective_loss(process, logits, x, z, t, predicts="posterior")
    assert_close(got[~certain], want[~certain], rtol=1e-9, atol=1e-9)
    assert (got[certain] == 0).all()
    assert name == "masked" or not torch.allclose(got, nl.nelbo(process, logits, x, z, t))


# Minimisers, by enumeration of all clean and noisy sequences of three tokens.


class World:
    def __init__(self, name, time=0.45):
        self.process, length = PROCESSES[name](), 3
        self.process.requires_grad_(False)
        oracle = nl.MarkovOracle(INITIAL, TRANSITION, self.process)
        x = oracle.tokens[torch.cartesian_prod(*[torch.arange(4)] * length)]
        z = torch.cartesian_prod(*[torch.arange(V)] * length)
        t = torch.full((len(z),), time, dtype=torch.float64)
        pairs = [(i, j) for i in range(len(x)) for j in range(len(z))]
        i, j = torch.tensor(pairs).T
        q = self.process.probability(x[i], z[j], t[j]).prod(-1)
        keep = q > 0
        self.rows, self.x, self.mass = j[keep], x[i[keep]], (oracle.log_prob(x[i]).exp() * q)[keep]
        self.z, self.t = z, t
        self.possible = torch.zeros(len(z)).index_add(0, self.rows, self.mass.float()) > 0
        logits = oracle(z[self.possible], t[self.possible])
        self.exact = {"leave_one_out": logits}
        for predicts, convert in (
            ("posterior", nl.parametrization.to_posterior),
            ("score", nl.parametrization.to_score),
        ):
            self.exact[predicts] = rows_of(convert, self.process, logits, z[self.possible], t[self.possible])

    def gradient(self, loss, outputs):
        """Of the expected loss, with respect to the outputs for every noisy sequence, at the exact ones."""
        table = torch.zeros(len(self.z), 3, V, dtype=torch.float64)
        table[self.possible] = outputs.clamp(min=-600)
        leaf = table.requires_grad_()
        value = loss(self.process, leaf[self.rows], self.x, self.z[self.rows], self.t[self.rows])
        (self.mass[:, None] * value).sum().backward()
        return leaf.grad.abs().max().item()


def bound_of(predicts):
    def loss(process, outputs, x, z, t):
        return nl.objectives.objective_loss(process, outputs, x, z, t, predicts=predicts)

    return loss


LOSSES = {  # which exact answer each loss is minimised by
    "plug-in bound": (bound_of("leave_one_out"), "leave_one_out"),
    "marginalised bound": (bound_of("posterior"), "posterior"),
    "cross-entropy": (nl.objectives.cross_entropy, "posterior"),
    "score entropy": (bound_of("score"), "score"),
}


@pytest.mark.parametrize("loss", LOSSES)
@pytest.mark.parametrize("name", ["masked", "gidd", "uniform", "sparse unigram", "stranger"])
def test_minimisers(name, loss):
    world, (function, trained) = World(name), LOSSES[loss]
    assert world.gradient(function, world.exact[trained]) < 1e-12
    for other in {"leave_one_out", "posterior"} - {trained}:
        if trained != "score":
            agree = name == "masked" and loss != "cross-entropy"
            assert (world.gradient(function, world.exact[other]) > 1e-3) == (not agree)


def test_cross_entropy_of_a_converted_network_trains_what_the_network_predicts():
    world = World("gidd")

    def loss(process, outputs, x, z, t):
        return nl.objectives.cross_entropy(process, outputs, x, z, t, predicts="leave_one_out")

    assert world.gradient(loss, world.exact["leave_one_out"]) < 1e-12
    assert world.gradient(loss, world.exact["posterior"]) > 1e-3


def test_the_low_variance_loss_is_the_cross_entropy_at_masks_and_has_the_minimiser_of_the_bound():
    process, t = PROCESSES["masked"](), every_time()
    logits, x, z = batch(process, t)
    masked = z == V - 1
    plain = torch.where(masked, nl.objectives.cross_entropy(process, logits, x, z, t), 0)
    assert_close(nl.objectives.objective_loss(process, logits, x, z, t, low_variance), plain, rtol=1e-9, atol=1e-9)
    assert_close(nl.nelbo(process, logits, x, z, t), plain / t[:, None], rtol=1e-9, atol=1e-9)
    world = World("masked")

    def loss(process, outputs, x, z, t):
        return nl.objectives.objective_loss(process, outputs, x, z, t, low_variance)

    assert world.gradient(loss, world.exact["leave_one_out"]) < 1e-12
    for name in ("gidd", "uniform", "stranger"):
        with pytest.raises(ValueError, match="noise must be masks only"):
            low_variance(PROCESSES[name](), x, z, t)


# Exact numbers of masks.

LENGTH, MASK = 4, V - 1


def subsets(x):
    """All sets of masked tokens of one sequence: (number, noisy sequence)."""
    for chosen in itertools.product([False, True], repeat=LENGTH):
        yield sum(chosen), torch.where(torch.tensor([chosen]), MASK, x)


def per_subset(seed):
    """For one sequence and a network of random outputs: (k, unweighted cross-entropy at the masks) of every subset."""
    process, x = PROCESSES["masked"](), torch.tensor([[0, 2, 1, 3]])
    generator, found = torch.Generator().manual_seed(seed), []
    for k, z in subsets(x):
        logits = torch.randn(1, LENGTH, V, generator=generator, dtype=torch.float64)
        if k:
            loss = nl.objectives.any_order_loss(process, logits, x, z)
            assert ((loss > 0) == (z == MASK)).all()
            found.append((k, loss.sum().item() * k / LENGTH))
            at_half = nl.nelbo(process, logits, x, z, torch.tensor([0.5], dtype=torch.float64)).sum().item() / 2
            assert at_half == pytest.approx(found[-1][1])
    return found


def moments_of_exact_counts(found):
    draws = [(1 / LENGTH / math.comb(LENGTH, k), LENGTH / k * loss) for k, loss in found]
    return [sum(p * value**power for p, value in draws) for power in (1, 2)]


def moments_of_the_bound(found, low=0.0, nodes=200):
    """Of the masked bound at uniform times in (low, 1), by quadrature in log t."""
    u, weight = (
        torch.linspace(0, 1, nodes + 1, dtype=torch.float64),
        torch.full((nodes + 1,), 1 / nodes, dtype=torch.float64),
    )
    weight[1::2], weight[2:-1:2], weight[0], weight[-1] = (v / 3 / nodes for v in (4, 2, 1, 1))
    low = max(low, 1e-12)
    t = low ** (1 - u)
    density = weight * t * -math.log(low)
    sums = [0.0, 0.0]
    for k, loss in found:
        chance = t**k * (1 - t) ** (LENGTH - k)
        for i in range(2):
            sums[i] += (density * chance * (loss / t) ** (i + 1)).sum().item()
    return sums


@pytest.mark.parametrize("seed", range(3))
def test_exact_counts_estimate_the_same_bound_with_less_variance(seed):
    found = per_subset(seed)
    mean, square = moments_of_exact_counts(found)
    bound, _ = moments_of_the_bound(found, nodes=2000)
    assert mean == pytest.approx(bound, rel=1e-8)
    squares = [moments_of_the_bound(found, low, nodes=2000)[1] for low in (1e-2, 1e-4, 1e-6)]
    assert all(square < other for other in squares)
    # Infinite variance: every factor 100 in the lowest time adds as much again.
    assert squares[2] - squares[1] == pytest.approx(squares[1] - squares[0], rel=0.05)


def test_a_count_from_zero_or_another_weight_is_another_number():
    found = per_subset(0)
    bound, _ = moments_of_the_bound(found, nodes=2000)
    mean, _ = moments_of_exact_counts(found)
    from_zero = mean * LENGTH / (LENGTH + 1)
    unweighted = sum(loss / LENGTH / math.comb(LENGTH, k) for k, loss in found)
    for wrong in (from_zero, unweighted):
        assert abs(wrong - bound) > 0.05 * bound


def test_every_set_of_so_many_tokens_is_as_likely():
    process, n = PROCESSES["masked"](), 24_000
    x = torch.tensor([[0, 2, 1, 3]]).expand(n, -1)
    counts = torch.arange(n) % (LENGTH + 1)
    z = nl.objectives.mask_exactly(process, x, counts, generator=torch.Generator().manual_seed(0))
    masked = z == MASK
    assert torch.equal(masked.sum(-1), counts) and torch.equal(z[~masked], x[~masked])
    for k in range(1, LENGTH):
        codes = (masked[counts == k] * 2 ** torch.arange(LENGTH)).sum(-1)
        seen = torch.bincount(codes)[torch.bincount(codes) > 0] / len(codes)
        p = 1 / math.comb(LENGTH, k)
        assert len(seen) == math.comb(LENGTH, k)
        assert ((seen - p).abs() < 5 * math.sqrt(p * (1 - p) / len(codes))).all()


def test_padding_is_neither_masked_nor_counted():
    process = PROCESSES["masked"]()
    x = torch.tensor([[0, 2, 1, 3, 0, 0], [1, 1, 0, 2, 3, 1]])
    real = torch.tensor([[1, 1, 1, 1, 0, 0], [1, 1, 1, 1, 1, 1]])
    z = nl.objectives.mask_exactly(process, x, torch.tensor([4, 2]), attention_mask=real)
    assert (z[0, 4:] == 0).all() and (z[0, :4] == MASK).all() and (z[1] == MASK).sum() == 2
    logits = torch.randn(2, 6, V)
    loss = nl.objectives.any_order_loss(process, logits, x, z, attention_mask=real)
    alone = nl.objectives.any_order_loss(process, logits[:1, :4], x[:1, :4], z[:1, :4])
    assert_close(loss[0, :4], alone[0])
    assert (loss[0, 4:] == 0).all()
    with pytest.raises(ValueError, match="noise must be masks only"):
        nl.objectives.mask_exactly(Stranger(), x, torch.tensor([1, 1]))
