import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from networks import Table

from noiselab.autoregressive import (
    LaterTokens,
    ModelTokens,
    RandomTokenBackspace,
    StepBackspace,
    UniformTokens,
    UnigramTokens,
    Without,
    WrongTokens,
    tree_of,
)
from noiselab.testing import check_edits

BACK = 4
WRONG = {
    "uniform": UniformTokens(4),
    "unigram": UnigramTokens(torch.tensor([0.5, 0.3, 0.2, 0.0])),
    "later": LaterTokens(4),
    "later within": LaterTokens(4, within=1),
    "model": ModelTokens(Table(5, seed=1), 4, start=0),
    "without": Without(UniformTokens(4), [1]),
    "later without": Without(LaterTokens(4, within=3), [1, 3]),
}
PROCESSES = {
    **{f"token, {name}": RandomTokenBackspace(5, BACK, 0.3, wrong) for name, wrong in WRONG.items()},
    "span": RandomTokenBackspace(5, BACK, 0.3, UniformTokens(4), span=2),
    "span, later": RandomTokenBackspace(5, BACK, 0.4, LaterTokens(4), span=3),
    "step": StepBackspace(5, BACK, 0.4, UniformTokens(4), boundary=[3], size=2),
    "never": RandomTokenBackspace(5, BACK, 0, UniformTokens(4)),
}
TEXTS = [torch.tensor(x, dtype=torch.long) for x in ([0, 2], [3, 0, 2], [2, 2, 2, 2], [0, 3, 1, 2, 3], [])]


@pytest.mark.long_for("token, uniform", "token, unigram", "token, without", "token, later w*", "never", "span")
@pytest.mark.parametrize("name", PROCESSES)
def test_laws(name):
    check_edits(PROCESSES[name], TEXTS)


@settings(max_examples=40)
@given(st.data())
def test_random_streams_collapse_as_a_stack_does(data):
    """By the definition: read from the left, push a token, pop on a backspace."""
    stream = data.draw(st.lists(st.integers(0, 4), max_size=20))
    stack, void = [], 0
    for entry in stream:
        if entry != 4:
            stack.append(entry)
        elif stack:
            stack.pop()
        else:
            void += 1
    tree = tree_of(torch.tensor(stream, dtype=torch.long), 4)
    assert tree.text.tolist() == stack and tree.void == void
    assert int(tree.wrong.sum()) == sum(e != 4 for e in stream) - len(stack)
    # What is seen at a node is its text.
    seen = tree.ancestors
    for node in range(1, len(tree.tokens)):
        text = tree.tokens[seen[node]].tolist()
        assert len(text) == int(tree.depths[node]) + 1 and text[-1] == int(tree.tokens[node])


@settings(max_examples=25)
@given(
    st.integers(2, 12), st.floats(0.05, 0.7), st.integers(1, 4), st.lists(st.integers(0, 1), min_size=1, max_size=12)
)
def test_any_rate_and_span(size, rate, span, text):
    edits = RandomTokenBackspace(size + 1, size, rate, UniformTokens(size), span=span)
    x = torch.tensor(text)
    z = edits.corrupt(x, generator=torch.Generator().manual_seed(0))
    assert torch.equal(edits.clean(z), x) and edits.log_probability(z, x).isfinite()


@pytest.mark.parametrize("name", WRONG)
def test_wrong_tokens_have_their_law(name):
    wrong, x = WRONG[name], torch.tensor([0, 2, 1, 2, 0])
    places = wrong.possible(x).nonzero()[:, 0]
    everything = torch.arange(4)
    for place in places.tolist():
        where = torch.full((4,), place)
        law = wrong.log_probability(x, where, everything).exp()
        assert law.sum() == pytest.approx(1, abs=1e-12) and law[x[place]] == 0
        n = 2000
        drawn = wrong.draw(x, torch.full((n,), place), generator=torch.Generator().manual_seed(1))
        share = torch.bincount(drawn, minlength=4) / n
        assert ((share - law).abs() <= 4.5 * (law * (1 - law) / n).sqrt() + 1e-9).all()
    assert (wrong.log_probability(x, places, torch.full_like(places, 4)) == -torch.inf).all()


SHORTCUTS = {
    **WRONG,
    "uniform, more tokens": UniformTokens(3),  # texts with tokens that are never drawn, as the end of a step
    "two unigrams": UnigramTokens(torch.tensor([0.0, 0.7, 0.0, 0.3])),
    "nothing left": Without(UniformTokens(4), [0, 1, 3]),
    "unigram without": Without(UnigramTokens(torch.tensor([0.5, 0.3, 0.2, 0.0])), [0]),
    "model without": Without(ModelTokens(Table(5, seed=1), 4, start=0), [2, 9]),
    "without twice": Without(Without(LaterTokens(4), [0]), [0, 2]),
}


@pytest.mark.parametrize("name", SHORTCUTS)
@pytest.mark.parametrize("chunk", [7, None])
def test_shortcuts_of_wrong_tokens_are_their_definition(name, chunk, monkeypatch):
    wrong, n = SHORTCUTS[name], 40
    monkeypatch.setattr(wrong, "chunk", chunk)

    def grid(count, *, generator, device):  # in place of random numbers: one draw from each part of [0, 1)
        return (torch.arange(count, dtype=torch.float64) % n + 0.5) / n

    monkeypatch.setattr("noiselab.autoregressive.wrong_tokens.uniforms", grid)
    for text in ([0, 2, 1, 2, 2, 0], [3, 3, 3], [1, 1, 3, 0, 1, 3, 3, 2], [2], []):
        x = torch.tensor(text, dtype=torch.long)
        mass = wrong.mass(x, torch.arange(len(x))).double().clone()
        for place, right in enumerate(text):
            mass[place, right:][:1] = 0
        possible = wrong.possible(x)
        assert torch.equal(possible, mass.sum(-1) > 0)
        places = possible.nonzero()[:, 0]
        law = mass[places] / mass[places].sum(-1, keepdim=True)
        law = torch.nn.functional.pad(law, (0, 6 - law.shape[1]))  # tokens outside are impossible
        where, what = places.repeat_interleave(6), torch.arange(6).repeat(len(places))
        found = wrong.log_probability(x, where, what).view(len(places), 6)
        torch.testing.assert_close(found.exp(), law, rtol=1e-12, atol=0)
        drawn = wrong.draw(x, places.repeat_interleave(n)).view(len(places), n)
        shares = torch.nn.functional.one_hot(drawn, 6).sum(1) / n
        assert (shares - law).abs().max() <= 1 / n + 1e-12 if len(places) else not drawn.numel()
        assert not (shares[law == 0]).any()
        nowhere = (~possible).nonzero()[:, 0]
        assert (wrong.log_probability(x, nowhere, (x[nowhere] + 1) % 4) == -torch.inf).all()


def test_every_kind_of_wrong_tokens_is_compared_with_its_definition():
    kinds, left = set(), [WrongTokens]
    while left:
        left += (more := left.pop().__subclasses__())
        kinds.update(kind for kind in more if kind.__module__.startswith("noiselab."))
    assert kinds == {type(wrong) for wrong in SHORTCUTS.values()}


def test_later_tokens_need_no_rows_of_the_size_of_the_vocabulary(monkeypatch):
    monkeypatch.delattr(LaterTokens, "mass")
    monkeypatch.setattr(LaterTokens, "__abstractmethods__", frozenset())
    x = torch.arange(1000) % 7
    for wrong in (LaterTokens(10**12, within=5), Without(LaterTokens(10**12), [3, 4])):
        places = wrong.possible(x).nonzero()[:, 0]
        tokens = wrong.draw(x, places, generator=torch.Generator().manual_seed(0))
        assert wrong.log_probability(x, places, tokens).isfinite().all() and len(places) > 900


def test_later_tokens_come_later():
    x = torch.tensor([0, 2, 1, 2, 0])
    law = LaterTokens(4).log_probability(x, torch.zeros(4, dtype=torch.long), torch.arange(4)).exp()
    torch.testing.assert_close(law, torch.tensor([0, 1 / 3, 2 / 3, 0], dtype=torch.float64))
    assert LaterTokens(4).possible(x).tolist() == [True, True, True, True, False]
    assert LaterTokens(4).possible(torch.tensor([1, 1])).tolist() == [False, False]


def test_lengths_are_those_of_the_formula():
    x = torch.zeros(10, dtype=torch.long)
    assert RandomTokenBackspace(5, 4, 0.2, UniformTokens(4)).expected_length(x) == pytest.approx(15)
    assert RandomTokenBackspace(5, 4, 0.5, UniformTokens(4)).expected_length(x) == pytest.approx(30)


class Forgetful(RandomTokenBackspace):
    def corrupt(self, x, *, generator=None):
        return super().corrupt(x, generator=generator)[:-1]


class Boastful(RandomTokenBackspace):
    def log_probability(self, z, x):
        return super().log_probability(z, x) * 0.5


class Short(RandomTokenBackspace):
    def expected_length(self, x):
        return len(x) * (1 + self.rate / (1 - self.rate))


class Frequent(RandomTokenBackspace):
    def corrupt(self, x, *, generator=None):
        return RandomTokenBackspace(5, 4, 0.5, self.wrong_tokens).corrupt(x, generator=generator)

    def expected_length(self, x):
        return len(x) * 3.0


@pytest.mark.parametrize(
    ("kind", "law"),
    [
        (Forgetful, "streams_collapse_to_the_text"),
        (Boastful, "draws_follow_their_probabilities"),
        (Short, "lengths_have_the_stated_mean"),
        (Frequent, "draws_follow_their_probabilities"),
    ],
)
def test_planted_mistakes_are_named(kind, law):
    with pytest.raises(AssertionError, match=law):
        check_edits(kind(5, 4, 0.3, UniformTokens(4)), TEXTS[:2])


def test_what_does_not_fit_is_refused():
    uniform = UniformTokens(4)
    for rate in (-0.1, 1.0, 1):
        with pytest.raises(ValueError, match="rate must lie in"):
            RandomTokenBackspace(5, 4, rate, uniform)
    with pytest.raises(ValueError, match="one of 5 tokens"):
        RandomTokenBackspace(5, 5, 0.1, uniform)
    with pytest.raises(ValueError, match="span"):
        RandomTokenBackspace(5, 4, 0.1, uniform, span=0)
    with pytest.raises(ValueError, match="boundary"):
        StepBackspace(5, 4, 0.1, uniform, boundary=[], size=1)
    edits = RandomTokenBackspace(5, 4, 0.1, uniform)
    with pytest.raises(ValueError, match="contain the backspace"):
        edits.corrupt(torch.tensor([0, 4]))
    with pytest.raises(ValueError, match=r"lie in \[0, 5\)"):
        edits.corrupt(torch.tensor([0, 7]))
    for bad in (torch.tensor([0.5, 0.6]), torch.tensor([1.0, 0.0]), torch.tensor([1.5, -0.5])):
        with pytest.raises(ValueError, match="frequencies"):
            UnigramTokens(bad)
    assert tree_of(torch.tensor([4, 4, 1]), 4).void == 2  # backspaces on an empty text do nothing, and are counted
