"""Everything nests in everything: random stacks of samplers, correctors and wrappers."""

import random

import pytest
import torch
from exact_worlds import NOISES, generator, oracle_of

import noiselab as nl

LENGTH = 6
KNOWN = torch.tensor([[True, False, False, True, False, False]])
TOKENS = torch.tensor([[1, 0, 0, 2, 0, 0]])


def predictors(name, process, denoiser):
    yield nl.AncestralSampler(process, denoiser)
    yield nl.samplers.EulerSampler(process, denoiser)
    yield nl.samplers.TauLeapingSampler(process, denoiser)
    yield nl.samplers.RemaskingSampler(process, denoiser, "rescale", amount=0.2)
    yield nl.samplers.RemaskingSampler(process, denoiser, "confidence", amount=0.5)
    yield nl.samplers.PathPlanningSampler(process, denoiser)
    if name != "gidd":
        yield nl.samplers.DeterministicSampler(process, denoiser)
    if name == "masked":
        yield nl.samplers.ConfidenceSampler(process, denoiser)
        yield nl.samplers.EntropyBoundedSampler(process, denoiser, bound=0.3)
        yield nl.samplers.FirstHittingSampler(process, denoiser)


def correctors(process, denoiser):
    yield nl.GibbsCorrector(process, denoiser, tokens_per_step=2)
    yield nl.correctors.ForwardBackwardCorrector(process, denoiser, span=0.2)
    yield nl.correctors.DFMCorrector(process, denoiser)
    yield nl.correctors.RemaskingCorrector(process, denoiser, amount=0.2)
    yield nl.SelfCorrection(denoiser, temperature=0.5, support=process.support)


def wrap(kind, sampler, process, denoiser, dice):
    """One more layer; at most one of each kind but correctors."""
    if kind == "correct":
        corrector = dice.choice(list(correctors(process, denoiser)))
        return nl.PredictorCorrector(sampler, corrector, when=(0.1, 0.9), repeats=dice.choice([1, 2]))
    if kind == "fill":
        return nl.Infilling(sampler, TOKENS, KNOWN)
    if kind == "block":
        return nl.samplers.BlockSampler(sampler, dice.choice([2, 4]), context=dice.choice(["all", "past"]))
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
    sampler = dice.choice(list(predictors(name, process, denoiser)))
    kinds = [kind for kind in ("correct", "correct", "fill", "block", "end", "stop") if dice.random() < 0.5]
    dice.shuffle(kinds)
    for kind in kinds:
        sampler = wrap(kind, sampler, process, denoiser, dice)
    return sampler, kinds


@pytest.mark.long_for("[013]-gidd")
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
