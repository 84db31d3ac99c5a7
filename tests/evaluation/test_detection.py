import pytest
import torch
from readers import INITIAL, TRANSITION, Chain, data

import noiselab as nl
from noiselab.autoregressive import BackspaceDetector, SurpriseDetector
from noiselab.bench import force_errors
from noiselab.correctors import DenoiserDetector
from noiselab.evaluation import measure_detection, select_units, threshold_at


def test_the_area_is_the_share_of_pairs_in_the_right_order():
    random = torch.Generator().manual_seed(0)
    score = torch.randint(5, (200,), generator=random).double()
    wrong = torch.rand(200, generator=random) < 0.3
    pairs = score[wrong][:, None] - score[~wrong]
    by_hand = ((pairs > 0).double() + 0.5 * (pairs == 0)).mean().item()
    assert measure_detection(score, wrong).area == pytest.approx(by_hand, abs=1e-12)
    assert measure_detection(-score, wrong).area == pytest.approx(1 - by_hand, abs=1e-12)


@pytest.mark.parametrize("share", [0.0, 0.05, 0.3, 0.999])
def test_no_lower_threshold_has_as_few_false_alarms(share):
    random = torch.Generator().manual_seed(0)
    score = torch.randint(40, (2, 100), generator=random).double()  # with ties
    wrong = torch.rand(2, 100, generator=random) < 0.3
    good = score[~wrong]
    threshold = threshold_at(score, wrong, share)
    assert (good > threshold).double().mean() <= share and (good >= threshold).double().mean() > share
    if share == 0.05:
        assert measure_detection(score, wrong).recall == (score[wrong] > threshold).double().mean()


def test_a_detector_without_knowledge_is_worth_nothing():
    random = torch.Generator().manual_seed(0)
    found = measure_detection(torch.rand(20_000, generator=random), torch.rand(20_000, generator=random) < 0.2)
    assert found.area == pytest.approx(0.5, abs=0.02) and found.recall == pytest.approx(0.05, abs=0.02)


def test_backspaces_of_the_bayes_optimum_order_tokens_as_their_surprise_does():
    """b = p nu / ((1 - p) P + p nu) falls with P when nu does not depend on the token: both detect alike."""
    harm = force_errors(data(), torch.arange(4), 0.1, generator=torch.Generator().manual_seed(1))
    back, surprise = (
        measure_detection(way(harm.tokens).mul(1e6).round(), harm.wrong)  # equal ones are ties
        for way in (BackspaceDetector(Chain(0.1), 4, start=5), SurpriseDetector(Chain(0.1, backspaces=False), start=5))
    )
    assert back.area == pytest.approx(surprise.area, abs=1e-9) and back.area > 0.9


def test_seeing_both_sides_detects_better():
    x = data()
    process = nl.gidd(vocab_size=5, mask_id=4, p_uniform=0.2)
    harm = force_errors(x, torch.arange(4), 0.1, generator=torch.Generator().manual_seed(1))
    both = measure_detection(DenoiserDetector(nl.MarkovOracle(INITIAL, TRANSITION, process))(harm.tokens), harm.wrong)
    one = measure_detection(BackspaceDetector(Chain(0.1), 4, start=5)(harm.tokens), harm.wrong)
    assert both.area > one.area + 0.01


def test_units_are_wrong_if_one_of_their_tokens_is():
    score = torch.tensor([[-torch.inf, 0.2, -torch.inf, 0.7, -torch.inf], [0.5, -torch.inf, -torch.inf, 0.1, 0.9]])
    wrong = torch.tensor([[0, 0, 1, 0, 1], [0, 1, 0, 0, 0]]).bool()
    found, bad = select_units(score, wrong, "step")
    assert found.tolist() == pytest.approx([0.2, 0.7, 0.5, 0.1, 0.9]) and bad.tolist() == [
        False,
        True,
        False,
        True,
        False,
    ]
    found, bad = select_units(score, wrong, "token")
    assert torch.equal(found, score.flatten()) and torch.equal(bad, wrong.flatten())


def test_what_is_never_suspected_comes_last():
    score = torch.tensor([-torch.inf, 0.3, -torch.inf, 0.9])
    assert measure_detection(score, torch.tensor([True, False, False, True])).area == (0.5 + 0 + 1 + 1) / 4


def test_what_does_not_fit_is_refused():
    with pytest.raises(ValueError, match="false_alarms"):
        threshold_at(torch.zeros(3), torch.zeros(3, dtype=torch.bool), 1.0)
    with pytest.raises(ValueError, match="some unit must be right"):
        threshold_at(torch.zeros(3), torch.ones(3, dtype=torch.bool))
    with pytest.raises(ValueError, match="wrong units and right ones"):
        measure_detection(torch.zeros(3), torch.ones(3, dtype=torch.bool))
    for measure in (measure_detection, threshold_at):
        with pytest.raises(ValueError, match="must not be NaN; got 1 NaN of 3"):
            measure(torch.tensor([0.1, torch.nan, 0.2]), torch.tensor([True, False, False]))
