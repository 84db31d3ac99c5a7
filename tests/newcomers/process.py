"""A noise process of one's own: its laws hold, and the bound of the exact denoiser is the entropy of the data."""

import math

import torch

import noiselab as nl
from noiselab.testing import check_process


class Swinging(nl.InterpolatingProcess):
    """Replacements are mostly even tokens at first, mostly odd ones at half time, and even ones again at the end."""

    def alpha(self, t):
        return (1 - t) / (1 + t)

    def mixing(self, t):
        even = torch.tensor([1.0, -1.0, 1.0, -1.0], dtype=torch.float64)
        return (1 + 0.4 * torch.cos(2 * torch.pi * t)[..., None] * even) / 4


process = Swinging()
check_process(process)

# Replacements at t = 1/2: 0.25 * (1 -+ 0.4), and two thirds of all tokens are replaced.
marginal = process.marginal(torch.tensor([[0]]), torch.tensor([0.5]))[0, 0]
torch.testing.assert_close(marginal, torch.tensor([1 / 3 + 0.1, 0.7 / 3, 0.1, 0.7 / 3], dtype=torch.float64))

initial = torch.tensor([0.4, 0.3, 0.2, 0.1])
transition = torch.tensor([[0.7, 0.1, 0.1, 0.1], [0.05, 0.8, 0.1, 0.05], [0.3, 0.3, 0.3, 0.1], [0.1, 0.1, 0.1, 0.7]])
oracle = nl.MarkovOracle(initial, transition, process)
pairs = [(initial[a] * transition[a, b]).item() for a in range(4) for b in range(4)]
entropy = -sum(p * math.log(p) for p in pairs)

x = nl.likelihood.every_sequence(4, 2)
p = torch.tensor(pairs, dtype=torch.float64)
terms = nl.likelihood.expected_bound(process, oracle, x, low=1e-5, high=1 - 1e-5).mean(p)
print(f"bound {terms.total.item():.6f}, entropy {entropy:.6f} nats")
assert 0 <= terms.total.item() - entropy < 1e-3
