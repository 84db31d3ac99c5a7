"""A network that guesses clean tokens, and denoisers that wrap denoisers."""

import abc
import inspect
from typing import Any

from jaxtyping import Float
from torch import Tensor, nn

from ..parametrization import Prediction
from ..process import as_token_times
from ..typing import Logits, PerRow, RowLogits, RowTokens, Selection, Times, Tokens


class Denoiser(nn.Module, abc.ABC):
    """Guesses clean tokens from noisy ones.

    A subclass writes `forward(z, t)` and says what it predicts: `predicts = "leave_one_out"` (what the ELBO trains; the
    default), `"posterior"` (what cross-entropy on noisy tokens trains) or `"score"` (log-scores, what score entropy
    trains). Samplers and evaluations convert. Calling a denoiser with `rows` gives the logits of selected tokens only; a
    `forward` that takes `rows` itself can save the work of the others.

    **Example:**

    ```python
    import torch
    import noiselab as nl

    class Frequencies(nl.Denoiser):
        def __init__(self, probs):
            super().__init__()
            self.register_buffer("logits", probs.log())

        def forward(self, z, t):
            return self.logits.expand(*z.shape, -1)

    denoiser, z = Frequencies(torch.tensor([0.9, 0.1])), torch.zeros(2, 5, dtype=torch.long)
    assert denoiser(z, torch.ones(2)).shape == (2, 5, 2)
    assert denoiser(z, torch.ones(2), rows=torch.arange(10).view(2, 5) < 3).shape == (3, 2)
    ```
    """

    predicts: Prediction = "leave_one_out"
    _takes_rows = False

    def __init_subclass__(cls, **kwargs: Any):
        super().__init_subclass__(**kwargs)
        cls._takes_rows = "rows" in inspect.signature(cls.forward).parameters

    def __call__(self, z: Tokens, t: Times, rows: Selection | None = None) -> Float[Tensor, "... state"]:
        """Logits of all tokens, or of the selected rows. Times may also come lifted, [batch, 1]."""
        if t.shape == (len(z), 1) and z.shape[1] > 1:
            t = t[:, 0]  # `forward` is promised one for each sequence or one for each token
        if rows is None:
            return super().__call__(z, t)
        return super().__call__(z, t, rows) if self._takes_rows else select(super().__call__(z, t), rows)

    @abc.abstractmethod
    def forward(self, z: Tokens, t: Times, rows: Selection | None = None) -> Float[Tensor, "... state"]:
        """Logits of the clean tokens.

        **Arguments:**

        - `z`: noisy tokens.
        - `t`: their time, [batch] or [batch, length].
        - `rows`: the tokens whose logits are wanted; all by default.

        **Returns:** [batch, length, state]; with `rows`, [n, state] for the selected tokens in row-major order.
        """


def select(logits: Logits, rows: Tensor | None) -> Float[Tensor, "... state"]:
    """The logits of the selected tokens, for denoisers that cannot save the work of the others."""
    return logits if rows is None else logits[rows]


class ProjectedDenoiser(Denoiser):
    """A denoiser whose hidden states and output projection can be had apart.

    A subclass writes `hidden` and `project`. Only the selected rows are projected, and a loss can be fused with the
    projection (`noiselab.nelbo_fused`).
    """

    @abc.abstractmethod
    def hidden(self, z: Tokens, t: Times) -> Float[Tensor, "batch length width"]:
        """The last hidden states, ready for the projection."""

    @abc.abstractmethod
    def project(self, hidden: Float[Tensor, "*rows width"]) -> Float[Tensor, "*rows state"]:
        """Logits from hidden states, row by row."""

    def forward(self, z: Tokens, t: Times, rows: Selection | None = None) -> Float[Tensor, "... state"]:
        """Logits of the selected rows, projecting no others."""
        return self.project(select(self.hidden(z, t), rows))


class Transform(Denoiser):
    """A denoiser around a denoiser: changes the prediction x_hat, never the reverse step.

    A subclass writes `edit`; selected rows and what is predicted carry over. One whose `edit` is made for log-scores too
    sets `edits_scores = True`.

    **Arguments:**

    - `inner`: the denoiser to wrap.

    **Raises:** `ValueError` if it predicts scores, which are no logits of clean tokens, and `edit` is not made for them.
    """

    edits_scores = False

    def __init__(self, inner: Denoiser):
        super().__init__()
        if inner.predicts == "score" and not self.edits_scores:
            raise ValueError(
                f"{type(self).__name__} changes logits of clean tokens; got a denoiser that predicts scores: wrap it in "
                "noiselab.LeaveOneOut first"
            )
        self.inner, self.predicts = inner, inner.predicts

    @abc.abstractmethod
    def edit(self, logits: RowLogits, z: RowTokens, t: PerRow) -> RowLogits:
        """New logits for each token, from its logits, its noisy value and its time (float64)."""

    def forward(self, z: Tokens, t: Times, rows: Selection | None = None) -> Float[Tensor, "... state"]:
        """The inner denoiser's logits, edited."""
        logits, times = self.inner(z, t, rows), as_token_times(t, z).expand(z.shape)
        if rows is not None:
            return self.edit(logits, z[rows], times[rows])
        return self.edit(logits.flatten(0, 1), z.flatten(), times.flatten()).view_as(logits)

    def __repr__(self) -> str:
        more = self.extra_repr()
        return f"{type(self).__name__}({in_a_line(self.inner)}{', ' if more else ''}{more})"


def in_a_line(denoiser: nn.Module) -> str:
    """A denoiser in one line, or its number of parameters where it would print as a tree."""
    text, count = repr(denoiser), sum(p.numel() for p in denoiser.parameters())
    return text if "\n" not in text else f"{type(denoiser).__name__}({count:,} parameters)"
