r"""The cost of long steps: a step holds the prediction x_hat fixed.

Given the exact x_hat, each token is drawn from the correct distribution, but independently: the change of one token
carries information about the others, which is used only in the next step. The error requires two tokens that move
within one step. A prediction of age $\tau$ loses about $2\, c(t)\, \tau$ nats per unit of time, and a step of length h
about $c(t)\, h^2$. This is the divergence of the exact path from the drawn one; for N steps of lengths $h(t)$ it is
about

$$\sum c\, h^2 \approx \int c(t)\, h(t)\, dt, \qquad \int \frac{dt}{h(t)} = N .$$

It is minimal if $c - \mu / h^2 = 0$ for a constant $\mu$: lengths proportional to $c^{-1/2}$, a density of points
proportional to $\sqrt{c}$, and the same cost $c\, h^2 = \mu$ in each step. It bounds the divergence of the data
distribution from that of samples.

The cost can be estimated from three times t > m > s: compared with two steps, one step from t to s loses, in the second
half,

$$\sum_i KL\big(q(z_{s,i} \mid z_{m,i}, \hat x_i(z_m)) \,\|\, q(z_{s,i} \mid z_{m,i}, \hat x_i(z_t))\big),
\qquad \text{on average } 2\, c\, (t - m)(m - s) .$$
"""

import itertools
from collections.abc import Sequence

import torch
from jaxtyping import Float
from torch import Tensor, nn

from ..categorical import Randomness, choose, uniforms
from ..denoisers import Denoiser
from ..elbo.definition import kl_divergence
from ..numerics import ENTRIES_AT_ONCE
from ..process import NoiseProcess
from ..typing import Grid, Tokens

NEW_IN_STALE = 0.01  # weight of the new prediction mixed into the old one: truncated predictions have a finite cost


def outdating(
    process: NoiseProcess,
    denoiser: Denoiser,
    times: Grid,
    x: Tokens | None,
    shape: Sequence[int],
    generator: Randomness,
) -> Float[Tensor, " inner"]:
    """The cost of using a prediction for two steps instead of one, at each inner time; summed over all tokens.

    **Arguments:**

    - `denoiser`: predicts leave-one-out.
    - `times`: decreasing times.
    - `x`: clean sequences, of which noisy versions are evaluated; by default an ancestral sampler generates some.
    - `shape`: (batch, length).

    **Returns:** nats, float64, for all `times` except the first and the last.
    """
    batch, length = shape
    size = max(1, ENTRIES_AT_ONCE // max(1, length * process.vocab_size))
    total = torch.zeros(len(times) - 2, dtype=torch.float64, device=times.device)
    for i in range(0, batch, size):
        some = generator[i : i + size] if isinstance(generator, Sequence) else generator
        if x is None:
            z, clean = process.prior(min(size, batch - i), length, generator=some, device=times.device), None
        else:
            clean = x[i : i + size].to(times.device)
            z = process.corrupt(clean, times[0].expand(len(clean)), generator=some)
        total += _walk(process, denoiser, times, z, clean, some)
    return total


def _walk(
    process: NoiseProcess, denoiser: Denoiser, times: Tensor, z: Tensor, x: Tensor | None, generator: Randomness
) -> Tensor:
    """The cost along the walk of some sequences from z, each towards its x if given."""
    costs, old, old_rows = torch.zeros_like(times), torch.empty(0), torch.empty(0)
    for k, (t, s) in enumerate(itertools.pairwise(times)):
        u = uniforms(*z.shape, generator=generator, device=z.device)
        now = t.expand(len(z))
        rows = ~process.is_clean(z, now)
        if not rows.any():
            break
        x_hat = process.on_support(denoiser(z, now, rows)).double().softmax(-1)
        law = _moved(process, z[rows], x_hat, s, t)
        if k > 0:
            # Tokens known to be clean stay so: the current rows are a subset of the previous ones.
            stale = (1 - NEW_IN_STALE) * old[rows[old_rows]] + NEW_IN_STALE * x_hat
            divergence = kl_divergence(law, _moved(process, z[rows], stale, s, t))
            costs[k] = divergence.nan_to_num(0).clamp(min=0).sum()  # negative by rounding
        if x is not None:
            law = _moved(process, z[rows], nn.functional.one_hot(x[rows].long(), process.vocab_size).double(), s, t)
        z, old, old_rows = z.masked_scatter(rows, choose(law, u[rows])), x_hat, rows
    return costs[1:-1]


def _moved(process: NoiseProcess, z: Tensor, x_hat: Tensor, s: Tensor, t: Tensor) -> Tensor:
    """The reverse transition of single tokens."""
    return process.posterior(z[:, None], x_hat[:, None], s.expand(len(z)), t.expand(len(z)))[:, 0]
