"""Which positions come first, by hand."""

import torch

from noiselab.samplers.positions import rank_positions, select_best

SCORE = torch.tensor([[9.0, 2.0, 5.0, -torch.inf, torch.nan, 5.0]], dtype=torch.float64)
ROWS = torch.tensor([[False, True, True, True, True, True]])


def test_selected_positions_come_before_all_others_and_numbers_before_nan():
    """Of the selected ones 5 (twice, from left to right), 2, and -inf and NaN as equals; what is not selected is last."""
    assert rank_positions(SCORE, ROWS).tolist() == [[2, 5, 1, 3, 4, 0]]


def test_the_best_are_among_the_selected():
    for count, best in [(0, []), (1, [2]), (2, [2, 5]), (3, [1, 2, 5]), (5, [1, 2, 3, 4, 5]), (6, [1, 2, 3, 4, 5])]:
        found = select_best(SCORE, ROWS, torch.tensor([count]))
        assert found[0].nonzero()[:, 0].tolist() == best, count
