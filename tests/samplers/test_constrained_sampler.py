"""Sampling with a constraint: the exact law for independent tokens, and no sample that violates it."""

import itertools

import pytest
import torch
from exact_worlds import INITIAL, NOISES, TRANSITION, chi_square, generator, oracle_of

import noiselab as nl
from noiselab.constraints import TokenAutomaton
from noiselab.denoisers import Constrained
from noiselab.samplers import BlockSampler, ConstrainedSampler, FirstHittingSampler, Prompted

LENGTH = 4
X = torch.tensor(list(itertools.product(range(3), repeat=LENGTH)))
LAW = torch.tensor([0.5, 0.2, 0.3], dtype=torch.float64)
TABLES = {
    "parity": (torch.tensor([[0, 1, 0], [1, 0, -1]]), [1]),
    "no 2 after 1": (torch.tensor([[0, 1, 0], [0, 1, -1]]), [0, 1]),
    "in order": (torch.tensor([[0, 1, 2], [-1, 1, 2], [-1, -1, 2]]), [1, 2]),
}


def automaton_of(table, process):
    transitions, accepting = TABLES[table]
    return TokenAutomaton(torch.nn.functional.pad(transitions, (0, process.vocab_size - 3), value=-1), accepting)


def made(name, table="parity", transition=None, start=0):
    process = NOISES[name]()
    oracle = nl.MarkovOracle(LAW, LAW.expand(3, 3) if transition is None else transition, process)
    return ConstrainedSampler(process, oracle, automaton_of(table, process), start)


@pytest.mark.parametrize("steps", [1, 3])
@pytest.mark.parametrize("table", TABLES)
@pytest.mark.parametrize("name", NOISES)
def test_samples_of_independent_tokens_have_the_law_of_the_data_that_satisfy_it(name, table, steps):
    sampler = made(name, table)
    law = torch.where(sampler.automaton.accepts(X), LAW[X].prod(-1), 0)
    x = sampler.sample((3_000, LENGTH), steps=steps, generator=generator())
    assert chi_square(x, law / law.sum()) > 1e-3


@pytest.mark.parametrize("name", NOISES)
def test_without_a_constraint_it_is_ancestral_sampling(name):
    """The law of the model in three steps, by the exact law of the ancestral chain."""
    process = NOISES[name]()
    oracle = oracle_of(process)
    always = TokenAutomaton(torch.zeros(1, process.vocab_size, dtype=torch.long), [0])
    times = torch.linspace(1, 0, 4, dtype=torch.float64)
    law = nl.likelihood.model_law(process, oracle, 3, times)
    every = nl.likelihood.every_sequence(process.vocab_size, 3)
    data = (every < 3).all(-1)
    x = ConstrainedSampler(process, oracle, always).sample((4_000, 3), times=times, generator=generator())
    assert chi_square(x, law[data]) > 1e-3


@pytest.mark.parametrize("steps", [1, 4])
@pytest.mark.parametrize("table", TABLES)
@pytest.mark.parametrize("name", NOISES)
def test_every_sample_satisfies_it_where_tokens_depend_on_each_other(name, table, steps):
    sampler = made(name, table, TRANSITION)
    x = sampler.sample((400, 9), steps=steps, generator=generator())
    assert sampler.automaton.accepts(x).all() and len(x.unique(dim=0)) > 20


def test_masks_that_are_filled_one_by_one_need_marginals_only():
    """Each token has a factor above 0; tokens drawn together by their marginals violate the constraint."""
    process = NOISES["masked"]()
    automaton = automaton_of("parity", process)
    denoiser = Constrained(nl.MarkovOracle(LAW, TRANSITION, process), automaton, process)
    x = FirstHittingSampler(process, denoiser).sample((200, 12), steps=1, generator=generator())
    assert automaton.accepts(x).all()
    x = nl.AncestralSampler(process, denoiser).sample((200, 12), steps=1, generator=generator())
    assert not automaton.accepts(x).all()


@pytest.mark.parametrize("times", ["token", "sequence"])
@pytest.mark.parametrize("name", NOISES)
def test_known_tokens_and_the_constraint_hold_together(name, times):
    sampler = made(name, "in order", TRANSITION)
    known = torch.tensor([[False, True, False, False, True, False]])
    tokens = torch.tensor([[0, 1, 0, 0, 1, 0]])
    x = nl.Infilling(sampler, tokens, known, times=times).sample((200, 6), steps=4, generator=generator())
    assert (x[:, 1:5] == 1).all() and sampler.automaton.accepts(x).all()


@pytest.mark.parametrize("times", ["token", "sequence"])
def test_the_known_tokens_condition_the_others(times):
    """One token is missing: its law is exact. For one time per sequence, masks alone: other noise hides what is known."""
    for name in NOISES if times == "token" else ["masked"]:
        sampler, known = made(name, "no 2 after 1"), torch.tensor([[True, False, True, True]])
        x = nl.Infilling(sampler, torch.tensor([[1, 0, 1, 0]]), known, times=times)
        x = x.sample((2_000, LENGTH), steps=3, generator=generator())
        share = torch.bincount(x[:, 1], minlength=3) / len(x)
        want = torch.tensor([0.5 / 0.7, 0.2 / 0.7, 0.0])
        assert (share - want).abs().max() < 0.04


def test_the_constraint_starts_after_the_prompt():
    """Token 2 follows a 1 in the prompt alone."""
    sampler = made("gidd", "no 2 after 1", TRANSITION, start="prompt")
    x = Prompted(sampler, torch.tensor([[1, 2]])).sample((200, 8), steps=4, generator=generator())
    assert (x[:, :2] == torch.tensor([1, 2])).all() and sampler.automaton.accepts(x, 2).all()
    assert not sampler.automaton.accepts(x).any()


def test_what_the_known_tokens_contradict_is_said_at_the_start():
    sampler = made("gidd", "in order")
    told = nl.Infilling(sampler, torch.tensor([[0, 2, 0, 1]]), torch.tensor([[False, True, False, True]]))
    with pytest.raises(ValueError, match="token 1 at position 3, with those before it, does not"):
        next(itertools.islice(told.run((2, LENGTH), steps=4), 1, None))


@pytest.mark.parametrize("name", NOISES)
def test_blocks_see_the_whole_sequence(name):
    sampler = made(name, "parity", TRANSITION)
    x = BlockSampler(sampler, 2).sample((200, 6), steps=3, generator=generator())
    assert sampler.automaton.accepts(x).all()
    with pytest.raises(ValueError, match="context must be 'all' around a sampler that needs whole sequences"):
        BlockSampler(sampler, 2, context="past")


@pytest.mark.parametrize("name", NOISES)
def test_noise_that_is_left_is_removed_together(name):
    sampler = made(name, "parity", TRANSITION)
    times = torch.tensor([1.0, 0.7, 0.4])
    x = sampler.sample((200, 12), times=times, generator=generator())
    assert sampler.automaton.accepts(x).all()
    left = sampler.sample((200, 12), times=times, clean=False, generator=generator())
    assert not (left == x).all()


def test_a_sequence_is_the_same_alone_and_in_a_batch():
    sampler = made("gidd", "in order", TRANSITION)
    seeds = [generator(i) for i in range(3)]
    together = sampler.sample((3, 8), steps=4, generator=seeds)
    alone = [sampler.sample((1, 8), steps=4, generator=[generator(i)]) for i in range(3)]
    assert torch.equal(together, torch.cat(alone))


def test_a_wrapper_that_changes_finished_sequences_is_found():
    process = NOISES["gidd"]()
    sampler = ConstrainedSampler(
        process, nl.MarkovOracle(INITIAL, TRANSITION, process), automaton_of("parity", process)
    )

    class Breaks(nl.WrappedSampler):
        def stages(self, z, t, s, *, generator=None):
            return [
                stage._replace(z=torch.zeros_like(stage.z)) for stage in self.inner.stages(z, t, s, generator=generator)
            ]

    with pytest.raises(ValueError, match="finished sequences must satisfy the constraint; sequence 0 does not"):
        Breaks(sampler).sample((3, 8), steps=2)


@pytest.mark.usefixtures("unchecked")
def test_what_is_refused():
    process = NOISES["masked"]()
    oracle, automaton = oracle_of(process), automaton_of("parity", process)
    for call, words in {
        lambda: ConstrainedSampler(process, oracle, None): "must be a noiselab.constraints.TokenAutomaton",
        lambda: ConstrainedSampler(
            nl.uniform(vocab_size=3), oracle, automaton
        ): "tokens of the process, 3; got one of 4",
        lambda: ConstrainedSampler(process, oracle, automaton, "end"): "start must be a count",
        lambda: ConstrainedSampler(process, oracle, automaton, 2.5): "start must be a whole number",
    }.items():
        with pytest.raises(ValueError, match=words):
            call()
