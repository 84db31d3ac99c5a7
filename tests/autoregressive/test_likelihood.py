import itertools
import math

import pytest
import torch
from networks import Table

from noiselab.autoregressive import (
    RandomTokenBackspace,
    UniformTokens,
    committed_law,
    edit_bound,
    erasing_log_probability,
    stream_log_probability,
)

START, BACK = 0, 3  # texts are made of 0, 1, 2; the start is a token like them
EDITS = RandomTokenBackspace(4, BACK, 0.2, UniformTokens(3))
TEXTS = [torch.tensor(x) for x in itertools.product(range(3), repeat=2)]


def streams(length, most):
    """Every stream of at most `most` entries that comes to a text of this length, and has not had a longer one."""
    found = []

    def write(z, text):
        if len(text) == length:
            found.append((tuple(z), tuple(text)))
        if len(z) == most:
            return
        for token in range(4):
            if token == BACK and text:
                write([*z, token], text[:-1])
            elif token != BACK and len(text) < length:
                write([*z, token], [*text, token])

    write([], [])
    return found


@pytest.mark.parametrize("semantics", ["visible", "erasing"])
def test_all_streams_together_are_certain(semantics):
    """Their probabilities sum to 1: nothing is counted twice, nothing is lost."""
    network, total = Table(4, seed=1, shy=9.0), 0.0
    for z, _ in streams(2, 6):
        total += stream_log_probability(network, EDITS, torch.tensor(z), start=START, semantics=semantics).exp().item()
    assert total == pytest.approx(1, abs=1e-6)


@pytest.mark.parametrize("semantics", ["visible", "erasing"])
@pytest.mark.parametrize("seed", [0, 1])
def test_bound_is_above_the_exact_probability_and_samples_tighten_it(semantics, seed):
    network = Table(4, seed=seed, shy=7.0)
    exact = dict.fromkeys(map(tuple, map(torch.Tensor.tolist, TEXTS)), 0.0)
    for z, text in streams(2, 6):
        log_p = stream_log_probability(network, EDITS, torch.tensor(z), start=START, semantics=semantics)
        exact[text] += log_p.exp().item()
    truth = -torch.tensor([exact[tuple(x.tolist())] for x in TEXTS], dtype=torch.float64).log()
    random = torch.Generator().manual_seed(0)
    gaps = []
    for samples in (1, 16):
        repeats = 60 if samples == 1 else 8
        draws = torch.stack(
            [
                edit_bound(network, EDITS, TEXTS, start=START, semantics=semantics, samples=samples, generator=random)
                for _ in range(repeats)
            ]
        )
        error = draws.mean(1).std() / repeats**0.5
        gaps.append((draws.mean() - truth.mean()).item())
        assert gaps[-1] > -3 * error
    assert gaps[1] < 0.5 * gaps[0]


def test_law_of_what_stays_is_the_sum_over_streams():
    """Looked at once: the closed form equals the sum over all numbers of erased tokens, to 1e-6 for 8 tokens."""
    network = Table(9, seed=3, shy=0.0)
    edits = RandomTokenBackspace(9, 8, 0.3, UniformTokens(8))
    x = torch.tensor([5, 2])
    log_p = erasing_log_probability(network, x, support=8, backspace=8, start=7)
    # By hand: the chain "propose, look, keep or erase" as a Markov chain, solved as a linear system at each place.
    total, text = 0.0, [7]
    for right in x.tolist():
        here = network(input_ids=torch.tensor([text]))[0, -1, :8].softmax(-1)
        seen = torch.stack([network(input_ids=torch.tensor([[*text, v]]))[0, -1].softmax(-1)[8] for v in range(8)])
        back = (here * seen).sum()
        total += math.log(
            here[right] * (1 - seen[right]) * torch.linalg.solve(1 - back[None, None], torch.ones(1, 1).double())
        )
        text.append(right)
    assert log_p.item() == pytest.approx(total, abs=1e-9)
    # And the sum over streams of this text, mistakes up to some number, reaches it from below.
    sums = 0.0
    for first in range(3):
        for second in range(3 - first):
            for wrong in itertools.product(range(8), repeat=first + second):
                z = [t for e in wrong[:first] for t in (e, 8)] + [5] + [t for e in wrong[first:] for t in (e, 8)] + [2]
                sums += (
                    stream_log_probability(network, edits, torch.tensor(z), start=7, semantics="erasing", deep=False)
                    .exp()
                    .item()
                )
    assert sums < log_p.exp().item() < 1.15 * sums


def test_trained_with_the_loss_of_wrong_tokens_the_law_stays_and_without_it_sharpens():
    random = torch.Generator().manual_seed(0)
    law = torch.rand(8, generator=random, dtype=torch.float64)
    law, rate = law / law.sum(), 0.3
    wrong = torch.full((8, 8), 1 / 7, dtype=torch.float64).fill_diagonal_(0)  # of each right token
    nu = law @ wrong
    proposal = (1 - rate) * law + rate * nu
    erased = rate * nu / proposal
    kept = committed_law(proposal.log(), erased.log()).exp()
    torch.testing.assert_close(kept, law, rtol=0, atol=1e-12)
    sharper = committed_law(law.log(), erased.log()).exp()
    torch.testing.assert_close(sharper, (law**2 / proposal) / (law**2 / proposal).sum(), rtol=0, atol=1e-12)
    entropy = [-(p * p.log()).sum() for p in (law, sharper)]
    assert entropy[1] < entropy[0] - 0.02
