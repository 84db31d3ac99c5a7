"""Skipping the sequences of a batch in which no prediction is needed."""

from jaxtyping import Float
from torch import Tensor

from ..typing import Selection, Times, Tokens
from .attention import selected_sequences
from .base import WrappedDenoiser


class ActiveOnly(WrappedDenoiser):
    """Evaluates only the sequences of a batch that have a selected row.

    Finished sequences are then not evaluated (with `EndToken`, `EarlyStopping`, or if no token may change). Do not use
    it with denoisers that store the state of one batch, such as a cache.

    **Arguments:**

    - `inner`: the denoiser to wrap.
    """

    def forward(self, z: Tokens, t: Times, rows: Selection | None = None) -> Float[Tensor, "... state"]:
        """The outputs of the inner denoiser."""
        if rows is None:
            return self.inner(z, t)
        live = rows.any(1)
        if live.all() or not live.any():
            return self.inner(z, t, rows)
        with selected_sequences(self.inner, live):
            return self.inner(z[live], t[live], rows[live])
