"""Predictions of the best answer from answers and rewards, without a trained model."""

import torch
from jaxtyping import Float
from torch import Generator, Tensor

from .ranking import Ties, plackett_luce
from .rewards import Reward, cosine


def gradient_descent(
    x: Float[Tensor, "batch inside"],
    y: Float[Tensor, "batch answer dim"],
    rewards: Float[Tensor, "batch answer"],
    *,
    steps: int = 50,
    rate: float = 0.1,
    reward: Reward = cosine,
    generator: Generator | None = None,
    ties: Ties = "refuse",
) -> Float[Tensor, "batch dim"]:
    r"""A linear model $W x$ fitted to each row's ranking by Adam, and its prediction.

    A transformer should learn the same computation in context.

    $W$ is initialized like a `torch.nn.Linear`, uniform in $\pm 1 / \sqrt{\text{inside}}$.

    **Arguments:**

    - `x`: the question; `y`: the answers; `rewards`: their rewards.
    - `steps`, `rate`: number of steps and learning rate of Adam. The published baseline takes 50 steps, fewer if rewards are
      wrong, at a rate of 0.1.
    - `reward`: the score of an answer given the prediction.
    - `generator`: randomness of the initial $W$.
    - `ties`: as for `plackett_luce`.

    **Raises:** `ValueError` for rewards that are NaN, or tied.

    **Source:** the code released with Wang, Wang, Wang and others (2024), arXiv 2405.18634.

    **Example:**

    ```python
    import torch
    from alignment import AnswersOnALine, gradient_descent

    generator = torch.Generator().manual_seed(0)
    ranked = AnswersOnALine().draw(256, 15, generator=generator)
    said = gradient_descent(ranked.x, ranked.y, ranked.rewards, generator=generator)
    assert (1 - torch.cosine_similarity(said, ranked.best, -1)).mean() < 0.4
    ```
    """
    batch, inside = x.shape
    bound = inside**-0.5
    first = torch.rand(batch, y.shape[-1], inside, generator=generator, dtype=x.dtype) * 2 - 1
    with torch.enable_grad():
        weight = (first * bound).to(x.device).requires_grad_()
        optimizer = torch.optim.Adam([weight], lr=rate)
        for _ in range(steps):
            optimizer.zero_grad()
            # Rows share no parameters, so the sum trains each of them independently.
            plackett_luce(reward((weight @ x[..., None])[..., 0], y), rewards, ties=ties).sum().backward()
            optimizer.step()
    return (weight.detach() @ x[..., None])[..., 0]


def mean_answer(y: Float[Tensor, "batch answer dim"]) -> Float[Tensor, "batch dim"]:
    """The mean of the answers; rewards are ignored."""
    return y.mean(-2)


def best_answer(
    y: Float[Tensor, "batch answer dim"], rewards: Float[Tensor, "batch answer"]
) -> Float[Tensor, "batch dim"]:
    """The answer with the highest reward: best of n."""
    best = rewards.argmax(-1)
    return y.take_along_dim(best[:, None, None], -2)[..., 0, :]


def line_end(
    y: Float[Tensor, "batch answer dim"], rewards: Float[Tensor, "batch answer"], *, reward: float = 1.0
) -> Float[Tensor, "batch dim"]:
    r"""The least-squares line through answers as a function of their rewards, continued to a reward.

    $$\hat y = \bar y + (r^* - \bar r) \frac{\sum_i (r_i - \bar r)(y_i - \bar y)}{\sum_i (r_i - \bar r)^2}$$

    If answers lie on a line with the reward as coordinate, it is exact for two or more answers.

    **Arguments:**

    - `y`, `rewards`: the answers and their rewards; the mean where all rewards of a row are the same.
    - `reward`: $r^*$.
    """
    centre, middle = y.mean(-2), rewards.mean(-1)
    offset = rewards - middle[:, None]
    spread = offset.square().sum(-1)
    slope = (offset[..., None] * (y - centre[:, None])).sum(-2) / spread.clamp(min=torch.finfo(y.dtype).tiny)[:, None]
    return centre + (reward - middle)[:, None] * slope
