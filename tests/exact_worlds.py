"""A small world in which the law of whole sequences is tested."""

import torch
from worlds import copies

import noiselab as nl

INITIAL = torch.tensor([0.5, 0.3, 0.2], dtype=torch.float64)
TRANSITION = torch.tensor([[0.8, 0.15, 0.05], [0.1, 0.8, 0.1], [0.3, 0.1, 0.6]], dtype=torch.float64)
NOISES = copies(
    {
        "masked": lambda: nl.masked(vocab_size=4, mask_id=3),
        "gidd": lambda: nl.gidd(vocab_size=4, mask_id=3, p_uniform=0.2),
        "uniform": lambda: nl.uniform(vocab_size=3),
    }
)


def generator(seed=0):
    return torch.Generator().manual_seed(seed)


def oracle_of(process):
    return nl.MarkovOracle(INITIAL, TRANSITION, process)


def chi_square(x, law, tokens=3):
    """The probability of so large a deviation of sequences x from the law over all sequences, in lexical order."""
    length = x.shape[1]
    assert (x < tokens).all()
    index = (x * tokens ** torch.arange(length - 1, -1, -1)).sum(-1)
    seen, expected = torch.bincount(index, minlength=tokens**length).double(), law * len(x)
    assert (seen[law == 0] == 0).all()
    common = expected >= 5
    parts = torch.stack([seen, expected])
    parts = torch.cat([parts[:, common], parts[:, ~common].sum(-1, keepdim=True)], -1)
    parts = parts[:, parts[1] > 0]
    statistic = ((parts[0] - parts[1]) ** 2 / parts[1]).sum()
    return torch.special.gammaincc(torch.tensor((parts.shape[1] - 1) / 2).double(), statistic / 2).item()


def p_value(sampler, length=4, n=10_000, seed=0, **grid):
    """That of a sampler's sequences, against the law of the data."""
    x = sampler.sample((n, length), generator=generator(seed), **grid)
    every = nl.likelihood.every_sequence(3, length)
    return chi_square(x, oracle_of(nl.masked(vocab_size=4, mask_id=3)).log_prob(every).exp())
