"""Skipping the sequences of a batch in which no prediction is needed."""

from jaxtyping import Float
from torch import Tensor

from ..typing import Selection, Times, Tokens
from .base import WrappedDenoiser


class ActiveOnly(WrappedDenoiser):
    """Evaluates only the sequences of a batch that have a selected row.

    Finished sequences are then not evaluated (with `EndToken`, `EarlyStopping`, or if no token may change). Do not use
    it with denoisers that store state for one batch, such as an attention mask for each sequence or a cache.

    **Arguments:**

    - `inner`: the denoiser to wrap.
    """

    def forward(self, z: Tokens, t: Times, rows: Selection | None = None) -> Float[Tensor, "... state"]:
        """The outputs of the inner denoiser."""
        if rows is None:
            return self.inner(z, t)
        live = rows.any(1)
        return self.inner(z, t, rows) if live.all() or not live.any() else self.inner(z[live], t[live], rows[live])
