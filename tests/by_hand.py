"""Laws by enumeration, written without the library.

A process is one matrix, rows q_t(. | x); data are a chain. All else is sums over all clean and all noisy sequences.
"""

import itertools
import math

import torch

import noiselab as nl

WORDS = [0.5, 0.3, 0.2], [[0.8, 0.1, 0.1], [0.05, 0.9, 0.05], [0.4, 0.1, 0.5]]
PAIR = [0.6, 0.4], [[0.9, 0.1], [0.25, 0.75]]


def masked(t):
    return [[1 - t, 0, t], [0, 1 - t, t], [0, 0, 1]]


def uniform(t):
    return [[(1 - t) * (z == x) + t / 3 for z in range(3)] for x in range(3)]


def gidd(t):
    """Von Ruette et al. (2025), section 4: p_u = 0.2, gamma = 1, so that B = 2 (0.2 / 0.8) = 1/2."""
    c = 0.5 * math.sqrt(t * (1 - t))
    noise = [c / 2 / (1 + c), c / 2 / (1 + c), t / (1 + c)]
    return [[(1 - t) / (1 + c) * (z == x) + noise[z] for z in range(3)] for x in range(3)]


class Drifting(nl.InterpolatingProcess):
    """alpha = (1 - t)^2; replacements are a mask with probability 1 - t/2, otherwise tokens 0 and 1 with 3/4 and 1/4."""

    def alpha(self, t):
        return (1 - t) ** 2

    def mixing(self, t):
        words, mask = torch.tensor([0.75, 0.25, 0.0]).to(t), torch.tensor([0.0, 0.0, 1.0]).to(t)
        return t[..., None] / 2 * words + (1 - t[..., None] / 2) * mask


def drifting(t):
    replaced = 2 * t - t * t
    noise = [replaced * t * 3 / 8, replaced * t / 8, replaced * (1 - t / 2)]
    return [[(1 - t) ** 2 * (z == x) + noise[z] for z in range(3)] for x in range(3)]


def token_rates(t):
    """Token 0 is masked with probability t^(1/2), token 1 with t^3."""
    return [[1 - t**0.5, 0, t**0.5], [0, 1 - t**3, t**3], [0, 0, 1]]


def neighbours(t):
    """2t hops on average, each to the next token of a circle of three with probability 3/4, to the one before with 1/4."""
    hop = torch.tensor([[0, 0.75, 0.25], [0.25, 0, 0.75], [0.75, 0.25, 0]], dtype=torch.float64)
    law = (1 - t) * torch.linalg.matrix_exp(2 * t * (hop - torch.eye(3, dtype=torch.float64)))
    return [[*row, t] for row in law.tolist()] + [[0, 0, 0, 1]]


# Name -> the process of the library, the matrix of each time, and the chain of its first tokens.
WRITTEN = {
    "masked": (lambda: nl.masked(vocab_size=3, mask_id=2), masked, PAIR),
    "uniform": (lambda: nl.uniform(vocab_size=3), uniform, WORDS),
    "gidd": (lambda: nl.gidd(vocab_size=3, mask_id=2, p_uniform=0.2), gidd, PAIR),
    "drifting": (lambda: Drifting(torch.tensor([True, True, False])), drifting, PAIR),
    "token rates": (
        lambda: nl.processes.TokenRates(torch.tensor([0.5, 3, 1], dtype=torch.float64), mask_id=2),
        token_rates,
        PAIR,
    ),
    "neighbours": (
        lambda: nl.processes.Neighbours(
            torch.tensor([[1, 2], [2, 0], [0, 1], [3, 3]]), torch.tensor([[3.0, 1]] * 4), mask_id=3
        ),
        neighbours,
        WORDS,
    ),
}
FORGETFUL = ["masked", "uniform", "gidd", "drifting"]  # noise that does not depend on the clean token


class World:
    """All sequences of one length, the law of the clean ones, and what follows from the matrix."""

    def __init__(self, name, length):
        self.make, self.matrix, (self.initial, self.transition) = WRITTEN[name]
        self.length, self.states, self.made = length, len(self.matrix(0.5)), {}
        self.clean = list(itertools.product(range(len(self.initial)), repeat=length))
        self.noisy = list(itertools.product(range(self.states), repeat=length))
        self.data = torch.tensor([self.chance(x) for x in self.clean], dtype=torch.float64)

    def process(self):
        return self.make()

    def oracle(self, process=None):
        initial, transition = (torch.tensor(law, dtype=torch.float64) for law in (self.initial, self.transition))
        return nl.MarkovOracle(initial, transition, process or self.make())

    def chance(self, x):
        """p(x), as a product."""
        return self.initial[x[0]] * math.prod(self.transition[a][b] for a, b in itertools.pairwise(x))

    def q(self, t):
        """[x, z]"""
        if t not in self.made:
            self.made[t] = torch.tensor(self.matrix(t), dtype=torch.float64)
        return self.made[t]

    def transition_between(self, s, t):
        """q(z_t | z_s) [z_s, z_t]: what leads from the matrix of s to that of t."""
        return torch.linalg.solve(self.q(s), self.q(t))

    def rates(self, t, h=1e-5):
        """Forward rates [z, y], the slope of that; 0 from a token to itself."""
        slope = (self.q(t + h) - self.q(t - h)) / (2 * h)
        return torch.linalg.solve(self.q(t), slope).fill_diagonal_(0).clamp(min=0)

    def sequences(self, t):
        """q_t(z | x) of whole sequences, [x, z]: the product over positions."""
        q, law = self.q(t), torch.ones(len(self.clean), len(self.noisy), dtype=torch.float64)
        x, z = torch.tensor(self.clean), torch.tensor(self.noisy)
        for i in range(self.length):
            law = law * q[x[:, i]][:, z[:, i]]
        return law

    def marginal(self, t):
        """p_t(z), in the order of `noisy`."""
        return self.data @ self.sequences(t)

    def leave_one_out(self, z, t):
        """p(x_i = v | all of z but z_i), [i, v]: a sum over all clean sequences; NaN where z is impossible without z_i."""
        q, law = self.matrix(t), torch.zeros(self.length, self.states, dtype=torch.float64)
        for x, p in zip(self.clean, self.data.tolist(), strict=True):
            for i in range(self.length):
                law[i, x[i]] += p * math.prod(q[x[j]][z[j]] for j in range(self.length) if j != i)
        return law / law.sum(-1, keepdim=True)

    def posterior(self, z, t):
        """p(x_i = v | z), [i, v]."""
        q, law = self.matrix(t), torch.zeros(self.length, self.states, dtype=torch.float64)
        for x, p in zip(self.clean, self.data.tolist(), strict=True):
            for i in range(self.length):
                law[i, x[i]] += p * math.prod(q[x[j]][z[j]] for j in range(self.length))
        return law / law.sum(-1, keepdim=True)

    def given(self, x_hat, z, t):
        """The law of the clean token given a prediction and the noisy token z: Bayes' rule."""
        law = x_hat * self.q(t)[:, z]
        return law / law.sum()

    def back(self, x_hat, z, s, t):
        """The law of z_s given a prediction and z_t = z: sum over x of p(x | z) q(z_s | z_t, x)."""
        early, late, jump = self.q(s), self.q(t), self.transition_between(s, t)
        law = torch.zeros(self.states, dtype=torch.float64)
        for x, p in enumerate(self.given(x_hat, z, t).tolist()):
            if p > 0:
                law += p * early[x] * jump[:, z] / late[x, z]
        return law

    def product(self, laws):
        """The law of a sequence from one for each position, in the order of `noisy`."""
        law = torch.ones(1, dtype=torch.float64)
        for one in laws:
            law = (law[:, None] * one).flatten()
        return law

    def kernel(self, step):
        """[z, y] over sequences: `step(z)` gives the law of each position; rows of impossible z are 0."""
        kernel = torch.zeros(len(self.noisy), len(self.noisy), dtype=torch.float64)
        for n, z in enumerate(self.noisy):
            laws = step(z)
            if laws is not None:
                kernel[n] = self.product(laws)
        return kernel

    def ancestral(self, t, s, predict=None):
        """The kernel of one reverse step with x_hat fixed; by default with the exact prediction."""
        predict = predict or self.leave_one_out
        possible = self.marginal(t) > 0

        def step(z):
            if not possible[self.noisy.index(z)]:
                return None
            x_hat = predict(z, t)
            return [self.back(x_hat[i], z[i], s, t) for i in range(self.length)]

        return self.kernel(step)

    def code(self, z):
        """The place of each sequence in `noisy`."""
        return (z * self.states ** torch.arange(self.length - 1, -1, -1)).sum(-1)


def fit(counts, law):
    """The probability of so large a deviation of counts from a law (chi-square; rare cells are put together).

    0 if something was counted that the law excludes.
    """
    counts, law = counts.flatten().double(), law.flatten()
    want = law / law.sum() * counts.sum()
    if counts[want == 0].any():
        return 0.0
    rare = want < 5
    counts = torch.cat([counts[~rare], counts[rare].sum()[None]])
    want = torch.cat([want[~rare], want[rare].sum()[None]])
    counts, want = counts[want > 0], want[want > 0]
    statistic = ((counts - want) ** 2 / want).sum()
    return torch.special.gammaincc(torch.tensor((len(want) - 1) / 2).double(), statistic / 2).item()


def fit_of_step(world, step, kernel, t, n=None, seed=0):
    """How well one step from every possible sequence fits the rows of a kernel; `step(z, generator)` takes a batch."""
    possible = (world.marginal(t) > 0).nonzero()[:, 0]
    n = n or 32_000 // len(possible)
    z = torch.tensor(world.noisy)[possible].repeat(n, 1)
    after = step(z, torch.Generator().manual_seed(seed))
    row = torch.arange(len(possible)).repeat(n)
    counts = torch.bincount(row * len(world.noisy) + world.code(after), minlength=len(possible) * len(world.noisy))
    return fit(counts, kernel[possible])
