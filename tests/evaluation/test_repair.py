"""Repairs of known wrong tokens: rates in closed form, and the models that must reach them."""

import math
from itertools import product

import pytest
import torch
from readers import BACK, INITIAL, START, TRANSITION, Chain, Judge, Reader, data
from transformers import LlamaConfig, LlamaForCausalLM

import noiselab as nl
from noiselab.evaluation import (
    Damage,
    Revised,
    by_backspace,
    by_denoiser,
    by_guess,
    by_proofreading,
    by_self_correction,
    by_surprise,
    by_surprise_proofreading,
    damage,
    forced_error_row,
    forced_error_table,
    generative_perplexity,
    repair,
    threshold_at,
)

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
    return Damage(tokens, truth, tokens != truth)


def llama():
    torch.manual_seed(0)
    sizes = {"hidden_size": 16, "intermediate_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2}
    return LlamaForCausalLM(LlamaConfig(vocab_size=12, initializer_range=0.5, **sizes)).double()


def test_shares_are_counted_by_hand():
    tokens, truth = torch.tensor([[0, 1, 2, 3], [0, 1, 2, 3]]), torch.tensor([[0, 1, 0, 0], [1, 1, 2, 3]])
    revised = torch.tensor([[0, 0, 0, 1], [0, 2, 1, 3]])  # harmed, fixed, otherwise; left, harmed twice
    found = repair(Damage(tokens, truth, tokens != truth), Revised(revised, 2.0))
    assert found == (1 / 3, 1 / 3, 3 / 5, -2 / 3, 2.0)
    assert found.gain == pytest.approx(found.fixed - found.harmed * 5 / 3)
    for wrong in (torch.zeros(1, 4, dtype=torch.bool), torch.ones(1, 4, dtype=torch.bool)):
        with pytest.raises(ValueError, match="wrong tokens and right ones"):
            repair(Damage(tokens[:1], truth[:1], wrong), Revised(revised[:1], 1.0))
    with pytest.raises(ValueError, match="shape"):
        repair(Damage(tokens, truth, tokens != truth), Revised(revised[:1], 1.0))


@pytest.mark.parametrize("semantics", SEMANTICS)
def test_rates_of_a_model_that_knows_how_to_count(semantics):
    """A wrong token is found and mended unless it is the first, from which the model then counts on: all others are harmed."""
    harm, n = one_error_everywhere(), LENGTH
    reviser = by_proofreading(Reader(counting), BACK, start=START, threshold=0.5, semantics=semantics, cache=False)
    found = repair(harm, reviser(harm.tokens))
    assert found[:4] == pytest.approx(((n - 1) / n, 0, 1 / n, 0))
    # One token is deleted, or all but the first; the visible backspace is read, but nothing behind the last place.
    inner = (2 * (n - 2)) / n
    extra = inner if semantics == "erasing" else 2 * inner + 2 / n
    assert found.evaluations == pytest.approx((1 + n + extra) / n)
    after = reviser(harm.tokens).tokens
    assert torch.equal(after, (after[:, :1] + torch.arange(n)) % 4)


def test_rates_of_the_plain_model_are_the_same_at_one_evaluation():
    harm, n = one_error_everywhere(), LENGTH
    reviser = by_surprise_proofreading(Reader(counting), start=START, threshold=2.0, backspace=BACK, cache=False)
    assert repair(harm, reviser(harm.tokens)) == pytest.approx(((n - 1) / n, 0, 1 / n, 0, 1))


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
    reviser = by_proofreading(
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

    harm = damage(x.repeat(20, 1), torch.arange(4), 0.4, generator=torch.Generator().manual_seed(0))
    model = Reader(knows)
    reviser = by_proofreading(model, BACK, start=START, threshold=0.5, semantics=semantics, cache=False)
    assert repair(harm, reviser(harm.tokens))[:4] == (1, 0, 0, 1)
    reviser = by_surprise_proofreading(model, start=START, threshold=10.0, backspace=BACK, cache=False)
    assert repair(harm, reviser(harm.tokens)) == (1, 0, 0, 1, 1)


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
    reviser = by_proofreading(Wise(suspects), BACK, start=START, threshold=0.5, cache=False)
    assert (reviser(z).tokens == truth).all()


def test_nothing_changes_at_the_highest_threshold():
    z, network = data(6, 5), Chain(0.1)
    for semantics in SEMANTICS:
        found = by_proofreading(network, BACK, start=START, threshold=1, semantics=semantics, cache=False)(z)
        assert torch.equal(found.tokens, z) and found.evaluations == (5 + 1) / 5
    found = by_surprise_proofreading(network, start=START, threshold=math.inf, cache=False)(z)
    assert torch.equal(found.tokens, z) and found.evaluations == 1
    assert torch.equal(by_guess(Mixture(), threshold=math.inf)(z).tokens, z)
    hesitant = Reader(lambda text: (torch.full((4,), 0.25, dtype=torch.float64), 0.9))  # to whom all tokens are alike
    found = by_surprise_proofreading(hesitant, start=START, threshold=math.log(4.1), backspace=BACK, cache=False)(z)
    assert torch.equal(found.tokens, z)


@pytest.mark.parametrize("tabu", [True, False])
def test_what_is_written_has_the_law_of_the_model(tabu):
    z = torch.full((500, 1), 1)
    reviser = by_proofreading(
        Chain(0.1),
        BACK,
        start=START,
        threshold=0,
        semantics="erasing",
        tabu=tabu,
        temperature=2,
        cache=False,
        generator=torch.Generator().manual_seed(0),
    )
    law = (0.9 * INITIAL + 0.1 * (1 - INITIAL) / 3).sqrt()  # at temperature 2
    law = torch.where(torch.arange(4) == 1, 0, law) if tabu else law
    law = law / law.sum()
    found = torch.bincount(reviser(z).tokens[:, 0], minlength=4) / len(z)
    assert ((found - law).abs() <= 4 * (law * (1 - law) / len(z)).sqrt()).all()


@pytest.mark.parametrize("semantics", SEMANTICS)
def test_cached_is_reread_and_batched_is_alone(semantics):
    network = llama()
    z = torch.randint(10, (5, 9), generator=torch.Generator().manual_seed(1))
    score = by_backspace(network, 10, start=11)(z)
    found = {}
    for cache, size in ((True, 5), (True, 1), (False, 5), (True, 2)):
        random = [torch.Generator().manual_seed(seed) for seed in range(5)]
        found[cache, size] = by_proofreading(
            network,
            10,
            start=11,
            threshold=score.median().item(),
            semantics=semantics,
            temperature=1,
            cache=cache,
            batch_size=size,
            generator=random,
        )(z)
    tokens, evaluations = found.pop((True, 5))
    assert 0.2 < (tokens != z).double().mean() < 0.8 and (tokens != 10).all()
    for other in found.values():
        assert torch.equal(other.tokens, tokens) and other.evaluations == evaluations


def test_later_scores_are_those_of_the_text_that_was_mended():
    """What stays is below the threshold before the eyes of a model that reads the result, and what it wrote is its own."""
    network, z = llama(), torch.randint(10, (8, 9), generator=torch.Generator().manual_seed(1))
    for back in (True, False):
        way = by_backspace(network, 10, start=11) if back else by_surprise(network, start=11, backspace=10)
        score = way(z)
        threshold = score.median().item()
        if back:
            reviser = by_proofreading(network, 10, start=11, threshold=threshold, semantics="erasing")
        else:
            reviser = by_surprise_proofreading(network, start=11, threshold=threshold, backspace=10)
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
        found = by_guess(oracle, threshold=2.0, time=1e-9, support=torch.arange(5) < tokens)(z)
        assert found.evaluations == 1 / 4 and torch.equal(found.tokens[surprise <= 2], z[surprise <= 2])
        guessed = law.gather(-1, found.tokens[..., None])[..., 0][surprise > 2]  # not the token itself: there are ties
        assert len(guessed) and guessed.tolist() == pytest.approx(law[surprise > 2][:, :tokens].amax(-1).tolist())


def test_the_exact_denoiser_mends_more_than_it_harms_and_more_than_the_plain_model():
    """Where texts leave little to chance. Elsewhere self-correction, which has no threshold, harms more than it mends."""
    process = nl.gidd(vocab_size=5, mask_id=4, p_uniform=0.2)
    counts = torch.full((4, 4), 0.002, dtype=torch.float64)
    counts[torch.arange(4), (torch.arange(4) + 1) % 4] = 0.994
    initial = torch.full((4,), 0.25, dtype=torch.float64)
    oracle = nl.MarkovOracle(initial, counts, process).eval()
    others, harm = (
        damage(oracle.sample(64, 24, generator=random), torch.arange(4), 0.1, generator=random)
        for random in (torch.Generator().manual_seed(0), torch.Generator().manual_seed(1))
    )
    correction = nl.SelfCorrection(oracle, process=process)
    sampled = repair(harm, by_self_correction(correction, generator=torch.Generator().manual_seed(0))(harm.tokens))
    assert correction.denoiser is oracle and not oracle.training
    threshold = threshold_at(by_denoiser(oracle)(others.tokens), others.wrong)
    guessed = repair(harm, by_guess(oracle, threshold=threshold)(harm.tokens))
    plain = Chain(0.1, False, initial, counts)
    threshold = threshold_at(by_surprise(plain, start=START)(others.tokens), others.wrong)
    reviser = by_surprise_proofreading(plain, start=START, threshold=threshold, cache=False)
    surprised = repair(harm, reviser(harm.tokens))
    assert min(sampled.gain, guessed.gain) > 0.4
    assert min(sampled.gain, guessed.gain) > surprised.gain + 0.1
    assert guessed.harmed < 0.08 and sampled.evaluations > guessed.evaluations == 1 / 24


def test_evaluations_of_self_correction_are_those_of_sequences_that_have_not_stopped():
    """Texts that the model agrees with take one look; the others one more than they have wrong tokens."""
    process = nl.gidd(vocab_size=5, mask_id=4, p_uniform=0.2)
    sure = torch.full((4, 4), 0.01 / 3, dtype=torch.float64).fill_diagonal_(0.99)
    oracle = nl.MarkovOracle(torch.full((4,), 0.25, dtype=torch.float64), sure, process)
    z = torch.zeros(3, 12, dtype=torch.long)
    z[1, 5], z[2, 3], z[2, 8] = 1, 2, 3
    for size in (1, 3):
        random = [torch.Generator().manual_seed(seed) for seed in range(3)]
        reviser = by_self_correction(nl.SelfCorrection(oracle, process=process), batch_size=size, generator=random)
        found = reviser(z)
        assert (found.tokens == 0).all() and found.evaluations == pytest.approx((1 + 2 + 3) / 36)
    hot = [
        by_self_correction(
            nl.SelfCorrection(oracle, process=process, temperature=20),
            steps=6,
            batch_size=size,
            generator=[torch.Generator().manual_seed(seed) for seed in range(3)],
        )(z).tokens
        for size in (1, 2, 3)
    ]
    assert torch.equal(hot[0], hot[2]) and torch.equal(hot[1], hot[2]) and (hot[0] != z).any(-1).all()
    assert by_self_correction(nl.SelfCorrection(oracle), steps=1)(z).evaluations == pytest.approx(3 / 36)


def test_a_row_of_the_table_is_what_its_parts_say():
    sets = [damage(x, torch.arange(4), 0.1, generator=torch.Generator().manual_seed(0)) for x in data(40).split(20)]
    network = Chain(0.1)
    reviser = by_proofreading(network, BACK, start=START, threshold=0.3, semantics="erasing", cache=False)
    row = forced_error_row("chain", sets, by_backspace(network, BACK, start=START), reviser, judge=Judge(), start=START)
    single = [repair(some, reviser(some.tokens)) for some in sets]
    for name in ("fixed", "changed_wrongly", "harmed", "gain", "evaluations"):
        assert getattr(row, name).mean == pytest.approx(sum(getattr(some, name) for some in single) / 2)
    judged = [generative_perplexity(Judge(), some.tokens, start=START).nats for some in sets]
    assert row.before.mean == pytest.approx(sum(judged) / 2)
    assert row.better.mean == pytest.approx(row.before.mean - row.after.mean) and row.better.mean > 0.1
    assert row.before.mean > row.truth.mean
    lines = forced_error_table([row, forced_error_row("blind", sets, lambda z: z.double(), reviser)]).splitlines()
    assert len(lines) == 4 and {line.count("|") for line in lines} == {13}
    with pytest.raises(ValueError, match="two sets"):
        forced_error_row("chain", sets[:1], by_backspace(network, BACK, start=START), reviser)


def test_settings_out_of_range_are_refused(unchecked):
    network = Chain(0.1)
    for wrong, why in (
        ({"threshold": 1.1}, "threshold"),
        ({"threshold": 0.5, "semantics": "seen"}, "semantics"),
        ({"threshold": 0.5, "temperature": -1}, "temperature"),
        ({"threshold": 0.5, "batch_size": 0}, "batch_size"),
    ):
        with pytest.raises(ValueError, match=why):
            by_proofreading(network, BACK, start=START, **wrong)
    with pytest.raises(ValueError, match="a number"):
        by_surprise_proofreading(network, start=START, threshold=math.nan)
    with pytest.raises(ValueError, match="steps"):
        by_self_correction(nl.SelfCorrection(Mixture()), steps=0)
