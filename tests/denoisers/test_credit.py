"""Credit of earlier predictions, by hand."""

import math

import pytest
import torch

import noiselab as nl
from noiselab.denoisers import Credit
from noiselab.denoisers.self_conditioning import Predictions, carrying

LAWS = torch.tensor([[0.6, 0.4], [0.3, 0.7], [0.8, 0.2]], dtype=torch.float64)  # by the first token


class ByFirst(nl.Denoiser):
    def forward(self, z, t):
        return LAWS.log()[z[:, :1].expand(z.shape)]


def test_by_hand():
    """Three steps of one position: 0.6 ^ 0.5 for token 0, 0.7 ^ 0.5 for token 1, then both at half."""
    credit, t, found = Credit(ByFirst(), 2.0, decay=0.5, power=0.5), torch.ones(1), []
    predictions = Predictions(1)
    for first in (0, 1, 2):
        with carrying([credit], predictions):
            found.append(credit(torch.tensor([[first]]), t)[0, 0])
    one, two, three = 0.6**0.5, 0.7**0.5, 0.8**0.5
    earned = [[one, 0], [one / 2, two], [one / 4 + three, two / 2]]
    for k, row in enumerate(earned):
        want = [math.log(LAWS[k, v]) + 2 * math.log(1 + row[v]) for v in range(2)]
        torch.testing.assert_close(found[k], torch.tensor(want, dtype=torch.float64))


def test_outside_of_a_walk_it_begins_anew_and_selects_rows():
    credit, z, t = Credit(ByFirst()), torch.tensor([[0, 1, 1], [2, 0, 0]]), torch.ones(2)
    rows = torch.tensor([[True, False, True], [False, True, False]])
    whole = credit(z, t)
    assert torch.equal(whole, credit(z, t)) and torch.equal(credit(z, t, rows), whole[rows])


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"weight": -1}, "weight must be non-negative and finite; got -1"),
        ({"decay": 1.5}, r"decay must lie in \[0, 1\]; got 1.5"),
        ({"power": -0.5}, "power must be non-negative and finite; got -0.5"),
    ],
)
def test_what_is_refused(options, message):
    with pytest.raises(ValueError, match=message):
        Credit(ByFirst(), **options)


def test_static_shapes_are_refused_because_other_positions_would_be_counted():
    process = nl.masked(vocab_size=3, mask_id=2)
    oracle = nl.MarkovOracle(torch.tensor([0.5, 0.5]), torch.tensor([[0.9, 0.1], [0.2, 0.8]]), process)
    sampler = nl.samplers.ThresholdSampler(process, nl.Temperature(Credit(oracle), 0.5))
    for make in (lambda: sampler.with_shapes("static"), sampler.compiled):
        with pytest.raises(ValueError, match="shapes must be 'rows' with Credit"):
            make()
    assert sampler.with_shapes("rows").shapes == "rows"
    assert not sampler.is_static(torch.zeros(1, 2, dtype=torch.long, device="meta"))
