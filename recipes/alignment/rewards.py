"""Scores of answers given a prediction, used in the ranking losses."""

from typing import Protocol, runtime_checkable

from jaxtyping import Float
from torch import Tensor
from torch.nn.functional import cosine_similarity


@runtime_checkable
class Reward(Protocol):
    """The score of each answer given a prediction; higher is better."""

    def __call__(
        self, prediction: Float[Tensor, "*batch dim"], answers: Float[Tensor, "*batch answer dim"]
    ) -> Float[Tensor, "*batch answer"]:
        """One score per answer."""
        ...


def negative_squared_error(
    prediction: Float[Tensor, "*batch dim"], answers: Float[Tensor, "*batch answer dim"]
) -> Float[Tensor, "*batch answer"]:
    r"""The reward of the theory, $R(\hat y, y) = -\|\hat y - y\|^2$.

    **Arguments:**

    - `prediction`: $\hat y$, the prediction of the model, for example $W x$.
    - `answers`: the $y$ in the context.

    **Source:** Wang, Wang, Wang and others (2024), arXiv 2405.18634, section 3.
    """
    return -(prediction[..., None, :] - answers).square().sum(-1)


def cosine(
    prediction: Float[Tensor, "*batch dim"], answers: Float[Tensor, "*batch answer dim"]
) -> Float[Tensor, "*batch answer"]:
    r"""The reward of the published experiments, $R(\hat y, y) = \hat y^\top y / (\|\hat y\| \|y\|)$; 0 where a vector is 0.

    **Arguments:**

    - `prediction`: $\hat y$, the prediction of the model.
    - `answers`: the $y$ in the context.

    **Source:** the code released with Wang, Wang, Wang and others (2024), arXiv 2405.18634.
    """
    return cosine_similarity(prediction[..., None, :], answers, dim=-1)
