"""A token that is masked while it is predicted is predicted from the others."""

import pytest
import torch

import noiselab as nl
from noiselab.denoisers.one_by_one import OneByOne

START = torch.tensor([0.5, 0.3, 0.2], dtype=torch.float64)
CHAIN = torch.tensor([[0.1, 0.6, 0.3], [0.2, 0.1, 0.7], [0.6, 0.3, 0.1]], dtype=torch.float64)
PROCESS = nl.masked(vocab_size=4, mask_id=3)
ORACLE = nl.MarkovOracle(START, CHAIN, PROCESS)
T = torch.full((5,), 0.3, dtype=torch.float64)
X = ORACLE.sample(5, 6, generator=torch.Generator().manual_seed(0))


def by_hand(x):
    """p(x_i | all others) by Bayes' rule on the chain."""
    rows = []
    for i in range(len(x)):
        law = START.clone() if i == 0 else CHAIN[x[i - 1]].clone()
        if i + 1 < len(x):
            law = law * CHAIN[:, x[i + 1]]
        rows.append(law / law.sum())
    return torch.stack(rows)


def test_with_one_pass_for_each_token_it_is_the_leave_one_out_law():
    found = OneByOne(ORACLE, 3, passes=6)(X, T).softmax(-1)
    for row, x in zip(found, X, strict=True):
        assert torch.allclose(row[:, :3], by_hand(x))


def test_fewer_passes_do_not_see_what_is_masked_with_them():
    found = OneByOne(ORACLE, 3, passes=2)(X, T).softmax(-1)
    # Neighbours are in the other pass, and in a first-order chain they are all that matters.
    assert torch.allclose(found[0, :, :3], by_hand(X[0]))
    alone = OneByOne(ORACLE, 3, passes=1)(X, T).softmax(-1)
    assert torch.allclose(alone[0, 0, :3], START) and not torch.allclose(alone[0, 2, :3], by_hand(X[0])[2])


def test_rows_are_the_same_answers_for_less_work():
    counting = nl.denoisers.CallCounter(ORACLE)
    denoiser = OneByOne(counting, 3, passes=3)
    rows = torch.zeros_like(X, dtype=torch.bool)
    rows[0, 1] = rows[2, 4] = rows[3, 1] = True
    some = denoiser(X, T, rows)
    assert counting.calls == 1  # all of them are in one pass
    assert torch.equal(some, denoiser(X, T)[rows]) and counting.calls == 4
    times = torch.rand(5, 6, dtype=torch.float64)
    assert denoiser(X, times, torch.zeros_like(rows)).shape == (0, 4)


def test_the_tokens_are_left_as_they_are_and_bad_settings_refused():
    before = X.clone()
    OneByOne(ORACLE, 3, passes=2)(X, T)
    assert torch.equal(X, before)
    with pytest.raises(ValueError, match="at least 1; got 0"):
        OneByOne(ORACLE, 3, passes=0)
