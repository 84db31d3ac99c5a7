"""Times of tokens and blocks in training: their strata, and independence of processes and micro-batches."""

from dataclasses import dataclass
from functools import partial

import pytest
import torch

import noiselab as nl
from noiselab.objectives import elbo
from noiselab.times import uniform_times
from noiselab.training import Place, PromptedTimes, TimesPerBlock, TimesPerToken
from noiselab.training.identity import in_words
from noiselab.training.noise import drawn_times

CPU = torch.device("cpu")


@pytest.mark.parametrize("times", [TimesPerBlock(3), TimesPerToken(0.5)], ids=str)
def test_times_do_not_depend_on_processes_and_micro_batches(times):
    whole, weight = drawn_times(Place(3, seed=1), 8, 7, times, CPU)
    assert whole.shape == (8, 7) and weight is None
    parts = torch.empty_like(whole)
    for micro in range(2):
        for rank in range(2):
            place = Place(3, micro, accumulation=2, rank=rank, world=2, seed=1)
            parts[list(place.numbers(2))] = drawn_times(place, 2, 7, times, CPU)[0]
    assert torch.equal(parts, whole)
    assert not torch.equal(drawn_times(Place(4, seed=1), 8, 7, times, CPU)[0], whole)


def test_blocks_of_a_whole_step_are_strata_in_random_order():
    t = TimesPerBlock(3, low=0.2, high=0.8)(8, 7, generator=torch.Generator().manual_seed(0))
    assert (t.diff(dim=1)[:, [0, 1, 3, 4]] == 0).all()
    each = ((t[:, [0, 3, 6]] - 0.2) / 0.6).flatten()
    assert (24 * each).long().sort().values.tolist() == list(range(24))
    assert (each.diff() < 0).any()
    # Within a sequence blocks are nearly independent.
    many = TimesPerBlock(1)(4000, 2, generator=torch.Generator().manual_seed(0))
    assert abs(torch.corrcoef(many.T)[0, 1]) < 0.06
    parts = [
        nl.times.separate_block_times(2, 7, 3, first=k, total=8, generator=torch.Generator().manual_seed(1))
        for k in (0, 2, 4, 6)
    ]
    whole = nl.times.separate_block_times(8, 7, 3, generator=torch.Generator().manual_seed(1))
    assert torch.equal(torch.cat(parts), whole)


def test_a_share_of_sequences_has_independent_times():
    t = TimesPerToken(share=0.25)(2000, 4, generator=torch.Generator().manual_seed(0))
    common = (t == t[:, :1]).all(1)
    assert abs(common.double().mean() - 0.75) < 0.04
    assert (TimesPerToken(share=0)(5, 4, generator=torch.Generator())[:, 0].sort().values.diff() > 0.19).all()
    assert abs(torch.corrcoef(t[~common].T)[0, 1]) < 0.1


def evenly(batch, length, *, generator):
    return torch.rand(batch, dtype=torch.float64, generator=generator).clamp(min=0.01)


def test_settings_of_functions_are_the_same_in_each_process():
    """The address of a function in the settings of a run would refuse to resume it anywhere else."""
    for setting in (PromptedTimes(evenly, 0.5), partial(evenly, generator=None), elbo, object()):
        assert "0x" not in in_words(setting)
    assert in_words(PromptedTimes(evenly, 0.5)) != in_words(PromptedTimes(uniform_times, 0.5))
    assert in_words(PromptedTimes(evenly, 0.5)) != in_words(PromptedTimes(evenly, 0.2))


@dataclass
class Changeable:
    """Times of a user that have no hash, as dataclasses that are not frozen."""

    low: float = 0.5

    def __call__(self, batch, length, *, generator):
        return self.low + 0.1 * torch.rand(batch, dtype=torch.float64, generator=generator)


@pytest.mark.parametrize("wrapped", [lambda times: times, lambda times: PromptedTimes(times, 0.0)])
def test_times_without_a_hash_are_drawn_as_they_are_now(wrapped):
    times = Changeable()
    first = drawn_times(Place(0), 4, 3, wrapped(times), CPU)[0]
    assert ((first >= 0.5) & (first < 0.6)).all()
    times.low = 0.8
    assert (drawn_times(Place(0), 4, 3, wrapped(times), CPU)[0] >= 0.8).all()


def test_times_that_are_those_of_prompts_are_refused():
    early = PromptedTimes(TimesPerToken(1.0, low=1e-6), 0.2)
    with pytest.raises(ValueError, match=r"times beside prompts must not be below 0\.0001"):
        early(64, 64, generator=torch.Generator().manual_seed(0))


def test_settings_are_words_that_a_resumed_run_compares():
    assert repr(TimesPerToken(0.5, 0.01, 0.99)) == "TimesPerToken(share=0.5, low=0.01, high=0.99)"
    for wrong in (lambda: TimesPerToken(1.5), lambda: TimesPerBlock(0), lambda: TimesPerBlock(2, low=0.0)):
        with pytest.raises(ValueError, match=r"must (lie|be)"):
            wrong()
