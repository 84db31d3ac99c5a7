"""What a network's bound says, and what its samples are, without Monte Carlo error."""

import torch
from jaxtyping import Float
from torch import Tensor

import noiselab as nl
from noiselab.likelihood import expected_bound, model_law

from .world import LENGTH, TOKENS, every_text


def excess_of_law(data: Float[Tensor, " text"], law: Float[Tensor, " noisy"]) -> float:
    """KL(data || law) in nats per token; texts with a mask left count as lost."""
    width = round(len(law) ** (1 / LENGTH))
    found = law.view(LENGTH * [width])[LENGTH * (slice(TOKENS),)].flatten()
    return (data * (data / found).log()).sum().item() / LENGTH


def measure_network(
    process: nl.InterpolatingProcess,
    denoiser: nl.Denoiser,
    data: Float[Tensor, " text"],
    *,
    steps: tuple[int, ...],
    nodes: int,
) -> dict:
    """The excess over the entropy of the data, in nats per token: of the bound, and of the sampler by its number of steps.

    Without end of steps the law differs from that of T steps by c / T: `limit` is 2 KL(T) - KL(T / 2) of the last two numbers.

    **Arguments:**

    - `nodes`: times of the integral of the bound.
    - `steps`: numbers of equal ancestral steps, increasing; the last is twice the last but one.
    """
    with torch.no_grad():
        terms = expected_bound(process, denoiser, every_text(), nodes=nodes)
        bound = terms.mean(data).total.item() / LENGTH
    entropy = -(data * data.log()).sum().item() / LENGTH
    found = {}
    for count in steps:
        grid = torch.linspace(1, 0, count + 1, dtype=torch.float64)
        found[count] = excess_of_law(data, model_law(process, denoiser, LENGTH, grid))
    limit = 2 * found[steps[-1]] - found[steps[-2]]
    return {"bound": bound - entropy, "steps": {str(count): value for count, value in found.items()}, "limit": limit}
