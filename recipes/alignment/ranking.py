r"""Losses of scores given a ranking of answers: Bradley-Terry and Plackett-Luce.

A ranking is drawn by choosing the best answer, then the best of those left, and so on, each with a probability proportional to
the exponential of its score $s$. With $\tau$ the order of falling rewards,

$$P(\tau) = \prod_{i = 1}^{N - 1} \frac{\exp s_{\tau(i)}}{\sum_{j \ge i} \exp s_{\tau(j)}} .$$
"""

from typing import Literal

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from noiselab.typing import Elementwise

from .rewards import negative_squared_error

Ties = Literal["refuse", "in order"]
"""How tied rewards are handled: an error, or the earlier answer counts as better."""


def bradley_terry(better: Elementwise, worse: Elementwise) -> Elementwise:
    r"""The Bradley-Terry loss of two answers, one of which was preferred, $-\log \sigma(s_w - s_l)$.

    **Arguments:**

    - `better`, `worse`: the scores $s_w$ and $s_l$.

    **Source:** Bradley and Terry (1952).

    **Example:**

    ```python
    import torch
    from alignment import bradley_terry

    assert bradley_terry(torch.zeros(1), torch.zeros(1)).allclose(torch.tensor(2.0).log())
    ```
    """
    return torch.nn.functional.softplus(worse - better)


def plackett_luce(
    scores: Float[Tensor, "*batch answer"],
    rewards: Float[Tensor, "*batch answer"],
    *,
    real: Bool[Tensor, "*batch answer"] | None = None,
    ties: Ties = "refuse",
) -> Elementwise:
    r"""The Plackett-Luce loss of the ranking by rewards.

    $$-\log P(\tau) = \sum_i \Bigl(\log \sum_{j \ge i} \exp s_{\tau(j)} - s_{\tau(i)}\Bigr)$$

    All ranks of all rows are computed at once, by one sort and one cumulative sum in log space.

    **Arguments:**

    - `scores`: the score of each answer.
    - `rewards`: answers are ranked by these, the highest first.
    - `real`: which entries are answers; all by default. The loss of a row with fewer than two answers is 0.
    - `ties`: "refuse", or "in order": among answers with equal rewards the earlier one is better.

    **Returns:** the sum over the ranks of each row.

    **Raises:** `ValueError` if a reward is NaN, or if two rewards of a row are equal and `ties` is "refuse".

    **Source:** Plackett (1975); Luce (1959).

    **Example:**

    ```python
    import torch
    from alignment import plackett_luce

    scores, rewards = torch.zeros(1, 3), torch.tensor([[0.2, 0.9, 0.5]])
    assert plackett_luce(scores, rewards).exp().allclose(torch.tensor(6.0))  # one of 3! rankings
    ```
    """
    order, there = _sort_by_reward(rewards, real, ties)
    ranked = scores.gather(-1, order)
    # A missing answer gets a score so low that it contributes nothing.
    low = ranked.masked_fill(~there, torch.finfo(ranked.dtype).min / 4)
    left = low.flip(-1).logcumsumexp(-1).flip(-1)
    return torch.where(there, left - ranked, 0).sum(-1)


def plackett_luce_pull(
    scores: Float[Tensor, "*batch answer"],
    rewards: Float[Tensor, "*batch answer"],
    *,
    real: Bool[Tensor, "*batch answer"] | None = None,
    ties: Ties = "refuse",
) -> Float[Tensor, "*batch answer"]:
    r"""The gradient of the log-probability of a ranking with respect to the scores, in closed form.

    $$\frac{\partial \log P(\tau)}{\partial s_{\tau(k)}} = 1 - \sum_{i \le k} b_{ik}, \qquad
    b_{ik} = \frac{\exp s_{\tau(k)}}{\sum_{j \ge i} \exp s_{\tau(j)}} .$$

    Multiplied by the gradient of each score with respect to the parameters, it gives the full gradient.

    **Arguments:**

    - `scores`, `rewards`, `real`, `ties`: as for `plackett_luce`.

    **Returns:** one value per answer; the values of a row sum to 0.

    **Raises:** `ValueError` as `plackett_luce` does.
    """
    order, there = _sort_by_reward(rewards, real, ties)
    ranked = scores.gather(-1, order)
    low = ranked.masked_fill(~there, torch.finfo(ranked.dtype).min / 4)
    left = low.flip(-1).logcumsumexp(-1).flip(-1)
    # The sum over i <= k of exp(s_k - left_i) is exp(s_k) times a sum of exp(-left_i), again in log space.
    over = (-left).masked_fill(~there, torch.finfo(ranked.dtype).min / 4).logcumsumexp(-1)
    pull = torch.where(there, 1 - (low + over).exp(), 0)
    return torch.zeros_like(scores).scatter(-1, order, pull)


def plackett_luce_gradient(
    weight: Float[Tensor, "*batch dim inside"],
    x: Float[Tensor, "*batch inside"],
    y: Float[Tensor, "*batch answer dim"],
    rewards: Float[Tensor, "*batch answer"],
    *,
    ties: Ties = "refuse",
) -> Float[Tensor, "*batch dim inside"]:
    r"""The gradient of the Plackett-Luce loss of a linear model with the reward $-\|W x - y\|^2$, in closed form.

    $$-\frac{\partial L}{\partial W} = 2 \sum_i \Bigl(y_{\tau(i)} - \sum_{j \ge i} b_{ij} y_{\tau(j)}\Bigr) x^\top,
    \qquad b_{ij} = \mathop{\mathrm{softmax}}_{j \ge i} \bigl(-\|W x - y_{\tau(j)}\|^2\bigr) :$$

    the best remaining answer minus the average of the remaining answers under the model. The terms in $W x$ cancel.

    **Arguments:**

    - `weight`: $W$.
    - `x`: the question; `y`: the answers; `rewards`: theirs.
    - `ties`: as for `plackett_luce`.

    **Returns:** $\partial L / \partial W$.

    **Raises:** `ValueError` as `plackett_luce` does.

    **Source:** Wang, Wang, Wang and others (2024), arXiv 2405.18634, section 3.
    """
    prediction = (weight @ x[..., None])[..., 0]
    pull = plackett_luce_pull(negative_squared_error(prediction, y), rewards, ties=ties)
    return -2 * (pull[..., None] * y).sum(-2)[..., None] * x[..., None, :]


def _sort_by_reward(rewards: Tensor, real: Tensor | None, ties: Ties) -> tuple[Tensor, Tensor]:
    """The order of answers by decreasing reward, and which entries are answers in that order."""
    if ties not in ("refuse", "in order"):
        raise ValueError(f"ties must be 'refuse' or 'in order'; got {ties!r}")
    there = torch.ones_like(rewards, dtype=torch.bool) if real is None else real
    if (rewards.isnan() & there).any():
        where = (rewards.isnan() & there).nonzero()[0].tolist()
        raise ValueError(f"rewards must be numbers; got NaN at {where}")
    order = rewards.masked_fill(~there, -torch.inf).argsort(dim=-1, descending=True, stable=True)
    there, ranked = there.gather(-1, order), rewards.gather(-1, order)
    same = (ranked[..., 1:] == ranked[..., :-1]) & there[..., 1:] & there[..., :-1]
    if ties == "refuse" and same.any():
        *row, rank = same.nonzero()[0].tolist()
        place = f" in row {row}" if row else ""
        raise ValueError(
            f"the rewards of a row must differ, unless ties='in order'; got {ranked[*row, rank].item():g} twice{place}"
        )
    return order, there
