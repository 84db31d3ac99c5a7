"""The exact denoiser where the noisy tokens cannot occur together: by enumeration of sequences and of ignored tokens."""

import itertools

import pytest
import torch
from worlds import row

import noiselab as nl

START = row(0.6, 0.3, 0.1)
CHAIN = torch.tensor([[0.0, 0.7, 0.3], [0.5, 0.5, 0.0], [0.0, 0.0, 1.0]], dtype=torch.float64)
LENGTH = 5
EVERY = nl.likelihood.every_sequence(3, LENGTH)
LAW = torch.stack(
    [START[x[0]] * torch.stack([CHAIN[a, b] for a, b in itertools.pairwise(x)]).prod() for x in EVERY.tolist()]
)


def given_most(process, z, t):
    """p(x_i | z_j for j in J) for each i: summed over all sets J without i of the largest size that can occur."""
    like = process.likelihood(z[None], t)[0]
    seen = torch.stack(
        [like[i, EVERY[:, i]] for i in range(LENGTH)], -1
    )  # of each sequence, the likelihood of each token
    laws = torch.zeros(LENGTH, 3, dtype=torch.float64)
    for i in range(LENGTH):
        others = [j for j in range(LENGTH) if j != i]
        for size in range(LENGTH - 1, -1, -1):
            for kept in itertools.combinations(others, size):
                weight = LAW * seen[:, list(kept)].prod(-1)
                laws[i].index_add_(0, EVERY[:, i], weight)
            if laws[i].sum() > 0:
                break
    return laws / laws.sum(-1, keepdim=True)


@pytest.mark.parametrize("time", [0.0, 0.4, 1.0])
@pytest.mark.parametrize(
    "process",
    [nl.masked(vocab_size=4, mask_id=3), nl.gidd(vocab_size=4, mask_id=3, p_uniform=0.2)],
    ids=["masked", "gidd"],
)
def test_the_fewest_possible_tokens_are_ignored(process, time):
    """Masks at t = 0 and, without uniform noise, tokens of data at t = 1 cannot occur either."""
    z = torch.cartesian_prod(*[torch.arange(4)] * LENGTH)[::7]
    t = torch.full((len(z),), time, dtype=torch.float64)
    found = nl.MarkovOracle(START, CHAIN, process)(z, t).softmax(-1)
    assert (found[..., 3] == 0).all()
    for tokens, law in zip(z, found, strict=True):
        torch.testing.assert_close(law[:, :3], given_most(process, tokens, t[:1]), rtol=0, atol=1e-9)


def test_sequences_do_not_depend_on_each_other_and_many_contradictions_add_up():
    """Two classes that never change: the class of the majority, to the last token."""
    process = nl.masked(vocab_size=3, mask_id=2)
    oracle = nl.MarkovOracle(row(0.5, 0.5), torch.eye(2, dtype=torch.float64), process)
    z = torch.tensor([[0] * 41 + [2] + [1] * 40, [0] * 40 + [2] + [1] * 41, [0] * 40 + [2] * 2 + [1] * 40, [0] * 82])
    t = torch.tensor([0.5])
    found = oracle(z, t.expand(4))
    assert torch.equal(found, torch.cat([oracle(some[None], t) for some in z]))
    at = found.softmax(-1)[torch.arange(4), torch.tensor([41, 40, 41, 41]), 0]
    torch.testing.assert_close(at, row(1.0, 0.0, 0.5, 1.0), rtol=0, atol=1e-9)
    assert not found.isnan().any()
