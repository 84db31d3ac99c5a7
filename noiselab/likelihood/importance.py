r"""Importance-weighted bounds: a tighter bound from several noise paths of each sequence.

A path $z_T, \dots, z_0$ drawn from $q(\cdot \mid x)$ has the importance weight

$$w = \frac{\pi(z_T)}{q_T(z_T \mid x)} \prod_{(t, s)} \frac{p(z_s \mid z_t)}{q(z_s \mid z_t, x)}, \qquad
\frac{p(z_s \mid z_t)}{q(z_s \mid z_t, x)} = \frac{q_s(z_s \mid \hat x)\; /\; q_t(z_t \mid \hat x)}{q_s(z_s \mid x)\; /\; q_t(z_t \mid x)}$$

since the forward transition is a factor of both. The mean of w is $p(x)$ under the sampler, and the mean of -log w is
the bound in discrete time.
"""  # noqa: E501

import math

import torch
from torch import Generator, Tensor

from ..denoisers import Denoiser
from ..elbo.ends import Predicted, predicted, prior_log_prob
from ..numerics import require_count
from ..process import NoiseProcess
from ..typing import Grid, PerSequence, Selection, Tokens
from .bounds import Scene
from .ranges import falling


def importance_bound(
    process: NoiseProcess,
    denoiser: Denoiser,
    x: Tokens,
    times: Grid,
    *,
    draws: int,
    real: Selection | None = None,
    generator: Generator | None = None,
) -> PerSequence:
    r"""Estimate $-\log \frac 1K \sum_k w_k$ from K noise paths of each sequence.

    Its mean bounds $-\log p(x)$ of the sampler that takes these steps. For K = 1 it is the bound in discrete time; it
    decreases with K and converges to $-\log p(x)$.

    **Arguments:**

    - `denoiser`, `x`, `real`, `generator`: as for `continuous_bound`.
    - `times`: decreasing times, as for a sampler. If noise is left at the last time, the jump to clean tokens
      (`reconstruction`) is an additional step.
    - `draws`: the number K of paths; each takes one network evaluation per step.

    **Returns:** nats per sequence, float64; infinite if all weights are 0.

    **Raises:** `ValueError` if the grid does not decrease within the domain, or `draws` is less than 1.

    **Source:** Burda et al. (2016), arXiv 1509.00519.

    **Example:**

    ```python
    import torch
    import noiselab as nl

    process = nl.masked(vocab_size=3, mask_id=2)
    oracle = nl.MarkovOracle(torch.tensor([0.5, 0.5]), torch.tensor([[1.0, 0.0], [0.0, 1.0]]), process)
    x, times = torch.tensor([[0, 0]]).expand(500, -1), torch.tensor([1.0, 0.5, 0.0])
    loose, tight = (nl.likelihood.importance_bound(process, oracle, x, times, draws=k).mean() for k in (1, 16))
    # In one step, the two tokens are independent and equal with probability 1/2.
    assert torch.tensor(8 / 3).log() < tight + 0.05 < loose
    ```
    """
    require_count("draws", draws)
    weights = [path_log_weight(process, denoiser, x, times, real=real, generator=generator) for _ in range(draws)]
    return math.log(draws) - torch.stack(weights).logsumexp(0)


def path_log_weight(
    process: NoiseProcess,
    denoiser: Denoiser,
    x: Tokens,
    times: Grid,
    *,
    real: Selection | None = None,
    generator: Generator | None = None,
) -> PerSequence:
    r"""The log-weight $\log w$ of one noise path drawn for each sequence; the mean of $w$ is $p(x)$ of the sampler.

    **Arguments:** as for `importance_bound`.

    **Returns:** nats, float64.
    """
    grid = falling(process, times).to(x.device)
    scene = Scene(process, denoiser, x, real, generator)
    last = grid[-1].item()
    rebuild = not scene.clean_at(last)
    t = scene.full(grid[0].item())
    z = scene.process.corrupt(scene.x, t, generator=generator)
    logs = prior_log_prob(process, z, t) - process.probability(scene.x, z, t).log()
    for s in map(scene.full, grid[1:].tolist()):
        x_hat = predicted(process, scene.predict(z, t))
        earlier = process.draw_posterior(scene.x, z, s, t, generator=generator)
        certain = process.is_clean(z, t)  # does not change, for any prediction
        logs = logs + torch.where(
            certain, 0, _ratio(process, x_hat, scene.x, earlier, s) - _ratio(process, x_hat, scene.x, z, t)
        )
        z, t = earlier, s
    if rebuild:
        x_hat = predicted(process, scene.predict(z, t))
        jump = x_hat.at(scene.x) - _ratio(process, x_hat, scene.x, z, t)
        logs = logs + torch.where(process.is_clean(z, t), 0, jump)
    return scene.read(scene.sum(logs))


def _ratio(process: NoiseProcess, x_hat: Predicted, x: Tensor, z: Tensor, t: Tensor) -> Tensor:
    return x_hat.marginal(z, t) - process.probability(x, z, t).log()
