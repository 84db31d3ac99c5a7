"""Random questions with answers and rewards: the synthetic data of in-context alignment."""

from abc import ABC, abstractmethod
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Generator, Tensor


@dataclass(frozen=True, eq=False)
class Ranked:
    """Questions, each with answers and their rewards.

    **Arguments:**

    - `x`: the questions.
    - `y`: the answers to each question.
    - `rewards`: the rewards of the answers, in [0, 1].
    - `best`: the answer whose reward is 1.
    """

    x: Float[Tensor, "batch dim"]
    y: Float[Tensor, "batch answer dim"]
    rewards: Float[Tensor, "batch answer"]
    best: Float[Tensor, "batch dim"]


class RankedAnswers(ABC):
    r"""A distribution of questions, answers and rewards.

    Questions are normal, $x \sim N(0, I)$; the best answer is $y^* = W^* x$ with a matrix of standard normal entries for each
    question; rewards are uniform in [0, 1). A subclass draws the answers for given rewards in `answers`.

    **Arguments:**

    - `dim`: dimension of questions and answers, at least 1.
    """

    def __init__(self, dim: int = 5) -> None:
        if dim < 1:
            raise ValueError(f"dim must be at least 1; got {dim}")
        self.dim = dim

    @abstractmethod
    def answers(
        self,
        x: Float[Tensor, "batch dim"],
        best: Float[Tensor, "batch dim"],
        rewards: Float[Tensor, "batch answer"],
        generator: Generator | None,
    ) -> Float[Tensor, "batch answer dim"]:
        """Draw answers that have these rewards."""

    def draw(self, batch: int, count: int, *, noise: float | int = 0.0, generator: Generator | None = None) -> Ranked:
        """Draw questions with answers.

        **Arguments:**

        - `batch`: number of questions.
        - `count`: number of answers to each question.
        - `noise`: the share of wrong rewards, in [0, 1]; they are redrawn after the answers are drawn.
        - `generator`: source of all randomness.

        **Raises:** `ValueError` for a `noise` outside [0, 1].
        """
        if not 0 <= noise <= 1:
            raise ValueError(f"noise must lie in [0, 1]; got {noise}")
        x = torch.randn(batch, self.dim, generator=generator)
        best = self._image(x, generator)
        # Drawn in float64, where no two rewards are the same.
        rewards = torch.rand(batch, count, dtype=torch.float64, generator=generator)
        y = self.answers(x, best, rewards.float(), generator)
        other = torch.rand(batch, count, dtype=torch.float64, generator=generator)
        wrong = torch.rand(batch, count, generator=generator) < noise
        return Ranked(x, y, torch.where(wrong, other, rewards), best)

    def _image(self, x: Tensor, generator: Generator | None) -> Tensor:
        """Each question times its own random matrix."""
        matrix = torch.randn(*x.shape, self.dim, generator=generator)
        return (x[:, None] @ matrix)[:, 0]


class AnswersOnALine(RankedAnswers):
    r"""The published data: answers between the best and one other, with the reward as coordinate.

    $$y_i = r_i y^* + (1 - r_i) e$$

    All answers to a question lie on one line, so two of them with exact rewards determine the best answer; a ranking is not
    needed.

    **Source:** the code released with Wang, Wang, Wang and others (2024), arXiv 2405.18634.
    """

    def answers(
        self,
        x: Float[Tensor, "batch dim"],
        best: Float[Tensor, "batch dim"],
        rewards: Float[Tensor, "batch answer"],
        generator: Generator | None,
    ) -> Float[Tensor, "batch answer dim"]:
        """Answers between the best one and the image of the question under another matrix."""
        other = self._image(x, generator)
        return rewards[..., None] * best[:, None] + (1 - rewards[..., None]) * other[:, None]


class ScatteredAnswers(RankedAnswers):
    r"""Answers scattered about a line; the higher the reward, the closer to the best answer.

    $$y_i = y^* + (1 - r_i) \bigl(e - y^* + \sigma \|x\| \varepsilon_i\bigr)$$

    The deviations $\varepsilon_i$ are independent normal vectors, so two answers do not determine the best one, and each
    further answer adds information. Without the common $e - y^*$ the mean of the answers would be an optimal estimate.

    **Arguments:**

    - `dim`: dimension of questions and answers, at least 1.
    - `spread`: $\sigma$, the relative deviation of answers with reward 0, at least 0; 0 gives answers on a line.
    """

    def __init__(self, dim: int = 5, spread: float | int = 1.0) -> None:
        super().__init__(dim)
        if not spread >= 0:
            raise ValueError(f"spread must not be negative; got {spread}")
        self.spread = float(spread)

    def answers(
        self,
        x: Float[Tensor, "batch dim"],
        best: Float[Tensor, "batch dim"],
        rewards: Float[Tensor, "batch answer"],
        generator: Generator | None,
    ) -> Float[Tensor, "batch answer dim"]:
        """Answers scattered about the line from the image of the question under another matrix to the best answer."""
        other = self._image(x, generator)[:, None]
        deviation = torch.randn(*rewards.shape, self.dim, generator=generator) * x.norm(dim=-1)[:, None, None]
        return best[:, None] + (1 - rewards[..., None]) * (other - best[:, None] + self.spread * deviation)
