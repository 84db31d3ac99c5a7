import pytest
import torch
from networks import Table
from test_decoding import chi_square, generators, goes_on_as_if_it_had_written_the_prompt, llama  # noqa: F401

from noiselab.autoregressive import (
    BackspaceSampler,
    RandomTokenBackspace,
    RetryUponRegret,
    StepDetector,
    SurpriseDetector,
    UniformTokens,
)

STOP = 2  # ends a step; texts are made of 0, 1, 2


class Scores(StepDetector):
    """Scores the last step by a function of the text."""

    def __init__(self, function):
        super().__init__([STOP])
        self.function = function

    def score_step(self, text):
        return self.function(text)


def sampler_of(network, function, **settings):
    settings = {"retries": 200, "cache": False} | settings
    return RetryUponRegret(network, Scores(function), vocab_size=4, boundary=[STOP], start=0, **settings)


class Short(torch.nn.Module):
    """A network over 0, 1, 2 whose fourth token is never written, so that steps are sums of what can be enumerated."""

    def __init__(self):
        super().__init__()
        self.table = Table(4, seed=2)

    def forward(self, input_ids):
        logits = self.table(input_ids).clone()
        logits[..., 3] = -torch.inf
        return logits


def test_a_perfect_detector_gives_the_law_of_right_steps():
    """Erase and write again until it is right is rejection sampling: each step has its law, given that it is right."""
    network, n = Short(), 1500
    wrong = lambda text: float(text.tolist()[:2] == [1, 2])  # noqa: E731
    written = sampler_of(network, wrong).sample(n, length=2, generator=torch.Generator().manual_seed(0))
    first = network(torch.tensor([[0]]))[0, -1].softmax(-1)
    second = torch.stack([network(torch.tensor([[0, a]]))[0, -1].softmax(-1) for a in range(3)])
    law = (first[:3, None] * second[:, :3]).clone()
    law[1, 2] = 0  # the text is erased to its last stop, or all of it
    law = law / law.sum()
    counts = torch.bincount(torch.stack(written.texts) @ torch.tensor([3, 1]), minlength=9).double()
    assert counts[5] == 0 and chi_square(counts, law.flatten()) > 1e-3
    assert not any(written.spent) and written.revisions


def test_a_detector_that_always_fires_is_bounded_and_said(llama):  # noqa: F811
    settings = {"vocab_size": 9, "boundary": [7], "start": 0, "retries": 3}
    written = RetryUponRegret(llama, Scores(lambda text: 1.0), **settings).sample(
        6, length=40, generator=generators(*range(6))
    )
    assert all(written.stopped) and any(written.spent)
    for stream, spent in zip(written.streams, written.spent, strict=True):
        assert int((stream == 9).sum()) == 3 if spent else int((stream == 9).sum()) < 3


def test_a_detector_that_never_fires_changes_nothing(llama):  # noqa: F811
    settings = {"vocab_size": 9, "boundary": [7], "start": 0}
    calm = RetryUponRegret(llama, Scores(lambda text: 0.0), **settings)
    plain = BackspaceSampler(
        llama, RandomTokenBackspace(9, 8, 0, UniformTokens(8)), start=0, semantics="erasing", bias=-torch.inf
    )
    # Its ninth token is an ordinary one for the first, none for the second: greedy, and both never write it.
    no_eight = {"edit": lambda logits: logits.index_fill(0, torch.tensor([8]), -torch.inf), "temperature": 0}
    calm = RetryUponRegret(llama, Scores(lambda text: 0.0), **settings, **no_eight)
    plain.temperature = 0.0
    one, two = calm.sample(1, length=20), plain.sample(1, length=20)
    assert torch.equal(one.texts[0], two.texts[0]) and not one.revisions


def test_cached_equals_reread_and_batched_equals_alone(llama):  # noqa: F811
    asked = []

    def detector(text):
        asked.append(text.tolist())
        return float(sum(text.tolist()) % 3 == 0)

    settings = {"vocab_size": 9, "boundary": [7, 3], "start": 0, "retries": 5, "temperature": 0.7}
    prompts = [torch.tensor([1, 7, 2]), torch.tensor([4]), torch.tensor([5, 0])]
    cached = RetryUponRegret(llama, Scores(detector), **settings)
    reread = RetryUponRegret(llama, Scores(detector), cache=False, **settings)
    one = cached.sample(prompts, length=16, generator=generators(0, 1, 2))
    assert asked and all(text[-1] in (7, 3) for text in asked)  # only at the end of steps
    two = reread.sample(prompts, length=16, generator=generators(0, 1, 2))
    assert one.revisions == two.revisions and one.revisions
    for seed, (prompt, a, b) in enumerate(zip(prompts, one.streams, two.streams, strict=True)):
        alone = cached.sample([prompt], length=16, generator=generators(seed))
        assert torch.equal(a, b) and torch.equal(a, alone.streams[0])
        assert torch.equal(one.texts[seed][: len(prompt)], prompt)


def test_what_may_be_deleted_of_a_prompt_is_as_if_written():
    """Its last step among it: where the prompt ends with a boundary the detector is evaluated before anything is written."""
    network, begin = Table(9, seed=3), torch.tensor([1, 7, 5])
    hates = lambda text: float(sum(text.tolist()) % 2)  # noqa: E731
    settings = {"retries": 6, "cache": False, "temperature": 0.9, "retry_temperature": 1.3}
    for boundary in ([7, 3, 1, 4], [2, 3]):
        sampler = RetryUponRegret(network, Scores(hates), vocab_size=9, boundary=boundary, start=0, **settings)
        for written in (1, 3):
            erased = goes_on_as_if_it_had_written_the_prompt(sampler, begin, written, 9, tries=30, length=10)
            assert erased > 0 or len(boundary) == 2


def test_a_prompt_is_erased_to_its_last_boundary_but_no_further_than_is_kept(llama):  # noqa: F811
    asked = []

    def hates_the_first(text):
        asked.append(text.tolist())
        return float(len(asked) == 1)

    often = 4.0 * torch.nn.functional.one_hot(torch.tensor(7), 9)  # so that steps end
    settings = {"vocab_size": 9, "boundary": [7], "start": 0, "retries": 5, "edit": lambda logits: logits + often}
    for prompt, kept, left in (([1, 7, 2, 3], 0, 2), ([1, 7, 2, 3], 3, 3), ([1, 2], 0, 0), ([1, 7, 2, 7], 1, 2)):
        for cache in (True, False):
            asked.clear()
            sampler = RetryUponRegret(llama, Scores(hates_the_first), cache=cache, **settings)
            written = sampler.sample([torch.tensor(prompt)], length=40, kept=kept, generator=generators(1))
            where = written.streams[0].tolist().index(9)
            assert asked[0] == prompt + written.streams[0][:where].tolist()
            assert min(revision.position for revision in written.revisions) == left
            assert written.texts[0][:left].tolist() == prompt[:left]
            assert (where == 0) == (prompt[-1] == 7)  # a prompt that ends with a step is judged as it is


def test_cached_equals_reread_where_prompts_may_be_deleted(llama):  # noqa: F811
    hates = lambda text: float(sum(text.tolist()) % 3 == 0)  # noqa: E731
    settings = {"vocab_size": 9, "boundary": [7, 3], "start": 0, "retries": 5}
    prompts = [torch.tensor([1, 7, 2, 5]), torch.tensor([4]), torch.tensor([6, 2, 3, 5, 7])]
    one, two = (
        RetryUponRegret(llama, Scores(hates), cache=cache, **settings).sample(
            prompts, length=16, kept=[0, 1, 2], generator=generators(0, 1, 2)
        )
        for cache in (True, False)
    )
    assert all(torch.equal(a, b) for a, b in zip(one.streams, two.streams, strict=True))
    assert one.revisions == two.revisions and one.evaluations == two.evaluations
    assert any(revision.position < len(prompts[revision.sequence]) for revision in one.revisions)


def test_greedy_tries_again_at_the_temperature_of_retries(llama):  # noqa: F811
    """A greedy model would write the same step again."""
    settings = {"vocab_size": 9, "start": 0, "temperature": 0, "retries": 40}
    calm = RetryUponRegret(llama, Scores(lambda text: 0.0), boundary=[8], **settings)
    first = calm.sample(1, length=30).texts[0].tolist()
    stop = first[2]  # some token that it writes ends its steps
    settings["boundary"] = [stop]
    bad = first[: first.index(stop) + 1]
    hates = lambda text: float(text.tolist() == bad)  # noqa: E731
    stuck = RetryUponRegret(llama, Scores(hates), retry_temperature=0, **settings).sample(1, length=30)
    free = RetryUponRegret(llama, Scores(hates), **settings).sample(
        1, length=30, generator=torch.Generator().manual_seed(0)
    )
    assert stuck.spent == [True] and free.spent == [False]


def test_what_does_not_fit_is_refused(llama):  # noqa: F811
    for wrong in ({"threshold": float("nan")}, {"retries": -1}, {"retry_temperature": -1.0}):
        with pytest.raises(ValueError, match="threshold"):
            sampler_of(llama, lambda text: 0.0, **wrong)
    with pytest.raises(ValueError, match="must be 'step'; SurpriseDetector has 'token'"):
        RetryUponRegret(llama, SurpriseDetector(llama, start=0), vocab_size=9, boundary=[7], start=0)
    with pytest.raises(ValueError, match="boundary must have tokens"):
        RetryUponRegret(llama, Scores(lambda text: 0.0), vocab_size=9, boundary=[], start=0)
    for prompt in ([1, 4], [-1]):  # 4 is the backspace
        with pytest.raises(ValueError, match=r"lie in \[0, 4\)"):
            sampler_of(llama, lambda text: 0.0).sample([torch.tensor(prompt)], length=4)
