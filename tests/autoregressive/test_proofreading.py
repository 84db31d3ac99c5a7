"""Revisions of known wrong tokens: rates in closed form, and the models that must reach them."""

import math
from itertools import product

import pytest
import torch
from readers import BACK, INITIAL, START, TRANSITION, Chain, Reader, data
from transformers import LlamaConfig, LlamaForCausalLM

import noiselab as nl
from noiselab.autoregressive import BackspaceDetector, Proofreader, SurpriseDetector, SurpriseProofreader
from noiselab.bench import ForcedErrors, force_errors
from noiselab.correctors import BestGuessReviser, CorrectorReviser, DenoiserDetector
from noiselab.evaluation import threshold_at
from noiselab.revisions import count_outcome

LENGTH = 6
SEMANTICS = ("visible", "erasing")


def counting(text):
    """Texts count upwards modulo 4 from any token; of mistakes of rate 0.1, and of seldom exceptions."""
    law = torch.full((4,), 0.25, dtype=torch.float64)
    if text:
        law = torch.full((4,), 0.01, dtype=torch.float64)
        law[(text[-1] + 1) % 4] = 0.97
    back = 0.1
    if len(text) > 1:
        back = 0.01 if text[-1] == (text[-2] + 1) % 4 else 0.9
    return law, back


def one_error_everywhere():
    """All counting texts with all single wrong tokens, each once."""
    rows = []
    for first, place, step in product(range(4), range(LENGTH), range(1, 4)):
        truth = (first + torch.arange(LENGTH)) % 4
        rows.append((torch.where(torch.arange(LENGTH) == place, (truth + step) % 4, truth), truth))
    tokens, truth = (torch.stack(part) for part in zip(*rows, strict=True))
    return ForcedErrors(tokens, truth, tokens != truth)


def outcome_of(forced, reviser, generator=None):
    revised = reviser(forced.tokens, generator=generator)
    return count_outcome(forced.tokens, revised.tokens, forced.truth, evaluations=revised.evaluations)


def rates(found):
    return found.mended, found.miscorrected, found.harmed, found.gain


def llama():
    torch.manual_seed(0)
    sizes = {"hidden_size": 16, "intermediate_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2}
    return LlamaForCausalLM(LlamaConfig(vocab_size=12, initializer_range=0.5, **sizes)).double()


def test_shares_are_counted_by_hand():
    tokens, truth = torch.tensor([[0, 1, 2, 3], [0, 1, 2, 3]]), torch.tensor([[0, 1, 0, 0], [1, 1, 2, 3]])
    revised = torch.tensor([[0, 0, 0, 1], [0, 2, 1, 3]])  # harmed, mended, otherwise; left, harmed twice
    found = count_outcome(tokens, revised, truth, evaluations=16)
    assert (*rates(found), found.evaluations_per_token) == (1 / 3, 1 / 3, 3 / 5, -2 / 3, 2.0)
    assert found.net_gain == -2 and found.gain == pytest.approx(found.mended - found.harmed * 5 / 3)
    right = count_outcome(tokens, tokens, tokens)
    assert math.isnan(right.mended) and math.isnan(right.gain) and right.harmed == 0


@pytest.mark.parametrize("semantics", SEMANTICS)
def test_rates_of_a_model_that_knows_how_to_count(semantics):
    """A wrong token is found and mended unless it is the first, from which the model then counts on: all others are harmed."""
    forced, n = one_error_everywhere(), LENGTH
    reviser = Proofreader(Reader(counting), BACK, start=START, threshold=0.5, semantics=semantics, cache=False)
    found = outcome_of(forced, reviser)
    assert rates(found) == pytest.approx(((n - 1) / n, 0, 1 / n, 0))
    # One token is deleted, or all but the first; the visible backspace is read, but nothing after the last place.
    inner = (2 * (n - 2)) / n
    extra = inner if semantics == "erasing" else 2 * inner + 2 / n
    assert found.evaluations_per_token == pytest.approx((1 + n + extra) / n)
    after = reviser(forced.tokens).tokens
    assert torch.equal(after, (after[:, :1] + torch.arange(n)) % 4)


def test_rates_of_the_plain_model_are_the_same_at_one_evaluation():
    forced, n = one_error_everywhere(), LENGTH
    reviser = SurpriseProofreader(Reader(counting), start=START, threshold=2.0, backspace=BACK, cache=False)
    found = outcome_of(forced, reviser)
    assert (*rates(found), found.evaluations_per_token) == pytest.approx(((n - 1) / n, 0, 1 / n, 0, 1))


@pytest.mark.parametrize("tabu", [True, False])
@pytest.mark.parametrize("threshold", [0.02, 0.08, 0.3])
def test_erasing_by_bayes_on_all_texts(threshold, tabu):
    """Against the closed form of the backspace and of the law, place by place."""
    z = torch.tensor(list(product(range(4), repeat=4)))
    p, want = 0.1, []
    for text in z.tolist():
        before, law = [], INITIAL
        for token in text:
            nu = (1 - law) / 3
            mixed = (1 - p) * law + p * nu
            if p * nu[token] / mixed[token] > threshold:
                mixed = torch.where(torch.arange(4) == token, 0, mixed) if tabu else mixed
                token = int(mixed.argmax())
            before.append(token)
            law = TRANSITION[token]
        want.append(before)
    network = Chain(p)
    reviser = Proofreader(
        network, BACK, start=START, threshold=threshold, semantics="erasing", tabu=tabu, cache=False, batch_size=100
    )
    found = reviser(z).tokens
    assert found.tolist() == want and network.training
    if threshold == 0.02:
        assert (found != z).any(-1).double().mean() > 0.5


@pytest.mark.parametrize("semantics", SEMANTICS)
def test_who_knows_the_truth_mends_all(semantics):
    x = torch.tensor([2, 0, 0, 3, 1, 3, 2])

    def knows(text):
        law = torch.nn.functional.one_hot(x[min(len(text), len(x) - 1)], 4).double()
        return law, 0.9 if text and text[-1] != x[len(text) - 1] else 0.1

    forced = force_errors(x.repeat(20, 1), torch.arange(4), 0.4, generator=torch.Generator().manual_seed(0))
    model = Reader(knows)
    reviser = Proofreader(model, BACK, start=START, threshold=0.5, semantics=semantics, cache=False)
    assert rates(outcome_of(forced, reviser)) == (1, 0, 0, 1)
    reviser = SurpriseProofreader(model, start=START, threshold=10.0, backspace=BACK, cache=False)
    found = outcome_of(forced, reviser)
    assert rates(found) == (1, 0, 0, 1) and found.evaluations_per_token == 1


def test_with_the_visible_semantics_the_model_has_read_what_was_wrong_when_it_writes():
    """A model that knows the right token, the one above the wrong one, only once it has deleted that one."""
    truth = torch.tensor([1, 3, 2, 0, 1])

    class Wise(Reader):
        def row(self, stream):
            found = super().row(stream)
            for place in range(2, len(stream)):
                if stream[place] == BACK:
                    found[place] = torch.nn.functional.one_hot(torch.tensor((stream[place - 1] + 1) % 4), 5).double()
            return found

    def suspects(text):
        return torch.full((4,), 0.25, dtype=torch.float64), 0.9 if text and text[-1] != truth[len(text) - 1] else 0.1

    z = torch.where(torch.eye(5, dtype=torch.bool), (truth - 1) % 4, truth)
    reviser = Proofreader(Wise(suspects), BACK, start=START, threshold=0.5, cache=False)
    assert (reviser(z).tokens == truth).all()


def test_nothing_changes_at_the_highest_threshold():
    z, network = data(6, 5), Chain(0.1)
    for semantics in SEMANTICS:
        found = Proofreader(network, BACK, start=START, threshold=1, semantics=semantics, cache=False)(z)
        assert torch.equal(found.tokens, z) and found.evaluations == 6 * (5 + 1)
    found = SurpriseProofreader(network, start=START, threshold=math.inf, cache=False)(z)
    assert torch.equal(found.tokens, z) and found.evaluations == 6 * 5
    assert torch.equal(BestGuessReviser(Mixture(), threshold=math.inf)(z).tokens, z)
    hesitant = Reader(lambda text: (torch.full((4,), 0.25, dtype=torch.float64), 0.9))  # to whom all tokens are alike
    found = SurpriseProofreader(hesitant, start=START, threshold=math.log(4.1), backspace=BACK, cache=False)(z)
    assert torch.equal(found.tokens, z)


@pytest.mark.parametrize("tabu", [True, False])
def test_what_is_written_has_the_law_of_the_model(tabu):
    z = torch.full((500, 1), 1)
    reviser = Proofreader(
        Chain(0.1),
        BACK,
        start=START,
        threshold=0,
        semantics="erasing",
        tabu=tabu,
        temperature=2,
        cache=False,
    )
    law = (0.9 * INITIAL + 0.1 * (1 - INITIAL) / 3).sqrt()  # at temperature 2
    law = torch.where(torch.arange(4) == 1, 0, law) if tabu else law
    law = law / law.sum()
    found = torch.bincount(reviser(z, generator=torch.Generator().manual_seed(0)).tokens[:, 0], minlength=4) / len(z)
    assert ((found - law).abs() <= 4 * (law * (1 - law) / len(z)).sqrt()).all()


@pytest.mark.parametrize("semantics", SEMANTICS)
def test_cached_is_reread_and_batched_is_alone(semantics):
    network = llama()
    z = torch.randint(10, (5, 9), generator=torch.Generator().manual_seed(1))
    score = BackspaceDetector(network, 10, start=11)(z)
    found = {}
    for cache, size in ((True, 5), (True, 1), (False, 5), (True, 2)):
        random = [torch.Generator().manual_seed(seed) for seed in range(5)]
        found[cache, size] = Proofreader(
            network,
            10,
            start=11,
            threshold=score.median().item(),
            semantics=semantics,
            temperature=1,
            cache=cache,
            batch_size=size,
        )(z, generator=random)
    tokens, evaluations = found.pop((True, 5))
    assert 0.2 < (tokens != z).double().mean() < 0.8 and (tokens != 10).all()
    for other in found.values():
        assert torch.equal(other.tokens, tokens) and other.evaluations == evaluations


def test_later_scores_are_those_of_the_text_that_was_mended():
    """What stays is below the threshold before the eyes of a model that reads the result, and what it wrote is its own."""
    network, z = llama(), torch.randint(10, (8, 9), generator=torch.Generator().manual_seed(1))
    for back in (True, False):
        way = BackspaceDetector(network, 10, start=11) if back else SurpriseDetector(network, start=11, backspace=10)
        score = way(z)
        threshold = score.median().item()
        if back:
            reviser = Proofreader(network, 10, start=11, threshold=threshold, semantics="erasing")
        else:
            reviser = SurpriseProofreader(network, start=11, threshold=threshold, backspace=10)
        y = reviser(z).tokens
        kept = y == z
        after = way(y)
        assert (after[kept] <= threshold + 1e-9).all() and 0.2 < kept.double().mean() < 0.9


class Mixture(nl.Denoiser):
    """One law everywhere."""

    def forward(self, z, t, rows=None):
        return torch.tensor([0.1, 0.2, 0.3, 0.4, 0.0]).log().expand(*z.shape, 5)


def test_guesses_are_the_best_of_both_sides():
    """At time 0 the exact denoiser says p(x_i | all others), of which a chain knows T(x_{i-1}, v) T(v, x_{i+1})."""
    process = nl.gidd(vocab_size=5, mask_id=4, p_uniform=0.2)
    oracle = nl.MarkovOracle(INITIAL, TRANSITION, process)
    z = torch.tensor(list(product(range(4), repeat=4)))
    left = torch.cat([INITIAL.expand(len(z), 1, 4), TRANSITION[z[:, :-1]]], 1)
    right = torch.cat([TRANSITION.T[z[:, 1:]], torch.ones(len(z), 1, 4)], 1)
    law = left * right / (left * right).sum(-1, keepdim=True)
    surprise = -law.log().gather(-1, z[..., None])[..., 0]
    for tokens in (4, 2):
        found = BestGuessReviser(oracle, threshold=2.0, time=1e-9, support=torch.arange(5) < tokens)(z)
        assert found.evaluations == len(z) and torch.equal(found.tokens[surprise <= 2], z[surprise <= 2])
        guessed = law.gather(-1, found.tokens[..., None])[..., 0][surprise > 2]  # not the token itself: there are ties
        assert len(guessed) and guessed.tolist() == pytest.approx(law[surprise > 2][:, :tokens].amax(-1).tolist())


def test_the_exact_denoiser_mends_more_than_it_harms_and_more_than_the_plain_model():
    """Where texts leave little to chance. Elsewhere self-correction, which has no threshold, harms more than it mends."""
    process = nl.gidd(vocab_size=5, mask_id=4, p_uniform=0.2)
    counts = torch.full((4, 4), 0.002, dtype=torch.float64)
    counts[torch.arange(4), (torch.arange(4) + 1) % 4] = 0.994
    initial = torch.full((4,), 0.25, dtype=torch.float64)
    oracle = nl.MarkovOracle(initial, counts, process).eval()
    others, forced = (
        force_errors(oracle.sample(64, 24, generator=random), torch.arange(4), 0.1, generator=random)
        for random in (torch.Generator().manual_seed(0), torch.Generator().manual_seed(1))
    )
    correction = nl.SelfCorrection(oracle, process=process)
    sampled = outcome_of(forced, CorrectorReviser(correction), torch.Generator().manual_seed(0))
    assert correction.denoiser is oracle and not oracle.training
    threshold = threshold_at(DenoiserDetector(oracle)(others.tokens), others.wrong)
    guessed = outcome_of(forced, BestGuessReviser(oracle, threshold=threshold))
    plain = Chain(0.1, False, initial, counts)
    threshold = threshold_at(SurpriseDetector(plain, start=START)(others.tokens), others.wrong)
    reviser = SurpriseProofreader(plain, start=START, threshold=threshold, cache=False)
    surprised = outcome_of(forced, reviser)
    assert min(sampled.gain, guessed.gain) > 0.4
    assert min(sampled.gain, guessed.gain) > surprised.gain + 0.1
    assert guessed.harmed < 0.08 and sampled.evaluations > guessed.evaluations == 64


def test_evaluations_of_self_correction_are_those_of_sequences_that_have_not_stopped():
    """Texts that the model agrees with take one look; the others one more than they have wrong tokens."""
    process = nl.gidd(vocab_size=5, mask_id=4, p_uniform=0.2)
    sure = torch.full((4, 4), 0.01 / 3, dtype=torch.float64).fill_diagonal_(0.99)
    oracle = nl.MarkovOracle(torch.full((4,), 0.25, dtype=torch.float64), sure, process)
    z = torch.zeros(3, 12, dtype=torch.long)
    z[1, 5], z[2, 3], z[2, 8] = 1, 2, 3
    for size in (1, 3):
        random = [torch.Generator().manual_seed(seed) for seed in range(3)]
        reviser = CorrectorReviser(nl.SelfCorrection(oracle, process=process), batch_size=size)
        found = reviser(z, generator=random)
        assert (found.tokens == 0).all() and found.evaluations == 1 + 2 + 3
    hot = [
        CorrectorReviser(nl.SelfCorrection(oracle, process=process, temperature=20), steps=6, batch_size=size)(
            z, generator=[torch.Generator().manual_seed(seed) for seed in range(3)]
        ).tokens
        for size in (1, 2, 3)
    ]
    assert torch.equal(hot[0], hot[2]) and torch.equal(hot[1], hot[2]) and (hot[0] != z).any(-1).all()
    assert CorrectorReviser(nl.SelfCorrection(oracle), steps=1)(z).evaluations == 3


def test_settings_out_of_range_are_refused(unchecked):
    network = Chain(0.1)
    for wrong, why in (
        ({"threshold": 1.1}, "threshold"),
        ({"threshold": 0.5, "semantics": "seen"}, "semantics"),
        ({"threshold": 0.5, "temperature": -1}, "temperature"),
        ({"threshold": 0.5, "batch_size": 0}, "batch_size"),
    ):
        with pytest.raises(ValueError, match=why):
            Proofreader(network, BACK, start=START, **wrong)
    with pytest.raises(ValueError, match="not be NaN"):
        SurpriseProofreader(network, start=START, threshold=math.nan)
    z = torch.zeros(2, 4, dtype=torch.long)
    with pytest.raises(ValueError, match="one shape"):
        count_outcome(z, z[:1], z)
    with pytest.raises(ValueError, match="steps"):
        CorrectorReviser(nl.SelfCorrection(Mixture()), steps=0)
