"""Sequences that need no answer are not evaluated."""

from jaxtyping import Float
from torch import Tensor

from ..typing import Selection, Times, Tokens
from .base import Denoiser, in_a_line


class ActiveOnly(Denoiser):
    """Evaluates those sequences of a batch only of which a row is asked for.

    Sequences that are finished, by `EndToken` or `EarlyStopping` or by chance, then cost nothing. Not for denoisers that
    belong to a certain batch, such as one with an attention mask for each sequence, or a cache, which would start anew each
    time.

    **Arguments:**

    - `inner`: the denoiser to wrap.
    """

    def __init__(self, inner: Denoiser):
        super().__init__()
        self.inner, self.predicts = inner, inner.predicts

    def forward(self, z: Tokens, t: Times, rows: Selection | None = None) -> Float[Tensor, "... state"]:
        """What the inner denoiser answers."""
        if rows is None:
            return self.inner(z, t)
        live = rows.any(1)
        return self.inner(z, t, rows) if live.all() or not live.any() else self.inner(z[live], t[live], rows[live])

    def __repr__(self) -> str:
        return f"AskedOnly({in_a_line(self.inner)})"
