"""Guidance: by hand, and by the exact law of a condition in small worlds."""

import itertools
import math

import pytest
import torch
from torch.testing import assert_close
from worlds import INITIAL, PROCESSES, TRANSITION, V

import noiselab as nl
from noiselab.denoisers import guidance
from noiselab.denoisers.guidance import ClassifierFreeGuidance, ClassifierGuidance, by_enumeration, first_order
from noiselab.process import as_token_times
from noiselab.processes import TokenRates

OTHER = TRANSITION.flip(0).roll(1, 1)
LENGTH = 3


def generator(seed=0):
    return torch.Generator().manual_seed(seed)


class Fixed(nl.Denoiser):
    """The same logits everywhere."""

    def __init__(self, logits, predicts="leave_one_out"):
        super().__init__()
        self.logits, self.predicts = torch.as_tensor(logits), predicts

    def forward(self, z, t):
        return self.logits.expand(*z.shape, -1)


class Tabular(nl.Denoiser):
    """The exact leave-one-out prediction for any law over sequences, by summing over them."""

    def __init__(self, process, x, law):
        super().__init__()
        self.process, self.x, self.law = process, x, law

    def likelihoods(self, z, t):
        """q_t(z_i | x_i) of all sequences x, [batch, length, sequences]."""
        like = self.process.likelihood(z, t)
        return like.gather(-1, self.x.T.expand(len(z), -1, -1))

    def forward(self, z, t):
        like = self.likelihoods(z, t)
        out = torch.zeros(*z.shape, self.process.vocab_size, dtype=torch.float64)
        for i in range(z.shape[1]):
            others = self.law * torch.cat([like[:, :i], like[:, i + 1 :]], 1).prod(1)
            out[:, i].index_add_(1, self.x[:, i], others)
        return (out / out.sum(-1, keepdim=True)).log()


def condition(x):
    """What sequences are asked for: the first and the last token differ, and the sum is odd."""
    return (x[:, 0] != x[:, -1]) & (x.sum(-1) % 2 == 1)


def conditional_world(process):
    """The oracle, all clean sequences, their law given the condition, and the exact classifier of noisy sequences."""
    oracle = nl.MarkovOracle(INITIAL, TRANSITION, process)
    x = oracle.tokens[nl.likelihood.every_sequence(4, LENGTH)]
    law = oracle.log_prob(x).exp()
    table = Tabular(process, x, law)

    def classifier(z, t):
        joint = law * table.likelihoods(z, as_token_times(t, z)).prod(1)
        return (joint[:, condition(x)].sum(-1) / joint.sum(-1)).log()

    given = torch.where(condition(x), law, 0) / law[condition(x)].sum()
    return oracle, x, given, classifier


def noisy(process, oracle, batch=40, seed=0):
    t = 0.05 + 0.9 * nl.categorical.uniforms(batch, LENGTH, generator=generator(seed))
    return process.corrupt(oracle.sample(batch, LENGTH, generator=generator(seed + 1)), t, generator=generator(seed)), t


def places(x, vocab_size):
    return (x * vocab_size ** torch.arange(x.shape[1] - 1, -1, -1)).sum(-1)


def chi_square(x, law, vocab_size):
    """Standard deviations by which counts of sequences are further from a law than chance has them; its zeros must hold."""
    count = torch.bincount(places(x, vocab_size), minlength=len(law)).double()
    some = law * len(x) > 5
    expected = torch.cat([law[some] * len(x), (law[~some].sum() * len(x))[None]])
    found = torch.cat([count[some], count[~some].sum()[None]])
    assert (count[law == 0] == 0).all()
    keep = expected > 0
    statistic = ((found - expected)[keep] ** 2 / expected[keep]).sum()
    free = int(keep.sum()) - 1
    return ((statistic - free) / (2 * free) ** 0.5).item()


# Classifier-free guidance.


def by_hand(c, u, w):
    """The stated rule, one token at a time."""
    masses = []
    for p, q in zip(c, u, strict=True):
        if (p == 0 and w > -1) or (q == 0 and w < 0):
            masses.append(0.0)
        elif p == 0 or q == 0:  # an infinite ratio of a truncated prediction: as if both agreed
            masses.append(p + q)
        else:
            masses.append(p ** (1 + w) * q**-w)
    return [m / sum(masses) for m in masses] if sum(masses) else list(c)


@pytest.mark.parametrize("weight", [-2.5, -1, -0.5, 0, 0.3, 1, 4])
@pytest.mark.parametrize(
    ("c", "u"),
    [
        ((0.5, 0.3, 0.2), (0.2, 0.2, 0.6)),
        ((0.7, 0.3, 0.0), (0.2, 0.2, 0.6)),
        ((0.7, 0.2, 0.1), (0.4, 0.6, 0.0)),
        ((0.7, 0.3, 0.0), (0.0, 0.6, 0.4)),
        ((0.4, 0.6, 0.0), (0.5, 0.5, 0.0)),
        ((1.0, 0.0, 0.0), (0.0, 0.0, 1.0)),
    ],
)
def test_two_predictions_are_combined_as_stated(c, u, weight):
    logits = [torch.tensor(p, dtype=torch.float64).log() for p in (c, u)]
    z, t = torch.zeros(1, 2, dtype=torch.long), torch.tensor([0.5])
    # Logits need not be normalised.
    guided = ClassifierFreeGuidance(Fixed(logits[0] + 3), Fixed(logits[1] - 2), weight)(z, t).softmax(-1)
    assert_close(guided, torch.tensor(by_hand(c, u, weight), dtype=torch.float64).expand(1, 2, 3))


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32])
@pytest.mark.parametrize("weight", [-3, -0.5, 7])
def test_extreme_logits_stay_numbers_in_every_dtype(dtype, weight):
    z, t = torch.zeros(1, 1, dtype=torch.long), torch.tensor([0.5])
    c = torch.tensor([6e4, 0, -6e4, -torch.inf], dtype=dtype)
    for u in (c.flip(0), torch.zeros(4, dtype=dtype), c):
        law = ClassifierFreeGuidance(Fixed(c), Fixed(u), weight)(z, t).softmax(-1)
        assert law.dtype == torch.float32 and law.isfinite().all()


@pytest.mark.parametrize("name", ["masked", "gidd", "uniform"])
def test_weights_0_and_minus_1_are_the_two_denoisers(name):
    process = PROCESSES[name]()
    c, u = (nl.MarkovOracle(INITIAL, rows, process) for rows in (TRANSITION, OTHER))
    for weight, one in ((0, c), (-1, u)):
        guided = ClassifierFreeGuidance(c, u, weight)
        z, t = noisy(process, c)
        assert torch.equal(guided(z, t), one(z, t).log_softmax(-1))
        samples = [
            nl.AncestralSampler(process, d).sample((50, 6), steps=6, generator=generator()) for d in (guided, one)
        ]
        assert torch.equal(*samples)


@pytest.mark.parametrize("steps", [2, 64])
@pytest.mark.parametrize("name", ["masked", "gidd", "uniform"])
def test_one_guided_token_has_the_guided_law_at_any_number_of_steps(name, steps):
    process, n = PROCESSES[name](), 20_000
    laws = torch.tensor([[0.4, 0.3, 0.2, 0.1], [0.25, 0.25, 0.25, 0.25]], dtype=torch.float64)
    guided = ClassifierFreeGuidance(*(nl.MarkovOracle(law, torch.eye(4, dtype=law.dtype), process) for law in laws), 2)
    x = nl.AncestralSampler(process, guided).sample((n, 1), steps=steps, generator=generator())
    want = torch.nn.functional.pad(laws[0] ** 3 / (laws[0] ** 3).sum(), (0, V - 4))
    assert chi_square(x, want, V) < 4


def test_guidance_of_the_transition_depends_on_the_number_of_steps():
    """The planted mistake for the test above, in a world with other noise than masks: the reverse transition is guided."""
    process, n, laws = PROCESSES["gidd"](), 20_000, torch.tensor([[0.4, 0.3, 0.2, 0.1], [0.25] * 4]).double()
    want = torch.nn.functional.pad(laws[0] ** 3 / (laws[0] ** 3).sum(), (0, V - 4))
    for steps in (2, 64):
        z, g = process.prior(n, 1, generator=generator()), generator(1)
        grid = torch.linspace(1, 0, steps + 1, dtype=torch.float64)
        for t, s in itertools.pairwise(grid):
            c, u = (
                process.posterior(z, torch.nn.functional.pad(law, (0, V - 4)).expand(n, 1, V), s.expand(n), t.expand(n))
                for law in laws
            )
            z = nl.categorical.choose(torch.where(c > 0, c**3 / u**2, 0), nl.categorical.uniforms(n, 1, generator=g))
        assert chi_square(z, want, V) > 6


@pytest.mark.parametrize("name", PROCESSES)
def test_guided_posteriors_are_the_posterior_of_guided_predictions(name):
    process = PROCESSES[name]()
    c, u = (nl.MarkovOracle(INITIAL, rows, process) for rows in (TRANSITION, OTHER))
    z, t = noisy(process, c)
    wrapped = ClassifierFreeGuidance(nl.denoisers.Posterior(c, process), nl.denoisers.Posterior(u, process), 1.5)
    assert wrapped.predicts == "posterior"
    found, want = (
        nl.denoisers.LeaveOneOut(d, process)(z, t).softmax(-1) for d in (wrapped, ClassifierFreeGuidance(c, u, 1.5))
    )
    open_ = ~process.is_clean(z, t)
    assert_close(found[open_], want[open_], rtol=1e-7, atol=1e-10)


def test_a_weight_may_be_a_schedule_and_every_token_has_its_own_time():
    c, u = torch.tensor([0.7, 0.3]).double(), torch.tensor([0.4, 0.6]).double()
    z, t = torch.zeros(1, 3, dtype=torch.long), torch.tensor([[0.1, 0.5, 1.0]])
    for weight in (2 * nl.t, lambda time: 2 * time):
        found = ClassifierFreeGuidance(Fixed(c.log()), Fixed(u.log()), weight)(z, t).softmax(-1)[0]
        want = [by_hand(c.tolist(), u.tolist(), 2 * time) for time in t[0].tolist()]
        assert_close(found, torch.tensor(want, dtype=torch.float64), rtol=1e-6, atol=0)
    assert "weight=2 * t)" in repr(ClassifierFreeGuidance(Fixed(c), Fixed(u), 2 * nl.t))


# A classifier.


@pytest.mark.parametrize("name", PROCESSES)
def test_the_exact_classifier_makes_the_oracle_of_the_conditioned_world(name):
    process = PROCESSES[name]()
    oracle, x, given, classifier = conditional_world(process)
    z, t = noisy(process, oracle)
    want = Tabular(process, x, given)(z, t).softmax(-1)
    possible = classifier(z, t).isfinite()
    assert possible.sum() > 10
    found = ClassifierGuidance(oracle, by_enumeration(classifier, process, at_once=17))(z, t).softmax(-1)
    # Where the neighbours exclude the condition, nothing is exact. The hybrid is not quite clean at the lower end.
    close = {"atol": 1e-3, "rtol": 0.0} if name == "log-SNR hybrid" else {"atol": 1e-10, "rtol": 1e-7}
    assert_close(found[possible], want[possible], **close)
    posterior = ClassifierGuidance(nl.denoisers.Posterior(oracle, process), by_enumeration(classifier, process))
    assert posterior.predicts == "posterior"
    open_ = possible[:, None] & ~process.is_clean(z, t)
    assert_close(nl.denoisers.LeaveOneOut(posterior, process)(z, t).softmax(-1)[open_], want[open_], **close)


@pytest.mark.parametrize(("name", "exact"), [("masked", True), ("gidd", False), ("uniform", False)])
def test_a_token_taken_for_a_noisy_one_is_another_question_except_among_masks(name, exact):
    process = PROCESSES[name]()
    oracle, x, given, classifier = conditional_world(process)
    z, t = noisy(process, oracle)
    possible = classifier(z, t).isfinite()
    want = Tabular(process, x, given)(z, t).softmax(-1)[possible]
    published = ClassifierGuidance(oracle, by_enumeration(classifier, process, clean=False))
    apart = (published(z, t).softmax(-1)[possible] - want).abs().max()
    assert apart < 1e-12 if exact else apart > 0.05


@pytest.mark.parametrize("name", ["masked", "gidd", "uniform on words"])
def test_the_guided_law_tends_to_that_of_the_condition(name):
    """The exact law of samples, against the conditional law; the divergence falls as steps grow."""
    process = PROCESSES[name]()
    oracle, x, given, classifier = conditional_world(process)
    guided = ClassifierGuidance(oracle, by_enumeration(classifier, process))
    some, where, left = given > 0, places(x, V), []
    for steps in (4, 16, 64):
        law = nl.likelihood.model_law(
            process, guided, LENGTH, torch.linspace(1, 0, steps + 1, dtype=torch.float64) ** 2
        )[where]
        left.append((given[some] * (given[some] / law[some]).log()).sum().item())
    assert left[0] > 3.5 * left[1] and left[1] > 3.5 * left[2] and left[2] < 0.015


def test_samples_have_the_conditional_law():
    process, n = PROCESSES["gidd"](), 8000
    oracle, x, given, classifier = conditional_world(process)
    law = torch.zeros(V**LENGTH, dtype=torch.float64).index_add(0, places(x, V), given)
    grid = torch.linspace(1, 0, 65, dtype=torch.float64) ** 2
    far = {}
    for clean in (True, False):
        # At t = 1 no noisy token is one of data: the classifier then knows nothing.
        told = classifier if clean else lambda z, t: classifier(z, t).nan_to_num(0, neginf=-torch.inf)
        guided = ClassifierGuidance(oracle, by_enumeration(told, process, clean=clean, at_once=1 << 16))
        drawn = nl.AncestralSampler(process, guided).sample((n, LENGTH), times=grid, generator=generator())
        if clean:
            assert condition(drawn).double().mean() > 0.98
        fits = drawn[condition(drawn)]  # the few that miss it, by two moves in one step, are counted above
        far[clean] = chi_square(fits, law, V)
    assert far[True] < 4 and far[False] > 10  # asking about noisy tokens is seen to fail


def test_a_weighted_classifier_by_hand():
    law, fit = torch.tensor([0.5, 0.3, 0.2, 0.0]).double(), torch.tensor([0.1, 0.2, 0.0, math.nan]).double()
    z, t = torch.zeros(1, 1, dtype=torch.long), torch.tensor([0.25])
    for weight, w in ((1, 1), (0, 0), (2.5, 2.5), (2 * nl.t, 0.5)):
        guided = ClassifierGuidance(Fixed(law.log()), lambda z, t, rows: fit.log().expand(1, 1, 4), weight)
        want = torch.tensor([0.5 * 0.1**w, 0.3 * 0.2**w, 0.0 if w else 0.2, 0.0]).double()
        assert_close(guided(z, t).softmax(-1)[0, 0], want / want.sum())


def test_where_nothing_can_fulfil_the_condition_the_prediction_stays():
    logits = torch.tensor([0.0, 1.0, -torch.inf])
    none = ClassifierGuidance(
        Fixed(logits), lambda z, t, rows: torch.tensor([-torch.inf, -torch.inf, 0.0]).expand(1, 1, 3)
    )
    assert torch.equal(none(torch.zeros(1, 1, dtype=torch.long), torch.ones(1))[0, 0], logits)


@pytest.mark.parametrize("name", ["masked", "gidd"])
def test_one_gradient_is_exact_for_a_classifier_linear_in_its_tokens(name):
    process = PROCESSES[name]()
    oracle = nl.MarkovOracle(INITIAL, TRANSITION, process)
    weights = torch.randn(LENGTH, V, generator=generator())
    z, t = noisy(process, oracle)

    def soft(one_hot, t):
        return (one_hot * weights).sum((-1, -2)) * (2 - t.view(len(t), -1).mean(-1))

    def hard(z, t):
        return soft(torch.nn.functional.one_hot(z, V).float(), t)

    one_time = t.mean(-1)
    for times in (t, one_time):
        exact = ClassifierGuidance(oracle, by_enumeration(hard, process, clean=False), 0.7)(z, times)
        with torch.inference_mode():
            found = ClassifierGuidance(oracle, first_order(soft, process), 0.7)(z, times)
        assert_close(found.softmax(-1), exact.softmax(-1), rtol=1e-5, atol=1e-6)
    x = nl.AncestralSampler(
        process, ClassifierGuidance(oracle, first_order(soft_of_batch(weights), process), 3)
    ).sample((400, LENGTH), steps=16, generator=generator())
    plain = nl.AncestralSampler(process, oracle).sample((400, LENGTH), steps=16, generator=generator())
    score = [weights.gather(-1, v.T).sum(0).mean() for v in (x, plain)]
    assert score[0] > score[1] + 0.5


def soft_of_batch(weights):
    return lambda one_hot, t: (one_hot * weights).sum((-1, -2))


# Both.


@pytest.mark.parametrize("name", PROCESSES)
def test_selected_rows_are_rows_of_the_whole(name):
    process = PROCESSES[name]()
    oracle, _, _, classifier = conditional_world(process)
    z, t = noisy(process, oracle)
    other, before, rows = nl.MarkovOracle(INITIAL, OTHER, process), z.clone(), nl.categorical.uniforms(*z.shape) < 0.4
    for denoiser in (
        ClassifierFreeGuidance(oracle, other, 2 * nl.t),
        ClassifierGuidance(oracle, by_enumeration(classifier, process), 1 - nl.t),
        ClassifierGuidance(oracle, first_order(soft_of_batch(torch.ones(LENGTH, V)), process)),
        nl.Temperature(ClassifierFreeGuidance(oracle, other, 1), 0.7),
    ):
        for times in (t, t[:, 0]):
            whole = denoiser(z, times)
            for some in (rows, torch.ones_like(rows), torch.zeros_like(rows)):
                assert_close(denoiser(z, times, some), whole[some], equal_nan=True)
        assert torch.equal(z, before)


def test_guided_batches_equal_guided_sequences():
    process = PROCESSES["gidd"]()
    oracle, _, _, classifier = conditional_world(process)
    for guided in (
        ClassifierFreeGuidance(oracle, nl.MarkovOracle(INITIAL, OTHER, process), 2),
        ClassifierGuidance(oracle, by_enumeration(classifier, process)),
    ):
        sampler = nl.AncestralSampler(process, guided)
        together = sampler.sample((4, LENGTH), steps=8, generator=[generator(seed) for seed in range(4)])
        alone = [sampler.sample((1, LENGTH), steps=8, generator=[generator(seed)]) for seed in range(4)]
        assert torch.equal(together, torch.cat(alone))


def test_noise_that_depends_on_the_token_can_be_guided():
    process = TokenRates(torch.tensor([1.0, 2.0, 4.0, 1.0, 1.0]), mask_id=4)
    oracle, x, given, classifier = conditional_world(process)
    z, t = noisy(process, oracle)
    possible = classifier(z, t).isfinite()
    guided = ClassifierGuidance(oracle, by_enumeration(classifier, process))
    assert_close(guided(z, t).softmax(-1)[possible], Tabular(process, x, given)(z, t).softmax(-1)[possible])
    now = torch.full((len(z),), 0.9, dtype=torch.float64)
    z = process.corrupt(oracle.sample(len(z), LENGTH, generator=generator()), now, generator=generator())
    after = nl.AncestralSampler(process, guided).step(z, now, now - 0.9, generator=generator())
    assert (after < 4).all()


@pytest.mark.parametrize("weight", [math.inf, math.nan, 1 / nl.t, lambda t: t.log()])
def test_weights_that_are_not_finite_are_refused(weight):
    c = Fixed(torch.zeros(3))
    with pytest.raises(ValueError, match="finite"):
        ClassifierFreeGuidance(c, c, weight)
    with pytest.raises(ValueError, match="finite"):
        ClassifierGuidance(c, lambda z, t, rows: torch.zeros(3), weight)


def test_what_cannot_be_guided_is_refused():
    plain, posterior, score = (Fixed(torch.zeros(3), predicts) for predicts in ("leave_one_out", "posterior", "score"))
    fit = by_enumeration(lambda z, t: torch.zeros(len(z)), nl.masked(vocab_size=3, mask_id=2))
    with pytest.raises(
        ValueError, match=r"have the same prediction type; got one .*'leave_one_out' and one .*'posterior'"
    ):
        ClassifierFreeGuidance(plain, posterior, 1)
    for make in (lambda: ClassifierFreeGuidance(score, score, 1), lambda: ClassifierGuidance(score, fit)):
        with pytest.raises(ValueError, match=r"wrap it in noiselab\.denoisers\.LeaveOneOut first"):
            make()
    with pytest.raises(ValueError, match="finite and non-negative at every time; got -1"):
        ClassifierGuidance(plain, fit, -1)
    with pytest.raises(ValueError, match="at_once must be at least 1"):
        by_enumeration(lambda z, t: z, nl.uniform(vocab_size=3), at_once=0)
    z, t = torch.zeros(1, 2, dtype=torch.long), torch.ones(1)
    with pytest.raises(ValueError, match="must have the same vocabulary"):
        ClassifierFreeGuidance(plain, Fixed(torch.zeros(4)), 1)(z, t)
    with pytest.raises(ValueError, match="must have the shape of the logits"):
        ClassifierGuidance(plain, lambda z, t, rows: torch.zeros(3))(z, t)


def test_they_print_in_a_line():
    plain = Fixed(torch.zeros(3))

    def ends_well(z, t):
        return z.sum(-1)

    guided = ClassifierGuidance(plain, by_enumeration(ends_well, nl.uniform(vocab_size=3)), 2)
    assert repr(guided) == "ClassifierGuidance(Fixed(), by_enumeration(ends_well), weight=2)"
    assert guidance._name(plain) == "Fixed"
