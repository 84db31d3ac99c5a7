r"""What long steps cost: the mistake of a step is that it holds x_hat where it is.

Given the exact x_hat each token is drawn from the right law, but by itself: what one token turns into says something about
the others, which they learn one step late. It takes two tokens that move within one step: a prediction that is $\tau$ old
loses about $2\, c(t)\, \tau$ nats per unit of time, and a step of length h about $c(t)\, h^2$. That is the divergence of the
exact path from the drawn one; of N steps of lengths $h(t)$ it is about

$$\sum c\, h^2 \approx \int c(t)\, h(t)\, dt, \qquad \int \frac{dt}{h(t)} = N .$$

It is least where $c - \mu / h^2 = 0$ for one number $\mu$: lengths in proportion to $c^{-1/2}$, points in proportion to
$\sqrt{c}$, and the same cost $c\, h^2 = \mu$ in each step. It bounds the divergence of the law of data from that of samples.

On three times t > m > s the cost can be read off: one step from t to s loses against two, in the second of them,

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

NEW_IN_STALE = 0.01  # of the new prediction in the old one, so that a truncated one has a finite cost


def outdating(
    process: NoiseProcess,
    denoiser: Denoiser,
    times: Grid,
    x: Tokens | None,
    shape: Sequence[int],
    generator: Randomness,
) -> Float[Tensor, " inner"]:
    """What holding a prediction from one time to the next but one costs, at each time between; summed over all tokens.

    **Arguments:**

    - `denoiser`: predicts leave-one-out.
    - `times`: falling.
    - `x`: clean sequences whose noisy versions are looked at; without them, an ancestral sampler draws some.
    - `shape`: (batch, length).

    **Returns:** nats, float64, for all `times` but the first and the last.
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
    """The same along the walk of some sequences from z, each towards its x if that is given."""
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
            # Whatever is settled stays so: the rows of now are among those of before.
            stale = (1 - NEW_IN_STALE) * old[rows[old_rows]] + NEW_IN_STALE * x_hat
            divergence = kl_divergence(law, _moved(process, z[rows], stale, s, t))
            costs[k] = divergence.nan_to_num(0).clamp(min=0).sum()  # rounding leaves some below 0
        if x is not None:
            law = _moved(process, z[rows], nn.functional.one_hot(x[rows].long(), process.vocab_size).double(), s, t)
        z, old, old_rows = z.masked_scatter(rows, choose(law, u[rows])), x_hat, rows
    return costs[1:-1]


def _moved(process: NoiseProcess, z: Tensor, x_hat: Tensor, s: Tensor, t: Tensor) -> Tensor:
    """The reverse transition of single tokens."""
    return process.posterior(z[:, None], x_hat[:, None], s.expand(len(z)), t.expand(len(z)))[:, 0]
