"""Processes that somebody else wrote, each with one mistake: `check_process` names the method and the place."""

import re
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from hypothesis import Phase, given, settings
from hypothesis import strategies as st
from worlds import DATA, V, row

import noiselab as nl
from noiselab.process import as_token_times
from noiselab.testing import PROCESS_LAWS, TOKEN_DEPENDENT_LAWS, Laws, ProcessLaws, agree, check_process

ROW = row(0.4, 0.3, 0.2, 0.1, 0.0)
MASK = row(0, 0, 0, 0, 1)


class Outsider(nl.InterpolatingProcess):
    """Right: words that turn into masks."""

    def __init__(self):
        super().__init__(DATA)

    def alpha(self, t):
        return 1 - t

    def mixing(self, t):
        return (1 - t)[..., None] * ROW + t[..., None] * MASK


# Mistakes in `alpha` and `mixing`.


class AddsTheVocabularyToTheTime(Outsider):
    def mixing(self, t):
        return (1 - t) * ROW + t * MASK


class ForgetsOneOfTwoAxes(Outsider):
    def mixing(self, t):
        return (1 - t).reshape(-1, 1) * ROW + t.reshape(-1, 1) * MASK


class FirstTimeForAll(Outsider):
    def mixing(self, t):
        return super().mixing(t[..., :1]).expand(*t.shape, V)


class NoMasksAtFirst(Outsider):
    def mixing(self, t):
        return super().mixing(t) if t.mean() > 0.4 else ROW[:4].expand(*t.shape, 4)


class Jitter(Outsider):
    def alpha(self, t):
        return 1 - t**2 * (1 + 1e-3 * torch.rand(()))


class CountsItsCalls(Outsider):
    calls = 0

    def mixing(self, t):
        self.calls += 1
        share = t[..., None] ** (1 + self.calls / 100)
        return (1 - share) * ROW + share * MASK


class ClampsItsArgument(Outsider):
    def alpha(self, t):
        return 1 - t.clamp_(1e-4, 1 - 1e-4)


class Detached(Outsider):
    def alpha(self, t):
        return 1 - t.detach() ** 2


class DetachedMixing(Outsider):
    def mixing(self, t):
        return super().mixing(t.data)


class Numpy(Outsider):
    def alpha(self, t):
        return torch.from_numpy(1 - t.numpy() ** 2)


class Floats(Outsider):
    def alpha(self, t):
        return torch.tensor([1 - float(time) ** 2 for time in t.flatten()], dtype=t.dtype).view(t.shape)


class TableOfAThousandSteps(Outsider):
    def alpha(self, t):
        return torch.linspace(1, 0, 1001, dtype=torch.float64)[(t * 1000).round().long()]


class SinglePrecision(Outsider):
    def alpha(self, t):
        return torch.cos(torch.pi / 2 * t.float()).double()


class SinglePrecisionMixing(Outsider):
    def mixing(self, t):
        return super().mixing(t).float()


class FloatBuffer(Outsider):
    def __init__(self):
        super().__init__()
        self.register_buffer("words", torch.tensor([0.4, 0.3, 0.2, 0.1, 0.0]))

    def mixing(self, t):
        return (1 - t)[..., None] * self.words + t[..., None] * MASK


class TimeRunsBackwards(Outsider):
    def alpha(self, t):
        return t


class Logits(Outsider):
    def mixing(self, t):
        return (1 - t)[..., None] * ROW.log().clamp(min=-9) + t[..., None] * MASK


class NotNormalised(Outsider):
    def mixing(self, t):
        return ROW + t[..., None] * MASK


class MasksVanish(Outsider):
    def mixing(self, t):
        return super().mixing((1 - t) ** 4)


# Mistakes in an override, made for speed.


class FastRate(Outsider):
    def rate_into(self, z, t):  # leaves out that the mixing moves
        t = as_token_times(t, z)
        return self.noise(t).at(z) / (t * (1 - t))


class RateOfOneTimePerSequence(Outsider):
    def rate_into(self, z, t):
        return super().rate_into(z, t if t.dim() == 1 else t[:, 0])


class FastNoise(Outsider):
    def noise(self, t):
        part = nl.Unigram(row(0.4, 0.3, 0.2, 0.1, 0.0)), nl.Absorbing(4, V)
        return nl.mixing.NoiseMass(torch.stack([t * (1 - t), t], -1), part, t)


class FastMarginal(Outsider):
    def marginal(self, x, t):
        if x.is_floating_point():
            return super().marginal(x, t)
        one_hot = torch.nn.functional.one_hot(x, V)
        return self.alpha(as_token_times(t, x))[..., None] * one_hot + self.noise(as_token_times(t, x)).dense() * (
            1 - one_hot
        )


class FastLikelihood(Outsider):
    def likelihood(self, z, t):
        return self.marginal(z, t)


class FastProbability(Outsider):
    def probability(self, x, z, t):
        return torch.where(x == z, self.alpha(as_token_times(t, z)), self.noise(as_token_times(t, z)).at(z))


class FastJump(Outsider):
    def factored_transition(self, z, s, t):
        keep, _ = super().factored_transition(z, s, t)
        return keep, (1 - keep) * self.noise(as_token_times(t, z)).at(z)


class FastWeight(Outsider):
    def elbo_weight(self, x, z, t):
        t = as_token_times(t, z)
        return torch.where(x == z, 0.0, 1 / t).expand(z.shape)


class RevealsWords(Outsider):
    def is_clean(self, z, t):
        return z != V - 1


class RevealsNothing(Outsider):
    """Its words are masked at once, so that every word is revealed."""

    def mixing(self, t):
        return MASK

    def is_clean(self, z, t):
        return torch.zeros_like(z, dtype=torch.bool)


class ScoresAsPrediction(Outsider):
    def solve_score(self, log_scores, z, t):
        return log_scores.scatter(-1, z[:, None], 0)


class SolvesAtAnotherTime(Outsider):
    def solve_score(self, log_scores, z, t):
        return super().solve_score(log_scores, z, 0.9999 * t)


class SolvesWithoutTheToken(Outsider):
    def solve_score(self, log_scores, z, t):
        return super().solve_score(log_scores, z, t).scatter(-1, z[:, None], -torch.inf)


class SharpPosterior(Outsider):
    def posterior(self, z, x_hat, s, t):
        law = super().posterior(z, x_hat, s, t) ** 2
        return law / law.sum(-1, keepdim=True)


class EditsItsPrediction(Outsider):
    def posterior(self, z, x_hat, s, t):
        x_hat[..., V - 1] = 0
        x_hat[..., 0] += 0.01
        return super().posterior(z, x_hat, s, t)


class CorruptsTooLate(Outsider):
    def corrupt(self, x, t, *, generator=None):
        return super().corrupt(x, t + 0.03 * (1 - t), generator=generator)


class CorruptsAtItsOwnWill(Outsider):
    def corrupt(self, x, t, *, generator=None):
        noisy = torch.rand(x.shape) < as_token_times(t, x)
        return torch.where(noisy, torch.multinomial(self.mixing(t), x.shape[1], replacement=True), x)


class OneCoin(Outsider):
    def corrupt(self, x, t, *, generator=None):
        u = torch.rand(len(x), 1, generator=generator).double()
        fresh = torch.rand(*x.shape, 2, generator=generator).double()
        t = as_token_times(t, x)
        return torch.where(u < self.alpha(t), x, self.noise(t).choose(fresh[..., 0], fresh[..., 1]))


class FloatAlpha(Outsider):
    def alpha(self, t):
        return 0.5


class AllMasks(Outsider):
    def prior(self, batch, length, *, generator=None, device=None):
        return torch.full((batch, length), V - 2)


# Mistakes in a part of an Interpolation.


class Rotated(nl.Unigram):
    def at(self, z, t):
        return self.row[(z + 1) % V]


class DrawsTheWrongWay(nl.Unigram):
    def choose(self, u, t):
        return super().choose(1 - u, t).clamp(max=2)


class FlatProfile(nl.Unigram):
    def profile(self, support):
        return 0.25


class WrongFactors(nl.Unigram):
    def factors(self, t):
        return nl.mixing.NoiseMass(torch.ones_like(t)[..., None], (nl.Uniform(V),), t)


class Leaky(nl.Mixing):
    vocab_size = V

    def probs(self, t):
        return torch.full((*t.shape, V), 1 / V, dtype=t.dtype)


class Leaks(Outsider):
    def mixing(self, t):
        return torch.full((*t.shape, V), 1 / V, dtype=t.dtype)

    def noise(self, t):
        return nl.mixing.NoiseMass(t[..., None], (Leaky(support=DATA),), t)


def composed(part):
    return nl.Interpolation(1 - nl.t, {part: nl.t}, support=DATA)


# Who: (law that names it, what it says).
MISTAKES = {
    AddsTheVocabularyToTheTime: ("time_is_elementwise", r"`mixing` must take times .* for \[7\] .* t\[\.\.\., None\]"),
    ForgetsOneOfTwoAxes: ("time_is_elementwise", r"`mixing` must have shape \[2, 3, 5\] .*; got \[6, 5\]"),
    FirstTimeForAll: (
        "time_is_elementwise",
        r"`mixing` of times of shape \[7\] differs .* at token \d, t = 0\.\d+: got",
    ),
    NoMasksAtFirst: ("time_is_elementwise", r"`mixing` must have shape .*; got \[1, 4\] at t = 0\.\d+"),
    Jitter: ("time_is_elementwise|same_times_same_answer", r"`alpha` .* at t = 0\.\d+: got"),
    CountsItsCalls: ("time_is_elementwise|same_times_same_answer", r"`mixing` .* at token \d, t = 0\.\d+: got"),
    ClampsItsArgument: (
        "arguments_stay_as_they_are",
        r"`alpha` edits its argument t in place at t = 0: got 0.0001, want 0",
    ),
    Detached: ("derivatives_reach_time", r"the derivative of `alpha` is 0 at every time, .*no detach"),
    DetachedMixing: ("derivatives_reach_time", r"the derivative of `mixing` is 0 at every time, .*no detach"),
    Numpy: ("derivatives_reach_time", r"no derivative of `alpha` can be taken"),
    Floats: ("derivatives_reach_time", r"derivative of `alpha`"),
    TableOfAThousandSteps: ("derivatives_reach_time", r"the derivative of `alpha` is 0 at every time, .*no table"),
    SinglePrecision: ("times_keep_their_digits", r"`alpha` is rounded, as by float32: .* t = 0\.\d+"),
    SinglePrecisionMixing: ("times_keep_their_digits", r"`mixing` is rounded, as by float32: .* t = 0\.\d+"),
    FloatBuffer: (
        "low_precision_leaves_it_alone",
        r"`mixing` changes when .* bfloat16 .* at token \d, t = 0\.\d+: got",
    ),
    TimeRunsBackwards: ("is_a_markov_process", r"alpha must be 1 at t = 0, .* got 0 \(does its time run backwards\?"),
    Logits: ("is_a_markov_process", r"mixing must be non-negative and sum to 1; .* at t = .*\(logits"),
    NotNormalised: ("is_a_markov_process", r"mixing must be non-negative and sum to 1; got sum 1\.0+1.* at t ="),
    MasksVanish: ("is_a_markov_process", r"rate into every token .* got -.* into token 4 at t = 0\.\d+"),
    FastRate: (
        "overrides_equal_definitions",
        r"`FastRate.rate_into` differs .* b' .* at token \d, t = 0\.\d+: got .*, want",
    ),
    RateOfOneTimePerSequence: (
        "overrides_equal_definitions",
        r"`RateOfOne\w+.rate_into` .* of shape \[batch, length\], at token",
    ),
    FastNoise: (
        "noise_is_the_share_of_mixing|overrides_equal_definitions",
        r"`FastNoise.noise`\(t\).* at token 4, t = 0",
    ),
    FastMarginal: ("overrides_equal_definitions", r"`FastMarginal.marginal` of tokens .* at x = (\d), token \1, t = 0"),
    FastLikelihood: ("overrides_equal_definitions", r"`FastLikelihood.likelihood` .* at z = \d, token \d, t = 0"),
    FastProbability: ("overrides_equal_definitions", r"`FastProbability.probability` .* at x = (\d), token \1, t = 0"),
    FastJump: (
        "overrides_equal_definitions",
        r"`FastJump.factored_transition` \(the rest\) .* at s = 0\.\d+, token \d, t = 0",
    ),
    FastWeight: ("overrides_equal_definitions", r"`FastWeight.elbo_weight` .* at x = \d, token \d, t = 0"),
    RevealsWords: (
        "overrides_equal_definitions",
        r"`RevealsWords.is_clean` .* at token \d, t = .*: got True, want False",
    ),
    RevealsNothing: (
        "overrides_equal_definitions",
        r"`RevealsNothing.is_clean` .* at token \d, t = .*: got False, want True",
    ),
    ScoresAsPrediction: (
        "overrides_equal_definitions",
        r"`ScoresAsPrediction.solve_score` .* at token \d, z = \d, t = 0",
    ),
    SolvesAtAnotherTime: (
        "overrides_equal_definitions",
        r"`SolvesAtAnotherTime.solve_score` .* at token \d, z = \d, t = 0",
    ),
    SolvesWithoutTheToken: (
        "overrides_equal_definitions",
        r"`SolvesWithoutTheToken.solve_score` .* at token \d, z = \d, t = 0",
    ),
    SharpPosterior: (
        "overrides_equal_definitions",
        r"`SharpPosterior.posterior` .* at z = \d, s = .*, token \d, t = 0",
    ),
    EditsItsPrediction: ("overrides_equal_definitions", r"`EditsItsPrediction.posterior` edits an argument in place"),
    CorruptsTooLate: (
        "draws_have_the_marginal_law",
        r"draws of `corrupt` at token \d, x = \d, t = 0\.\d+: .* probability",
    ),
    CorruptsAtItsOwnWill: ("draws_follow_their_generator", r"`corrupt` does not take its randomness from `generator`"),
    OneCoin: ("positions_are_independent", r"two neighbours become tokens \d and \d"),
    FloatAlpha: ("time_is_elementwise", r"`alpha` must return a torch tensor; got a float"),
    AllMasks: ("draws_have_the_marginal_law", r"draws of `prior` at token [34]: "),
    Rotated: ("shortcuts_equal_definitions", r"`Rotated.at` differs from `Rotated.probs` at token \d, t = 0"),
    DrawsTheWrongWay: ("shortcuts_equal_definitions", r"`DrawsTheWrongWay.choose` differs .* at token [23], t = 0"),
    FlatProfile: (
        "shortcuts_equal_definitions",
        r"`FlatProfile.profile` differs .* at token \d, t = .*: got 0.25, want",
    ),
    WrongFactors: ("shortcuts_equal_definitions", r"`WrongFactors.factors` differ .* at token \d, t = 0"),
    Leaks: ("is_a_markov_process|shortcuts_equal_definitions", r"mass outside its support.* token 4.* t = 0"),
}


def make(kind):
    return composed(kind(ROW)) if issubclass(kind, nl.Unigram) else kind()


@pytest.mark.parametrize("kind", MISTAKES, ids=lambda kind: kind.__name__)
def test_a_planted_mistake_is_named(kind):
    law, words = MISTAKES[kind]
    last = max(k for k, each in enumerate(PROCESS_LAWS) if each.__name__ in law.split("|"))
    with pytest.raises(AssertionError) as error:
        check_process(make(kind), PROCESS_LAWS[: last + 1])
    first, problem = str(error.value).split("\n")[:2]
    assert re.search(f"breaks the law «({law})»", first), first
    assert re.search(words, problem), problem


class TestOutsider(ProcessLaws):
    def process(self):
        return Outsider()


@settings(max_examples=8, phases=[Phase.generate])
@given(st.floats(0.4, 3), st.floats(0, 1), st.floats(0.0, 0.2), st.sampled_from([None, DATA]), st.booleans())
def test_right_processes_of_others_pass(power, turn, low, support, fast):
    """Any power of t, words that turn into an even law and masks, any lower end of time; with and without overrides."""

    class Right(nl.InterpolatingProcess):
        domain = (low, 1.0)

        def alpha(self, t):
            return 1 - t**power

        def mixing(self, t):
            even, share = torch.full((V,), 1 / V, dtype=torch.float64), turn * self.alpha(t)[..., None]
            return share * ROW + (1 - share) * even

    class Fast(Right):
        def noise(self, t):
            signal, even = self.alpha(t), nl.Uniform(V)
            first = turn * signal * (1 - signal)
            return nl.mixing.NoiseMass(torch.stack([first, 1 - signal - first], -1), (nl.Unigram(ROW), even), t)

        def probability(self, x, z, t):
            return self.marginal(x, t).gather(-1, z[..., None])[..., 0]

    check_process((Fast if fast else Right)(support))


def test_all_broken_laws_are_listed_after_the_first():
    with pytest.raises(
        AssertionError, match=r"(?s)«overrides_equal_definitions».*\nBroken too: .*rate_is_the_slope_of_jump"
    ):
        check_process(FastRate())


def test_rare_tokens_are_no_false_alarm():
    frequencies = 1 / torch.arange(1, 65, dtype=torch.float64) ** 2
    check_process(nl.Interpolation(1 - nl.t, {nl.Unigram(frequencies / frequencies.sum()): nl.t}))


@pytest.mark.parametrize("words", [[0.7, 0.1, 0.1, 0.1], [0.05, 0.15, 0.35, 0.45]])
def test_weights_in_float32_are_no_false_alarm(words):
    """Rows that are written in float32 sum to 1 only to seven digits; near t = 1 the signal is as small."""

    class Drifting(nl.InterpolatingProcess):
        def alpha(self, t):
            return torch.cos(torch.pi * t / 2)

        def mixing(self, t):
            common = torch.tensor(words)
            return common + t[..., None] * (0.25 - common)

    check_process(Drifting())


def test_a_large_process_is_refused():
    with pytest.raises(ValueError, match="at most 256: check the process at a smaller size; got 257"):
        check_process(nl.uniform(vocab_size=257))


def test_what_is_no_process_is_refused(unchecked):
    with pytest.raises(ValueError, match="got Unigram"):
        check_process(nl.Unigram(ROW))


@pytest.mark.parametrize("got", [1.5, float("nan")])
def test_agree_names_the_place(got):
    want = torch.arange(6.0).view(2, 3)
    wrong = want.index_put((torch.tensor(1), torch.tensor(2)), torch.tensor(got))
    with pytest.raises(AssertionError, match=f"^x at token 2, t = 0.35: got {got}, want 5$"):
        agree("x", wrong, want, token=torch.arange(3), t=torch.tensor([[0.1], [0.35]]))
    agree("x", want + 1e-12, want)


def test_laws_become_tests():
    found = {name for name in dir(ProcessLaws) if name.startswith("test_")}
    assert found == {f"test_{law.__name__}" for law in PROCESS_LAWS}
    assert ProcessLaws.test_two_jumps_are_one.__doc__.startswith("Chapman-Kolmogorov")


def test_other_laws_can_become_tests():
    def is_positive(number):
        """It is above 0."""
        assert number > 0

    class NumberLaws(Laws, laws=[is_positive]):
        def subject(self):
            return self.number

    class TestOne(NumberLaws):
        number = 1

    class TestNone(NumberLaws):
        number = 0

    TestOne().test_is_positive()
    with pytest.raises(AssertionError):
        TestNone().test_is_positive()


PACKAGE = """
import torch
import noiselab as nl
from noiselab.testing import ProcessLaws


class Mine(nl.InterpolatingProcess):
    def alpha(self, t):
        return 1 - t

    def mixing(self, t):
        return torch.full((*t.shape, 4), 0.25, dtype=t.dtype)


class Wrong(Mine):
    def rate_into(self, z, t):
        return 0.9 * super().rate_into(z, t)


class TestMine(ProcessLaws):
    def process(self):
        return Mine()


class TestWrong(ProcessLaws):
    def process(self):
        return Wrong()
"""


def test_a_package_of_its_own_inherits_the_laws(tmp_path):
    (tmp_path / "test_mine.py").write_text(PACKAGE)
    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "-c", "/dev/null", "--rootdir", ".", "."]
    run = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, timeout=120)
    failed = set(re.findall(r"FAILED \S*test_mine.py::(\w+)::test_(\w+)", run.stdout))
    assert failed >= {("TestWrong", "overrides_equal_definitions"), ("TestWrong", "rate_is_the_slope_of_jump")}, (
        run.stdout
    )
    assert {kind for kind, _ in failed} == {"TestWrong"}
    assert f"{len(failed)} failed, {2 * len(PROCESS_LAWS) - len(failed)} passed" in run.stdout
    assert "`Wrong.rate_into` differs from its definition" in run.stdout


PAGE = Path(__file__).parents[2] / "docs" / "guides" / "testing.md"
ON_THE_PAGE = (
    AddsTheVocabularyToTheTime,
    ClampsItsArgument,
    Detached,
    SinglePrecision,
    TimeRunsBackwards,
    FastMarginal,
    CorruptsTooLate,
)


@pytest.mark.parametrize("kind", ON_THE_PAGE, ids=lambda kind: kind.__name__)
def test_messages_on_the_page_are_those_of_the_laws(kind):
    with pytest.raises(AssertionError) as error:
        check_process(kind())
    assert f"| {str(error.value).splitlines()[1]} |" in PAGE.read_text(encoding="utf-8")


def test_the_page_shows_what_its_example_prints(capsys):
    page = PAGE.read_text(encoding="utf-8")
    first, second = re.findall(r"```python\n(.*?)```", page, re.DOTALL)[:2]
    exec(first + second, {"__name__": "__main__"})
    assert f"```text\n{capsys.readouterr().out}```" in page


def test_the_page_lists_every_law_in_its_order():
    page = PAGE.read_text(encoding="utf-8")
    assert re.findall(r"^\| `(\w+)` \|", page, re.MULTILINE) == [law.__name__ for law in PROCESS_LAWS]
    assert all(f"`{law.__name__}`" in page for law in TOKEN_DEPENDENT_LAWS)
