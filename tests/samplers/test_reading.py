"""Predictions read row by row: numbers of each row in float64 by their definitions, over several blocks and chunks."""

import math

import pytest
import torch

from noiselab.categorical import BLOCK, choose
from noiselab.denoisers.checked import LogitCheck
from noiselab.samplers import reading

ROWS = 7


@pytest.fixture(params=[3, 4 * BLOCK + 1, 5 * BLOCK])
def states(request):
    return request.param


@pytest.fixture(params=["all", "beginning", "middle missing"])
def support(request, states):
    inside = torch.ones(states, dtype=torch.bool)
    if request.param == "beginning":
        inside[-1] = False
    elif request.param == "middle missing":
        inside[states // 2] = False
    return None if request.param == "all" else inside


@pytest.fixture
def logits(states):
    return 4 * torch.randn(ROWS, states, generator=torch.Generator().manual_seed(0))


@pytest.fixture(params=[1, 1 << 21])
def at_once(request, monkeypatch):
    """One row at once, or all."""
    monkeypatch.setattr(reading, "CACHED_ENTRIES", request.param)


def law_of(logits, support):
    """Probabilities in float64, 0 off the support."""
    mass = logits.double().exp()
    if support is not None:
        mass[:, ~support] = 0
    return mass / mass.sum(-1, keepdim=True)


def close(found, expected):
    torch.testing.assert_close(found.double(), expected, rtol=1e-5, atol=1e-6)


@pytest.mark.usefixtures("at_once")
@pytest.mark.parametrize("draw", [True, False])
def test_tokens_and_numbers_are_those_of_the_whole_law(logits, support, draw):
    law = law_of(logits, support)
    u = torch.rand(ROWS, dtype=torch.float64, generator=torch.Generator().manual_seed(1))
    before = logits.clone()
    token, numbers = reading.read_rows(
        logits, LogitCheck(logits.shape[1], support), u if draw else None, ("entropy", "margin")
    )
    assert torch.equal(logits, before)
    assert torch.equal(token, choose(law, u) if draw else law.argmax(-1))
    close(numbers["log_confidence"], law.gather(-1, token[:, None])[:, 0].log())
    close(numbers["log_largest"], law.amax(-1).log())
    close(numbers["entropy"], torch.special.entr(law).sum(-1))
    first, second = law.topk(2, -1).values.unbind(-1)
    close(numbers["margin"], (first - second).log())


@pytest.mark.usefixtures("at_once")
def test_masses_at_a_temperature(logits, support):
    law = law_of(logits / 0.5, support)
    rows = []
    for chunk in reading.chunks(logits, LogitCheck(logits.shape[1], support), temperature=0.5):
        rows += range(ROWS)[chunk.some]
        part = law[chunk.some]
        close(chunk.others, part.sum(-1, keepdim=True) / part.amax(-1, keepdim=True) - 1)
        share = part / part.amax(-1, keepdim=True)
        close(chunk.mass, share[:, : chunk.mass.shape[1]])
        assert share[:, chunk.mass.shape[1] :].sum() == 0
    assert rows == list(range(ROWS))


def test_what_is_nearly_certain_keeps_its_digits(states):
    logits = torch.zeros(1, states)
    logits[0, 1] = 40.0  # the others have exp(-40) each, far below the rounding of 1
    _, numbers = reading.read_rows(logits, LogitCheck(), None, ("entropy", "margin"))
    doubt = (states - 1) * math.exp(-40)
    assert numbers["log_largest"].item() == pytest.approx(-doubt, rel=1e-5, abs=0)
    assert numbers["entropy"].item() == pytest.approx(
        41 * doubt, rel=1e-5, abs=0
    )  # 1 from the likely token, 40 from the others
    assert numbers["margin"].item() == pytest.approx(-doubt - math.exp(-40), rel=1e-5, abs=0)


def test_a_certain_token_has_no_entropy(states):
    logits = torch.full((1, states), -torch.inf)
    logits[0, 1] = 3.0
    token, numbers = reading.read_rows(logits, LogitCheck(), torch.tensor([0.9], dtype=torch.float64), ("entropy",))
    assert token.tolist() == [1]
    assert [number.item() for number in numbers.values()] == [0, 0, 0]


def test_the_first_of_the_largest(states):
    logits = torch.randint(0, 3, (50, states), generator=torch.Generator().manual_seed(0)).float() - 5
    top, best = reading.find_largest(logits)
    assert torch.equal(top[:, 0], logits.amax(-1))
    assert best[:, 0].tolist() == [row.index(max(row)) for row in logits.tolist()]


def test_logits_of_half_precision_and_with_a_gradient_are_read(logits):
    check = LogitCheck()
    exact = reading.read_rows(logits.bfloat16().float(), check, None, ("entropy",))
    half = reading.read_rows(logits.bfloat16().requires_grad_(), check, None, ("entropy",))
    assert torch.equal(exact[0], half[0])
    for name, value in exact[1].items():
        assert torch.equal(value, half[1][name])
