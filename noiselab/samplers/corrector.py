"""What revises tokens without moving in time."""

import abc

from jaxtyping import Bool, Float, Int
from torch import Tensor

from ..categorical import Randomness


class Corrector(abc.ABC):
    """Draws tokens anew at their own time: one that is exact leaves the law of noisy sequences at t as it is.

    A subclass writes `step`. `PredictorCorrector` puts it between the steps of any sampler.
    """

    kind = "correct"
    """What a trace calls the changes of this corrector."""
    converges = False
    """Whether it claims to leave the law at its time unchanged, given the exact denoiser."""

    @abc.abstractmethod
    def step(
        self,
        z: Int[Tensor, "batch length"],
        t: Float[Tensor, "..."],
        *,
        rows: Bool[Tensor, "batch length"] | None = None,
        generator: Randomness = None,
    ) -> Int[Tensor, "batch length"]:
        """Tokens at the same times t.

        **Arguments:**

        - `z`: tokens at t.
        - `t`: their times, [batch] or [batch, length].
        - `rows`: the tokens that may change; all by default.
        """
