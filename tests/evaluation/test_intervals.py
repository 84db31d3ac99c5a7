import math
import random

import pytest
import torch

from noiselab.evaluation import interval, paired_difference, wilson


@pytest.mark.parametrize("count, of", [(0, 10), (3, 10), (97, 100), (5, 5)])
def test_wilsons_interval_ends_where_the_share_is_196_standard_errors_away(count, of):
    for end, sign in zip(wilson(count, of), (1, -1), strict=True):
        if 0 < end < 1:
            assert sign * (count / of - end) == pytest.approx(1.959964 * math.sqrt(end * (1 - end) / of), abs=1e-6)
        else:
            assert count in (0, of) and end == count / of


def test_intervals_hold_the_truth_in_95_of_100_cases():
    generator = random.Random(0)
    shares, differences, means = 0, 0, 0
    for _ in range(2000):
        new = [generator.random() < 0.8 for _ in range(60)]
        old = [generator.random() < 0.5 if right else right for right in new]
        low, high = wilson(sum(new), 60)
        shares += low <= 0.8 <= high
        found = paired_difference(new, old)
        differences += abs(found.mean - 0.4) <= found.half
        mean = interval([generator.gauss(1, 2) for _ in range(4)])
        means += abs(mean.mean - 1) <= mean.half
    for hits in (shares, differences, means):
        assert 0.93 < hits / 2000 < 0.97


def test_a_difference_of_the_same_cases_is_surer_than_one_of_others():
    new = [True] * 50 + [False] * 50
    old = [True] * 45 + [False] * 55
    assert paired_difference(new, old).mean == pytest.approx(0.05)
    shuffled = [old[i] for i in torch.randperm(100, generator=torch.Generator().manual_seed(0))]
    assert paired_difference(new, shuffled).half > 2 * paired_difference(new, old).half


def test_errors():
    with pytest.raises(ValueError, match="count must lie"):
        wilson(4, 3)
    with pytest.raises(ValueError, match="the same number of cases"):
        paired_difference([True, False], [True])
