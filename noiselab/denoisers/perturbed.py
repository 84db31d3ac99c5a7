"""A denoiser with a known error, for studying how samplers respond to errors of a network, without a network."""

import torch
from jaxtyping import Float
from torch import Generator, Tensor

from ..numerics import require_count, require_number
from ..typing import Selection, Times, Tokens
from .base import Denoiser, WrappedDenoiser


class Perturbed(WrappedDenoiser):
    r"""Adds an error of known size to the logits; as with a network, the same input always has the same error.

    $$\tilde\ell_i(v) = \ell_i(v) + \text{scale} \cdot g_i(v), \qquad
    g_i(v) = \frac{1}{\sqrt{2w}} \sum_{d \in \{\pm 1, \dots, \pm w\}} A_d[z_{i+d}, v]$$

    The tables $A_d$ are drawn once, independent standard normal numbers, so that $g$ has mean 0 and variance 1 over
    these draws. Positions beyond the ends of a sequence use an additional row of the table. The error depends on
    neighbouring noisy tokens but not on the token's own value or on time, so that a leave-one-out prediction remains
    one. For small scales the divergence $\mathrm{KL}(\hat x \,\|\, \tilde x)$ is scale² / 2 times the variance of $g$
    under x_hat. Logits of -inf are unchanged.

    **Arguments:**

    - `inner`: the denoiser to wrap, which predicts logits; usually an exact one.
    - `scale`: the standard deviation of the error, in nats of log-odds.
    - `vocab_size`: the number of tokens, including noise tokens.
    - `width`: w, the number of neighbours on each side that the error depends on.
    - `generator`: the randomness of the tables.

    **Raises:** `ValueError` for a negative scale, a width below 1, or a denoiser that predicts scores, which are ratios.

    **Example:**

    ```python
    import torch
    import noiselab as nl

    process = nl.gidd(vocab_size=3, mask_id=2, p_uniform=0.2)
    oracle = nl.MarkovOracle(torch.tensor([0.5, 0.5]), torch.tensor([[0.9, 0.1], [0.2, 0.8]]), process)
    wrong = nl.denoisers.Perturbed(oracle, 0.5, vocab_size=3, generator=torch.Generator().manual_seed(0))
    z, t = torch.tensor([[0, 2, 1, 1]]), torch.tensor([0.4])
    assert torch.equal(wrong(z, t), wrong(z, t)) and not torch.allclose(wrong(z, t)[..., :2], oracle(z, t)[..., :2])
    ```
    """

    accepts_scores = False
    tables: Tensor

    def __init__(
        self,
        inner: Denoiser,
        scale: float | int,
        *,
        vocab_size: int,
        width: int = 1,
        generator: Generator | None = None,
    ):
        super().__init__(inner)
        self.scale, self.width = require_number("scale", scale, 0), require_count("width", width)
        require_count("vocab_size", vocab_size)
        shape = (2 * width, vocab_size + 1, vocab_size)
        self.register_buffer("tables", torch.randn(shape, generator=generator, dtype=torch.float64))

    def forward(self, z: Tokens, t: Times, rows: Selection | None = None) -> Float[Tensor, "... state"]:
        """The inner denoiser's logits with the error."""
        logits = self.inner(z, t, rows)
        return logits + self.scale * self.error(z, rows).to(logits.dtype)

    def error(self, z: Tokens, rows: Selection | None = None) -> Float[Tensor, "... state"]:
        """The error g, before it is scaled.

        **Arguments:** as for a call.
        """
        length, nobody = z.shape[1], self.tables.shape[1] - 1
        around = torch.nn.functional.pad(z, (self.width, self.width), value=nobody)
        starts = [i for i in range(2 * self.width + 1) if i != self.width]  # excludes the token itself
        beside = [around[:, i : i + length] for i in starts]
        parts = [table[v if rows is None else v[rows]] for table, v in zip(self.tables, beside, strict=True)]
        return torch.stack(parts).sum(0) / len(parts) ** 0.5

    def extra_repr(self) -> str:
        """The settings, for `repr`."""
        return f"{self.scale:g}"
