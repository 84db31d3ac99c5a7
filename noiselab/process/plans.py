"""Plans: the part of a reverse step that is drawn before the network is evaluated."""

import abc
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, TypeAlias

from ..categorical import choose, replace_tokens
from ..typing import PerToken, RowLogits, Selection, Times, Tokens, TokenTimes

if TYPE_CHECKING:
    from .base import NoiseProcess

Predict: TypeAlias = Callable[[Tokens, Times, Selection], RowLogits]
"""A function that returns leave-one-out logits at selected positions, such as a denoiser."""


@dataclass(frozen=True, eq=False)
class ReversePlan(abc.ABC):
    """The part of a reverse step that does not need the network.

    **Arguments:**

    - `z`: the tokens after the step, as far as they are determined.
    - `rows`: the mask of positions that need the leave-one-out prediction.
    """

    z: Tokens
    rows: Selection

    @abc.abstractmethod
    def resolve(self, logits: RowLogits) -> Tokens:
        """The tokens after the step, from the leave-one-out logits of `rows` in row-major order."""

    def apply(self, denoiser: Predict, z: Tokens, t: Times) -> Tokens:
        """The tokens after the step; the network is evaluated only at `rows`, and not at all if there are none.

        **Arguments:**

        - `denoiser`: predicts leave-one-out.
        - `z`, `t`: the tokens before the step, and their times.
        """
        return self.resolve(denoiser(z, t, self.rows)) if self.rows.any() else self.z


@dataclass(frozen=True, eq=False)
class DensePlan(ReversePlan):
    """The reverse transition of any process, drawn from its dense posterior; only tokens known to be clean need no
    network.
    """

    process: "NoiseProcess"
    s: TokenTimes
    t: TokenTimes
    u: PerToken

    def resolve(self, logits: RowLogits) -> Tokens:
        """The tokens after the step, with one uniform number each."""
        rows, process = self.rows, self.process
        x_hat = process.on_support(logits).double().softmax(-1)[:, None]
        law = process.posterior(self.z[rows][:, None], x_hat, self.s[rows][:, None], self.t[rows][:, None])[:, 0]
        return replace_tokens(self.z, rows, choose(law, self.u[rows]))
