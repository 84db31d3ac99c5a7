"""A third kind of process: a rate matrix for each group of tokens, in two primitives, and all that follows from them."""

import itertools
import re
from functools import partial
from pathlib import Path

import pytest
import torch
from exact_worlds import chi_square
from torch.nn.functional import one_hot

import noiselab as nl
from noiselab.process import NoiseProcess, as_token_times
from noiselab.testing import (
    ANY_PROCESS_LAWS,
    check_process,
    is_a_markov_process,
    laws_of,
    overrides_equal_definitions,
)

V, MASK = 4, 3
DATA = torch.arange(V) != MASK
INITIAL = torch.tensor([0.5, 0.3, 0.2], dtype=torch.float64)
TRANSITION = torch.tensor([[0.8, 0.15, 0.05], [0.1, 0.8, 0.1], [0.3, 0.1, 0.6]], dtype=torch.float64)


class GroupRates(NoiseProcess):
    r"""Tokens of a group turn into each other, and into the mask at a rate of their group: $q_{t|s} = e^{R (c_t - c_s)}$.

    The clock is $c_t = -\log(1 - t^2)$, and R = diag(mask) M + wander (K - 1) with the groups' uniform matrix K.
    """

    def __init__(self, groups=((0, 1), (2,)), mask=(1.0, 2.0), wander=0.7):
        super().__init__(DATA)
        self.vocab_size = V
        rates = torch.zeros(V, V, dtype=torch.float64)
        for tokens, rate in zip(groups, mask, strict=True):
            for x, y in itertools.product(tokens, tokens):
                rates[x, y] += wander / len(tokens)
            for x in tokens:
                rates[x, MASK] += rate
        self.register_buffer("rates", rates - torch.diag(rates.sum(-1)))

    def jumps(self, s, t):
        """The matrices of the forward transition, row the token at s: [batch, time, state, state]."""
        span = torch.log1p(-(s**2)) - torch.log1p(-((t.clamp(max=1 - 1e-12)) ** 2))
        return torch.matrix_exp(self.rates * span[..., None, None])

    def marginal(self, x, t):
        x = x if x.is_floating_point() else one_hot(x, V).double()
        t = as_token_times(t, x[..., 0])
        return (x.double()[..., None, :] @ self.jumps(torch.zeros_like(t), t))[..., 0, :]

    def transition(self, z, s, t):
        matrix = self.jumps(as_token_times(s, z), as_token_times(t, z)).expand(*z.shape, V, V)
        return matrix.gather(-1, z[..., None, None].expand(*z.shape, V, 1))[..., 0]


PROCESS = GroupRates()
ORACLE = nl.MarkovOracle(INITIAL, TRANSITION, PROCESS)


@pytest.mark.parametrize("law", ANY_PROCESS_LAWS, ids=lambda law: law.__name__)
def test_it_obeys_the_laws_of_a_process(law):
    assert laws_of(PROCESS) == ANY_PROCESS_LAWS
    check_process(PROCESS, [law])


class SlowMask(GroupRates):
    """Leaves out the later half of a transition."""

    def transition(self, z, s, t):
        s, t = as_token_times(s, z), as_token_times(t, z)
        return super().transition(z, s, (s + t) / 2)


class BackToData(GroupRates):
    """Masks turn into tokens: its rates are negative for a while."""

    def __init__(self):
        super().__init__(wander=0.7)
        self.rates[MASK, 0], self.rates[0, MASK] = -0.1, 0.9


@pytest.mark.parametrize(
    ("wrong", "message"),
    [(SlowMask(), "must lead from the marginal at s to that at t"), (BackToData(), "sum to 1|negative")],
    ids=["a transition that does not fit the marginal", "a negative rate"],
)
def test_what_is_no_markov_process_is_refused_in_words(wrong, message):
    with pytest.raises(ValueError, match=message):
        wrong.validate()
    with pytest.raises(AssertionError, match="is_a_markov_process"):
        check_process(wrong, [is_a_markov_process])


def test_overrides_of_it_are_compared_with_the_definitions():
    class Late(GroupRates):
        def rate(self, z, t):
            return 0.9 * super().rate(z, t)

    with pytest.raises(AssertionError, match=r"`Late.rate` differs from its definition, the slope of `transition`"):
        check_process(Late(), [overrides_equal_definitions])


@pytest.mark.parametrize("primitive", ["marginal", "transition"])
def test_a_kind_without_one_of_the_primitives_is_refused_by_its_name(primitive):
    kept = {name: getattr(GroupRates, name) for name in ("marginal", "transition") if name != primitive}
    half = type("Half", (NoiseProcess,), kept)
    with pytest.raises(TypeError, match=rf"Half .*{primitive}"):
        half()


def test_a_kind_without_a_number_of_tokens_says_so():
    class Nameless(GroupRates):
        def __init__(self):
            NoiseProcess.__init__(self)

    with pytest.raises(ValueError, match="must set vocab_size, the number of its tokens; Nameless does not"):
        Nameless().validate()


def entropy(length):
    x = nl.likelihood.every_sequence(3, length)
    log_p = ORACLE.log_prob(x)
    return -(log_p.exp() * log_p).sum().item()


def test_its_full_bound_is_the_entropy_and_its_definition_by_enumeration():
    """The bound of the exact denoiser, integrated over all noisy sequences, is the entropy of the data."""
    x = nl.likelihood.every_sequence(3, 2)
    weights = ORACLE.log_prob(x).exp()
    terms = nl.likelihood.expected_bound(PROCESS, ORACLE, x, nodes=32).mean(weights)
    assert abs(terms.total.item() - entropy(2)) < 1e-4

    # One token: sum over jumps y -> z of the true and of the predicted reverse rates, from the matrices themselves.
    t, x_hat = torch.tensor([0.6], dtype=torch.float64), torch.tensor([0.2, 0.5, 0.3, 0.0], dtype=torch.float64)
    speed = (2 * t / (1 - t**2)).item()
    law = PROCESS.jumps(torch.zeros(1, 1, dtype=torch.float64), t[:, None])[0, 0]
    for clean, z in itertools.product(range(3), range(V)):
        if law[clean, z] < 1e-12:
            continue
        want = 0.0
        for y in range(V):
            rate = (PROCESS.rates[y, z] * speed).item()
            if y != z and rate > 0:
                true = rate * law[clean, y] / law[clean, z]
                guess = rate * (x_hat @ law)[y] / (x_hat @ law)[z]
                want += (torch.special.xlogy(true, true / guess) - true + guess).item()
        got = nl.nelbo(PROCESS, x_hat.log()[None, None], torch.tensor([[clean]]), torch.tensor([[z]]), t)
        assert abs(got.item() - want) < 1e-9


def test_the_discrete_bound_is_that_of_the_enumerated_sampler():
    grid, x = torch.linspace(1, 0, 4, dtype=torch.float64), nl.likelihood.every_sequence(3, 2)
    law = nl.likelihood.model_law(PROCESS, ORACLE, 2, grid).view(V, V)[:3, :3].flatten()
    bound = nl.likelihood.expected_discrete_bound(PROCESS, ORACLE, x, grid).total
    data = ORACLE.log_prob(x).exp()
    assert law.sum().item() == pytest.approx(1)
    assert (data * (bound + law.log())).sum() > -1e-9


def p_value(sampler, n=2000, seed=0, **grid):
    x = sampler.sample((n, 3), generator=torch.Generator().manual_seed(seed), **grid)
    return chi_square(x, ORACLE.log_prob(nl.likelihood.every_sequence(3, 3)).exp())


def test_the_ancestral_sampler_draws_from_the_law_of_the_data():
    assert p_value(nl.AncestralSampler(PROCESS, ORACLE), steps=96) > 1e-3


def law_at(t, length=2):
    """The law of noisy sequences at t by enumeration, [V^length]."""
    x = nl.likelihood.every_sequence(3, length)
    rows = PROCESS.marginal(x, torch.full((len(x),), t, dtype=torch.float64))
    joint = ORACLE.log_prob(x).exp()[:, None] * rows[:, 0]
    for i in range(1, length):
        joint = (joint[:, :, None] * rows[:, i, None, :]).flatten(1)
    return joint.sum(0)


@pytest.mark.parametrize(
    ("make", "length"),
    [
        (nl.GibbsCorrector, 2),
        (partial(nl.correctors.BalancedCorrector, level=0.4), 2),
        (nl.correctors.ForwardBackwardCorrector, 1),
    ],
    ids=["gibbs", "balanced", "both ways"],
)
def test_correctors_leave_the_law_of_noisy_sequences_as_it_is(make, length):
    n, generator, time = 5_000, torch.Generator().manual_seed(1), 0.5
    t = torch.full((n,), time, dtype=torch.float64)
    z = PROCESS.corrupt(ORACLE.sample(n, length, generator=generator), t, generator=generator)
    corrector = make(PROCESS, ORACLE)
    for _ in range(3):
        z = corrector.step(z, t, generator=generator)
    assert chi_square(z, law_at(time, length), tokens=V) > 1e-3


def test_gibbs_between_the_steps_of_the_ancestral_sampler_draws_from_the_law_of_the_data():
    predictor = nl.AncestralSampler(PROCESS, ORACLE)
    assert p_value(nl.PredictorCorrector(predictor, nl.GibbsCorrector(PROCESS, ORACLE), repeats=2), steps=24) > 1e-3


def test_self_correction_takes_its_support_and_finds_the_error():
    correction = nl.SelfCorrection(ORACLE, process=PROCESS, temperature=0.1)
    x = torch.tensor([[0, 0, 2, 0, 0, 0]])
    mended = correction.correct(x, generator=torch.Generator().manual_seed(0))
    assert (mended < MASK).all() and ORACLE.log_prob(mended) > ORACLE.log_prob(x)


class Table(nl.Denoiser):
    """Logits from a token and its left neighbour: enough for two tokens of a Markov chain."""

    predicts = "leave_one_out"

    def __init__(self):
        super().__init__()
        self.table = torch.nn.Parameter(torch.zeros(V, V, dtype=torch.float64))

    def forward(self, z, t, rows=None):
        logits = self.table[z.flip(-1)]
        return logits if rows is None else logits[rows]


def test_it_trains():
    """By the bound, a network learns what the neighbour says of a token: its bound comes near the entropy."""
    table, generator = Table(), torch.Generator().manual_seed(0)
    optimizer = torch.optim.Adam(table.parameters(), 0.05)
    x = ORACLE.sample(512, 2, generator=generator)
    losses = []
    for _ in range(120):
        t = nl.stratified_times(len(x), generator=generator).clamp(1e-3, 1 - 1e-3)
        z = PROCESS.corrupt(x, t, generator=generator)
        loss = nl.nelbo(PROCESS, table(z, t), x, z, t).sum(-1).mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    assert sum(losses[-20:]) / 20 < sum(losses[:5]) / 5 - 0.2
    law = table.table[:3, :3].softmax(-1)
    assert (law.argmax(-1) == torch.arange(3)).all()


def test_it_is_plotted():
    figure = nl.plot_process(PROCESS, token=0, points=32)
    (axis,) = figure.axes
    labels = [text.get_text() for text in figure.legends[0].get_texts()]
    assert axis.get_title() == "what becomes of token 0" and "untouched" in labels and "token 3" in labels


def test_grids_and_nodes_follow_what_its_tokens_share_less():
    t = torch.linspace(0, 1, 33, dtype=torch.float64)
    signal, rest = PROCESS.signal_share(t)
    assert signal[0] == 1 and signal[-1] < 1e-9 and (signal.diff() < 0).all()
    torch.testing.assert_close(signal + rest, torch.ones_like(t))
    grid = nl.samplers.signal_grid(PROCESS, 4)
    torch.testing.assert_close(PROCESS.signal_share(grid)[0], torch.arange(5).double() / 4, atol=1e-6, rtol=0)


TAKES = {
    "AncestralSampler", "BlockSampler", "GuidedStepSampler", "EarlyStopping", "EndToken", "Infilling", "Prompted",
    "ConstrainedSampler", "SlidingBlockSampler",
    "BalancedCorrector", "DraftCorrector", "SuspectCorrector",
    "GibbsCorrector", "ForwardBackwardCorrector", "SelfCorrection", "PredictorCorrector",
}  # fmt: skip
REFUSES = {
    "ConfidenceSampler", "DeterministicSampler", "EntropyBoundedSampler", "EulerSampler", "FirstHittingSampler",
    "GillespieSampler", "JointThresholdSampler", "PathPlanningSampler", "RemaskingSampler", "RenoisingSampler",
    "TauLeapingSampler", "ThresholdSampler", "DraftSampler", "CommittingSampler", "DFMCorrector", "RemaskingCorrector",
}  # fmt: skip


def concrete(module, base):
    kinds = {name: getattr(module, name) for name in module.__all__}
    return {name for name, kind in kinds.items() if isinstance(kind, type) and issubclass(kind, base)}


def test_every_sampler_and_corrector_is_listed():
    samplers = concrete(nl.samplers, nl.Sampler) - {"Sampler", "WrappedSampler"}
    correctors = concrete(nl.correctors, (nl.Corrector, nl.Sampler)) - {"Corrector"}
    assert (samplers | correctors) == (TAKES | REFUSES) & (samplers | correctors)


@pytest.mark.parametrize("name", sorted(REFUSES))
def test_what_needs_factored_noise_says_so_and_names_what_does_not(name):
    kind = getattr(nl.samplers, name, None) or getattr(nl.correctors, name)
    with pytest.raises(ValueError, match=f"{name} needs an InterpolatingProcess; got GroupRates") as caught:
        kind(PROCESS, ORACLE)
    named = re.search(r" \(([\w, ]+) take any process\)", str(caught.value))
    assert named and set(named[1].split(", ")) <= TAKES


def test_the_guide_says_what_takes_any_process():
    page = (Path(__file__).parents[2] / "docs/guides/samplers.md").read_text(encoding="utf-8")
    sentence = re.search(r"Any other process.*?works with (.*?); the others refuse it", page, re.DOTALL)
    assert sentence
    named = set(re.findall(r"`(\w+)`", sentence[1]))
    assert (
        named
        == {"AncestralSampler", "BalancedCorrector", "GibbsCorrector", "ForwardBackwardCorrector", "SelfCorrection"}
        and named <= TAKES
    )


def test_scores_cannot_be_solved_and_weights_are_refused_in_words():
    class Scores(Table):
        predicts = "score"

    with pytest.raises(ValueError, match="solving a score for the clean token requires"):
        nl.AncestralSampler(PROCESS, Scores())
    x = torch.zeros(1, 2, dtype=torch.long)
    t, logits = torch.tensor([0.5], dtype=torch.float64), torch.zeros(1, 2, V)
    with pytest.raises(ValueError, match=r"weight per token, .* got a GroupRates"):
        nl.nelbo(PROCESS, logits, x, x, t, weight=torch.ones(1, 2))
    with pytest.raises(ValueError, match=r"reweighted objective, .* got a GroupRates"):
        nl.objectives.objective_loss(PROCESS, logits, x, x, t, nl.objectives.Clipped())
