"""Everything nests in everything: random stacks of samplers, correctors and wrappers."""

import random

import pytest
import torch
from exact_worlds import NOISES, generator, oracle_of

import noiselab as nl
from noiselab.bench import registry

LENGTH = 6
KNOWN = torch.tensor([[True, False, False, True, False, False]])
TOKENS = torch.tensor([[1, 0, 0, 2, 0, 0]])


def every(found, process, denoiser):
    """All variants of the samplers or correctors that take this noise."""
    for kind in found.values():
        for make in registry.factories_of(kind).values():
            if registry.takes(make, process):
                yield make(process, denoiser)


def predictors(process, denoiser):
    yield from every(registry.find_samplers(), process, denoiser)
    yield nl.samplers.RemaskingSampler(process, denoiser, "confidence", amount=0.5)


def correctors(process, denoiser):
    yield from every(registry.find_correctors(), process, denoiser)
    yield nl.GibbsCorrector(process, denoiser, tokens_per_step=2)


def wrap(kind, sampler, process, denoiser, dice):
    """One more layer; at most one of each kind but correctors."""
    if kind == "correct":
        corrector = dice.choice(list(correctors(process, denoiser)))
        return nl.PredictorCorrector(sampler, corrector, when=(0.1, 0.9), repeats=dice.choice([1, 2]))
    if kind == "fill":
        return nl.Infilling(sampler, TOKENS, KNOWN)
    if kind == "block":
        return nl.samplers.BlockSampler(sampler, dice.choice([2, 4]), context=dice.choice(["all", "past"]))
    if kind == "slide":
        return nl.samplers.SlidingBlockSampler(sampler, dice.choice([2, 4]), share=dice.choice([0.0, 0.5]))
    if kind == "end":
        return nl.samplers.EndToken(sampler, 2)
    return nl.samplers.EarlyStopping(sampler, 3)


def stack(name, seed):
    """A random sampler around a random sampler."""
    dice = random.Random(f"{name} {seed}")
    process = NOISES[name]()
    denoiser = oracle_of(process)
    if dice.random() < 0.4:
        denoiser = nl.TopP(nl.Temperature(denoiser, 0.8), 0.95)
    sampler = dice.choice(list(predictors(process, denoiser)))
    kinds = [kind for kind in ("correct", "correct", "fill", "block", "end", "stop") if dice.random() < 0.5]
    dice.shuffle(kinds)
    for kind in kinds:
        sampler = wrap(kind, sampler, process, denoiser, dice)
    return sampler, kinds


@pytest.mark.long_for("[0134]-gidd")
@pytest.mark.parametrize("name", NOISES)
@pytest.mark.parametrize("seed", range(5))
def test_any_stack_ends_clean_keeps_what_is_known_and_does_not_mix_sequences(name, seed):
    sampler, kinds = stack(name, seed)
    together = sampler.sample((3, LENGTH), steps=5, generator=[generator(i) for i in range(3)])
    assert (together < 3).all() and together.shape == (3, LENGTH), sampler
    if "fill" in kinds and "end" not in kinds:
        assert (together[:, KNOWN[0]] == TOKENS[:, KNOWN[0]]).all(), sampler
    if "end" in kinds:
        for row, n in zip(together, nl.samplers.lengths(together, 2), strict=True):
            assert (row[n:] == 2).all(), sampler
    alone = torch.cat([sampler.sample((1, LENGTH), steps=5, generator=[generator(i)]) for i in range(3)])
    assert torch.equal(together, alone), sampler
    trace = nl.Trace.of(sampler, (3, LENGTH), steps=5, generator=[generator(i) for i in range(3)])
    assert torch.equal(trace.end, together), sampler


@pytest.mark.parametrize("name", NOISES)
def test_every_sampler_prints_on_one_line_what_it_is_made_of(name):
    process = NOISES[name]()
    for made in (*predictors(process, oracle_of(process)), *correctors(process, oracle_of(process))):
        assert repr(made).startswith(type(made).__name__) and "\n" not in repr(made)
        assert "MarkovOracle(3 states" in repr(made)
