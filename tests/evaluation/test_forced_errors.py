import pytest
import torch
from readers import INITIAL, TRANSITION, Chain, data

import noiselab as nl
from noiselab.evaluation import by_backspace, by_denoiser, by_surprise, damage, detection, threshold_at


def test_the_area_is_the_share_of_pairs_in_the_right_order():
    random = torch.Generator().manual_seed(0)
    score = torch.randint(5, (200,), generator=random).double()
    wrong = torch.rand(200, generator=random) < 0.3
    pairs = score[wrong][:, None] - score[~wrong]
    by_hand = ((pairs > 0).double() + 0.5 * (pairs == 0)).mean().item()
    assert detection(score, wrong).area == pytest.approx(by_hand, abs=1e-12)
    assert detection(-score, wrong).area == pytest.approx(1 - by_hand, abs=1e-12)


@pytest.mark.parametrize("share", [0.0, 0.05, 0.3, 0.999])
def test_no_lower_threshold_has_as_few_false_alarms(share):
    random = torch.Generator().manual_seed(0)
    score = torch.randint(40, (2, 100), generator=random).double()  # with ties
    wrong = torch.rand(2, 100, generator=random) < 0.3
    good = score[~wrong]
    threshold = threshold_at(score, wrong, share)
    assert (good > threshold).double().mean() <= share and (good >= threshold).double().mean() > share
    if share == 0.05:
        assert detection(score, wrong).recall == (score[wrong] > threshold).double().mean()


def test_a_detector_without_knowledge_is_worth_nothing():
    random = torch.Generator().manual_seed(0)
    found = detection(torch.rand(20_000, generator=random), torch.rand(20_000, generator=random) < 0.2)
    assert found.area == pytest.approx(0.5, abs=0.02) and found.recall == pytest.approx(0.05, abs=0.02)


def test_backspaces_of_the_bayes_optimum_order_tokens_as_their_surprise_does():
    """b = p nu / ((1 - p) P + p nu) falls with P when nu does not depend on the token: both detect alike."""
    harm = damage(data(), torch.arange(4), 0.1, generator=torch.Generator().manual_seed(1))
    back, surprise = (
        detection(way(harm.tokens).mul(1e6).round(), harm.wrong)  # equal ones are ties
        for way in (by_backspace(Chain(0.1), 4, start=5), by_surprise(Chain(0.1, backspaces=False), start=5))
    )
    assert back.area == pytest.approx(surprise.area, abs=1e-9) and back.area > 0.9


def test_seeing_both_sides_detects_better():
    x = data()
    process = nl.gidd(vocab_size=5, mask_id=4, p_uniform=0.2)
    harm = damage(x, torch.arange(4), 0.1, generator=torch.Generator().manual_seed(1))
    both = detection(by_denoiser(nl.MarkovOracle(INITIAL, TRANSITION, process))(harm.tokens), harm.wrong)
    one = detection(by_backspace(Chain(0.1), 4, start=5)(harm.tokens), harm.wrong)
    assert both.area > one.area + 0.01


def test_the_asked_share_is_replaced_by_other_tokens_all_alike():
    x = torch.full((100, 100), 2)
    before = x.clone()
    harm = damage(x, torch.tensor([0, 2, 5, 7]), 0.3, generator=torch.Generator().manual_seed(0))
    assert torch.equal(x, before) and torch.equal(harm.tokens != x, harm.wrong)
    assert harm.wrong.double().mean().item() == pytest.approx(0.3, abs=0.02)
    counts = torch.bincount(harm.tokens[harm.wrong], minlength=8)
    assert counts[2] == 0 and (counts[[0, 5, 7]] / counts.sum() - 1 / 3).abs().max() < 0.04


def test_what_does_not_fit_is_refused():
    for share in (0.0, 1.0):
        with pytest.raises(ValueError, match="share"):
            damage(torch.zeros(1, 4, dtype=torch.long), torch.arange(3), share)
    with pytest.raises(ValueError, match="in the support"):
        damage(torch.full((1, 4), 9), torch.arange(3), 0.5)
    with pytest.raises(ValueError, match="support must have"):
        damage(torch.zeros(1, 4, dtype=torch.long), torch.arange(1), 0.5)
    with pytest.raises(ValueError, match="false_alarms"):
        threshold_at(torch.zeros(3), torch.zeros(3, dtype=torch.bool), 1.0)
    with pytest.raises(ValueError, match="tokens be right"):
        threshold_at(torch.zeros(3), torch.ones(3, dtype=torch.bool))
    with pytest.raises(ValueError, match="wrong tokens and right ones"):
        detection(torch.zeros(3), torch.ones(3, dtype=torch.bool))
