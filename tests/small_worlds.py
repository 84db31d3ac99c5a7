"""Processes over two or three data tokens and chains of them: everything can be enumerated."""

import torch
from family import gather
from worlds import copies, row

import noiselab as nl
from noiselab import t

V, MASK = 3, 2


class Turning(nl.InterpolatingProcess):
    """A user's process: noise that turns from one row into another."""

    def alpha(self, t):
        return 1 - t**2

    def mixing(self, t):
        share = torch.cos(1.2 * t)[..., None] ** 2
        return share * row(0.1, 0.5, 0.4) + (1 - share) / V


class Pairs(nl.TokenDependentProcess):
    """Tokens 0 and 1 are confused with each other, then masked."""

    def alpha(self, t):
        return (1 - t) ** 2

    def mixing(self, t):
        confused = torch.block_diag(torch.full((2, 2), 0.5), torch.ones(1, 1)).to(t)
        share = ((1 - t) / (2 - t))[..., None, None]
        return share * confused + (1 - share) * torch.eye(V)[MASK].to(t).expand(V, V)


BETAS = row(0.1, 0.3, 0.5, 1.0)
SMALL = copies(
    {
        "masked": lambda: nl.masked(vocab_size=V, mask_id=MASK),
        "masked, cosine": lambda: nl.Interpolation(
            nl.schedules.Function(lambda t: torch.cos(torch.pi * t / 2)),
            {nl.Absorbing(MASK, V): nl.schedules.Function(lambda t: 1 - torch.cos(torch.pi * t / 2))},
        ),
        "gidd 0.1": lambda: nl.gidd(vocab_size=V, mask_id=MASK, p_uniform=0.1),
        "gidd 0.5": lambda: nl.gidd(vocab_size=V, mask_id=MASK, p_uniform=0.5),
        "gidd, gamma 2": lambda: nl.gidd(vocab_size=V, mask_id=MASK, p_uniform=0.2, gamma=2.0),
        "log-SNR hybrid": lambda: nl.processes.log_snr_hybrid(vocab_size=V, mask_id=MASK, shift=1),
        "uniform": lambda: nl.uniform(vocab_size=V),
        **gather("SMALL"),
        "mask and unigram": lambda: nl.Interpolation(
            1 - t, {nl.Absorbing(MASK, V): t, nl.Unigram(row(0.7, 0.3, 0)): t * t}
        ),
        "chain": lambda: nl.processes.d3pm(nl.Uniform(V), BETAS),
        "turning": Turning,
        "token-dependent": lambda: Pairs(torch.arange(V) != MASK),
        "token rates": lambda: nl.processes.TokenRates(row(0.7, 2.0, 1.0), mask_id=MASK),
        "coarse masked": lambda: nl.processes.Coarse(torch.tensor([2, 2, 2, 3]), mask_id=3),
        "neighbours": lambda: nl.processes.Neighbours(torch.tensor([[1], [0], [2]]), torch.ones(V, 1), mask_id=MASK),
    }
)
# A little noise at t = 0 and signal at t = 1: the bound is above the entropy by what they cost
LEAKY = "log-SNR hybrid"


def random_chain(states, seed):
    generator = torch.Generator().manual_seed(seed)
    laws = 0.1 - torch.rand(states + 1, states, dtype=torch.float64, generator=generator).log()
    laws = laws / laws.sum(-1, keepdim=True)
    return laws[0], laws[1:]


def world(name, length, seed=0):
    """A process, its exact denoiser, all sequences of a random chain with their probabilities, and the entropy."""
    process = SMALL[name]().requires_grad_(False)
    return process, *known(process, length, seed)


def known(process, length, seed=0):
    oracle = nl.MarkovOracle(*random_chain(int(process.data_tokens().sum()), seed), process)
    x = nl.likelihood.every_sequence(oracle.tokens, length)
    return oracle, x, oracle.log_prob(x).exp(), oracle.entropy(length)


def grid(process, steps):
    """Times for a sampler, closer near 0."""
    return process.domain[1] * torch.linspace(1, 0, steps + 1, dtype=torch.float64) ** 2
