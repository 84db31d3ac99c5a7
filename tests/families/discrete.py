"""Chains in T steps."""

import math

import published
import torch
from family import D3PM, FREQUENCIES, Equality, Pairs, normalised, row, values_and_gradients
from torch import Tensor

import noiselab as nl

WORLDS = {
    "chain": lambda: nl.processes.d3pm(
        nl.Unigram(row(0.4, 0.3, 0.2, 0.1, 0)), nl.processes.cosine_betas(7), support=torch.arange(5) < 4
    ),
}


def chain(noise, row: Tensor, betas: Tensor, own_betas: Tensor, states: int) -> Pairs:
    """The whole bound of a chain in T steps: ours from `prior_kl` and `step_kl`, theirs from matrices."""
    process, steps = nl.processes.d3pm(noise, betas), len(betas)
    data = process.data_tokens().nonzero()[:, 0]
    table = torch.randn(steps, states, states, dtype=torch.float64, generator=torch.Generator().manual_seed(steps))
    matrices = published.replacing(own_betas, row)
    time = torch.arange(steps + 1, dtype=torch.float64) / steps

    def ours(leaf: Tensor) -> Tensor:
        bounds = []
        z = torch.arange(states).expand(steps, -1)
        for x in data:
            clean = torch.full_like(z, int(x))
            chance = process.probability(clean, z, time[1:])
            # An impossible noisy token has chance 0 and a divergence that is NaN.
            noisy = torch.where(chance > 0, z, process.marginal(clean, time[1:]).argmax(-1))
            nats = nl.elbo.step_kl(process, leaf, clean, noisy, time[:-1], time[1:])
            prior = nl.elbo.prior_kl(process, x.view(1, 1), time[-1:])[0, 0]
            bounds.append(prior + torch.where(chance > 0, chance * nats, 0).sum())
        return torch.stack(bounds)

    def theirs(leaf: Tensor) -> Tensor:
        log_x = normalised(process, leaf)
        return torch.stack([published.d3pm(matrices, row, log_x, int(x)) for x in data])

    yield from values_and_gradients(ours, theirs, table)
    yield nl.likelihood.expected_discrete_bound(process, Table(table), data[:, None], time.flip(0)).total, theirs(table)


class Table(nl.Denoiser):
    """Logits of its own for each of T steps and each noisy token."""

    def __init__(self, logits: Tensor):
        super().__init__()
        self.logits = logits

    def forward(self, z, t):
        steps = len(self.logits)
        k = (t.reshape(len(z), -1) * steps).round().long().expand(z.shape) - 1
        return self.logits[k, z]


def d3pm_absorbing() -> Pairs:
    for steps in (1, 5):
        betas = torch.tensor([1 / (steps - k + 1) for k in range(1, steps + 1)], dtype=torch.float64)
        row = torch.tensor([0, 0, 0, 1], dtype=torch.float64)
        yield from chain(nl.Absorbing(3, 4), row, nl.processes.absorbing_betas(steps), betas, 4)


def d3pm_uniform() -> Pairs:
    steps = 6
    signal = [math.cos((k / steps + 0.008) / 1.008 * math.pi / 2) for k in range(steps + 1)]
    betas = torch.tensor([min(1 - signal[k + 1] / signal[k], 0.999) for k in range(steps)], dtype=torch.float64)
    yield from chain(
        nl.Uniform(4), torch.full((4,), 0.25, dtype=torch.float64), nl.processes.cosine_betas(steps), betas, 4
    )


def digress() -> Pairs:
    row, betas = FREQUENCIES[:4] / FREQUENCIES[:4].sum(), torch.tensor([0.1, 0.2, 0.4, 0.6, 1], dtype=torch.float64)
    yield from chain(nl.Unigram(row), row, betas, betas, 4)


EQUALITIES = {
    "d3pm absorbing": Equality(
        "`d3pm` with `Absorbing` and `absorbing_betas`, `expected_discrete_bound` and its terms",
        D3PM,
        "equations 1 to 4",
        d3pm_absorbing,
    ),
    "d3pm uniform": Equality(
        "`d3pm` with `Uniform` and `cosine_betas`, `expected_discrete_bound` and its terms",
        D3PM,
        "equations 1 to 4",
        d3pm_uniform,
    ),
    "digress": Equality(
        "`d3pm` with `Unigram`, `expected_discrete_bound` and its terms",
        "DiGress, Vignac et al. (2023), [2209.14734](https://arxiv.org/abs/2209.14734)",
        "marginal transitions, section 4",
        digress,
    ),
}
