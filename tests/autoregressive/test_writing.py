"""Writers of one's own: what holds whatever their methods say."""

import pytest
import torch
from networks import Table
from test_decoding import generators

from noiselab.autoregressive import BackspaceSampler, BacktrackingDecoder, RandomTokenBackspace, UniformTokens

PROMPTS = [torch.tensor([1, 2, 3]), torch.tensor([], dtype=torch.long), torch.tensor([4]), torch.tensor([5, 0])]


class Bare(BacktrackingDecoder):
    def reach(self, text):
        return len(text) - 1

    def check_prompt(self, prompt):
        pass


class NoSeven(Bare):
    def reach(self, text):
        return 0

    def regrets(self, row):
        return row.text[-1] == 7


@pytest.mark.parametrize("semantics", ["visible", "erasing"])
@pytest.mark.parametrize("budget", [None, 2])
@pytest.mark.parametrize("kept", [None, 0])
def test_a_model_that_backtracks_by_itself_needs_no_more_than_its_reach(semantics, budget, kept):
    network, settings = (
        Table(9, seed=3, shy=-1.0),
        {"start": 0, "semantics": semantics, "budget": budget, "cache": False},
    )
    bare = Bare(network, vocab_size=9, backspace=8, **settings)
    sampler = BackspaceSampler(network, RandomTokenBackspace(9, 8, 0.2, UniformTokens(8)), **settings)
    one, two = (
        writer.sample(PROMPTS, length=8, most=40, kept=kept, generator=generators(0, 1, 2, 3))
        for writer in (bare, sampler)
    )
    assert one.revisions and one.revisions == two.revisions and one.spent == two.spent
    assert all(torch.equal(a, b) for a, b in zip(one.streams, two.streams, strict=True))
    assert all(torch.equal(a, b) for a, b in zip(one.texts, two.texts, strict=True))


def test_nothing_is_deleted_beyond_the_budget_and_what_is_kept():
    network, prompts = Table(10, seed=3), [torch.tensor([1, 7])] * 30  # a 7 that is kept stays
    settings = {"vocab_size": 10, "backspace": 10, "start": 0, "semantics": "erasing", "cache": False}
    for budget in (0, 1, 3):
        writer = NoSeven(network, budget=budget, **settings)
        written = writer.sample(prompts, length=8, generator=generators(*range(30)))
        taken = [int((stream == 10).sum()) for stream in written.streams]
        assert max(taken) == budget and written.spent == [count == budget for count in taken]
        assert any(7 in text[2:] for text in written.texts)  # then it is written as it comes
        for text, spent in zip(written.texts, written.spent, strict=True):
            assert text[:2].tolist() == [1, 7] and (spent or 7 not in text[2:])
    free = NoSeven(network, **settings).sample(prompts, length=8, most=10_000, generator=generators(*range(30)))
    assert not any(7 in text[2:] for text in free.texts) and all(free.stopped)


def test_logits_that_a_writer_holds_are_not_edited():
    class Fixed(Bare):
        law = torch.zeros(2, 9, dtype=torch.float64)

        def adjust_logits(self, rows, logits):
            return self.law[: len(rows)]

    Fixed(Table(9, seed=3), vocab_size=9, backspace=8, start=0, cache=False).sample(
        2, length=4, generator=generators(0, 1)
    )
    assert (Fixed.law == 0).all()


def test_what_someone_else_deletes_cannot_be_visible():
    with pytest.raises(ValueError, match="regrets needs the erasing semantics"):
        NoSeven(Table(10), vocab_size=10, backspace=10, start=0, semantics="visible")
    with pytest.raises(ValueError, match="regrets needs the erasing semantics"):
        NoSeven(Table(10), vocab_size=10, backspace=10, start=0)


@pytest.mark.parametrize("budget", [0, 1, 3])
def test_a_prompt_is_not_deleted_beyond_the_budget(budget):
    class Discontented(Bare):
        def reach(self, text):
            return 0

        def regrets(self, row):
            return True

    settings = {"vocab_size": 10, "backspace": 10, "start": 0, "semantics": "erasing", "cache": False}
    written = Discontented(Table(10, seed=3), budget=budget, **settings).sample(
        PROMPTS[:1], length=5, kept=1, generator=generators(0)
    )
    (text,), (stream,) = written.texts, written.streams
    assert text[0] == 1 and len(text) == 5
    if budget == 0:
        assert text[:3].tolist() == [1, 2, 3] and stream.tolist() == text[3:].tolist()
    else:  # first what is not kept of the prompt, then every token as it comes
        assert (stream == 10).tolist() == [True, *[False, True] * (budget - 1), *[False] * 4]
