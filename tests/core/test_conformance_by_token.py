"""Processes of matrices that somebody else wrote, each with one mistake: `check_process` names the method and the place."""

import re

import pytest
import torch
from worlds import DATA, PROCESSES, V

import noiselab as nl
from noiselab.process import as_token_times
from noiselab.testing import (
    TOKEN_DEPENDENT_LAWS,
    TokenDependentProcessLaws,
    check_process,
    equal_rows_are_an_interpolating_process,
    rows_are_distributions,
)

PAIRS = torch.block_diag(*2 * [torch.full((2, 2), 0.5)], torch.ones(1, 1)).double()
MASK = torch.eye(V, dtype=torch.float64)[V - 1].expand(V, V)


class Outsider(nl.TokenDependentProcess):
    """Right: tokens are confused in pairs, then masked."""

    def __init__(self):
        super().__init__(DATA)

    def alpha(self, t):
        return (1 - t) ** 2

    def mixing(self, t):
        share = ((1 - t) / (2 - t))[..., None, None]
        return share * PAIRS + (1 - share) * MASK


class OneAxisForgotten(Outsider):
    def mixing(self, t):
        share = ((1 - t) / (2 - t))[..., None]
        return share * PAIRS + (1 - share) * MASK


class Columns(Outsider):
    def mixing(self, t):
        return super().mixing(t).mT


class OneHop(Outsider):
    """A single hop to the neighbour, and none after it: not Markov."""

    def mixing(self, t):
        share = (1 - t)[..., None, None]
        return share * torch.eye(V, dtype=torch.float64)[[1, 0, 3, 2, 4]] + (1 - share) * MASK


class DetachedSignal(Outsider):
    def alpha(self, t):
        return (1 - t.detach()) ** 2


class RowForColumn(Outsider):
    def likelihood(self, z, t):
        return self.marginal(z, t)


class RateAsIfRowsWereEqual(Outsider):
    def rate(self, z, t):
        t = as_token_times(t, z)
        return (2 / (1 - t))[..., None] * self.likelihood(z, t) * (torch.arange(V) != z[..., None])


class JumpOfTheMarginal(Outsider):
    def transition(self, z, s, t):
        return self.likelihood(z, as_token_times(t, z) - as_token_times(s, z))


class RevealsWords(Outsider):
    def is_clean(self, z, t):
        return z != V - 1


class PriorOfWords(Outsider):
    def prior(self, batch, length, *, generator=None, device=None):
        return torch.zeros(batch, length, dtype=torch.long)


class CorruptsTooLate(Outsider):
    def corrupt(self, x, t, *, generator=None):
        return super().corrupt(x, t + 0.03 * (1 - t), generator=generator)


MISTAKES = {
    OneAxisForgotten: ("time_is_elementwise", r"`mixing` must (have shape|take times) .*t\[\.\.\., None\]"),
    Columns: ("is_a_markov_process", r"every row of mixing must .* in the row of token \d at t = "),
    OneHop: ("is_a_markov_process", r"no rate may be negative, .* from token \d into token \d at t = "),
    DetachedSignal: ("derivatives_reach_time", r"the derivative of `alpha` is 0 at every time"),
    RowForColumn: ("overrides_equal_definitions", r"`RowForColumn.likelihood` .* at z = \d, token \d, t = 0"),
    RateAsIfRowsWereEqual: (
        "overrides_equal_definitions",
        r"`Rate\w+.rate` .* at from token = \d, into token = \d, t = 0",
    ),
    JumpOfTheMarginal: (
        "overrides_equal_definitions",
        r"`Jump\w+.transition` .* at from token = \d, into token = \d, t = 0",
    ),
    RevealsWords: (
        "overrides_equal_definitions",
        r"`RevealsWords.is_clean` .* at token [0-3], .*: got True, want False",
    ),
    PriorOfWords: ("draws_have_the_marginal_law", r"draws of `prior` at token [04]: "),
    CorruptsTooLate: ("draws_have_the_marginal_law", r"draws of `corrupt` at token \d, x = \d, t = 0"),
}


@pytest.mark.parametrize("kind", MISTAKES, ids=lambda kind: kind.__name__)
def test_a_planted_mistake_is_named(kind):
    law, words = MISTAKES[kind]
    with pytest.raises(AssertionError) as error:
        check_process(kind())
    first, problem = str(error.value).split("\n")[:2]
    assert f"breaks the law «{law}»" in first
    assert re.search(words, problem), problem


Process = nl.TokenDependentProcess


def transposed(right):
    return lambda self, z, s, t: right(self, z.flip(-1), s, t)


# Mistakes in the library itself: (attribute, what takes its place, laws that must turn red).
PLANTED = {
    "rate 10 % low": (
        "rate",
        lambda right: lambda *a: 0.9 * right(*a),
        {"rate_is_the_slope_of_jump", "bound_is_tight"},
    ),
    "rate of half the time": (
        "rate",
        lambda right: lambda self, z, t: right(self, z, t / 2),
        {"rate_is_the_slope_of_jump", "bound_does_not_depend_on_the_clock"},
    ),
    "jump into other tokens": ("transition", transposed, {"two_jumps_are_one", "rate_is_the_slope_of_jump"}),
    "posterior of the wrong time": (
        "posterior",
        lambda right: lambda self, z, x, s, t: right(self, z, x, s, t + 0.2 * (1 - t)),
        {"posterior_is_bayes", "reverse_move_has_the_posterior_law"},
    ),
    "probability without the signal": (
        "probability",
        lambda right: lambda self, x, z, t: right(self, x, z, t) - self.alpha(as_token_times(t, z)) * (x == z),
        {"one_law_in_three_forms"},
    ),
    "everything is revealed": (
        "is_clean",
        lambda right: lambda self, z, t: torch.ones_like(z, dtype=torch.bool),
        {"revealed_tokens_are_certain"},
    ),
    "rows that lose mass": (
        "kernel",
        lambda right: lambda self, t: 0.99 * right(self, t),
        {"rows_are_distributions", "one_law_in_three_forms"},
    ),
}


@pytest.mark.parametrize("mistake", PLANTED)
def test_planted_mistakes_turn_laws_red(mistake, monkeypatch):
    name, wrong, expected = PLANTED[mistake]
    process = Outsider()
    monkeypatch.setattr(Process, name, wrong(getattr(Process, name)))
    for law in TOKEN_DEPENDENT_LAWS:
        if law.__name__ in expected:
            with pytest.raises(AssertionError, match=law.__name__):
                check_process(process, [law])


class OneRow(Process):
    """An interpolating process written with matrices."""

    def __init__(self, inner, tilt=0.0):
        super().__init__(inner.support)
        self.inner, self.tilt = inner, tilt

    def alpha(self, t):
        return self.inner.alpha(t)

    def mixing(self, t):
        return self.inner.mixing(t)[..., None, :].expand(*t.shape, V, V)

    def rate(self, z, t):
        return super().rate(z, t) * (1 + self.tilt)


def test_equal_rows_have_the_bound_of_one_row():
    check_process(OneRow(PROCESSES["gidd"]()))
    with pytest.raises(
        AssertionError, match="the bound differs from that of the interpolating process of its one row at x"
    ):
        equal_rows_are_an_interpolating_process(OneRow(PROCESSES["gidd"](), tilt=0.1))


def test_a_row_that_is_no_distribution_is_named(monkeypatch):
    right = Process.kernel
    monkeypatch.setattr(Process, "kernel", lambda self, t: 0.99 * right(self, t))
    with pytest.raises(
        AssertionError, match=r"a row of `marginal` does not sum to 1 at x = .*, t = .*: got 0.99, want 1"
    ):
        rows_are_distributions(Outsider())


class TestOutsider(TokenDependentProcessLaws):
    def process(self):
        return Outsider()


def test_it_has_the_laws_of_its_kind_only():
    found = {name for name in dir(TokenDependentProcessLaws) if name.startswith("test_")}
    assert found == {f"test_{law.__name__}" for law in TOKEN_DEPENDENT_LAWS}
