"""Conversions between prediction types: leave-one-out, posterior, score. Each wraps a denoiser."""

import torch
from jaxtyping import Float
from torch import Tensor

from ..parametrization import Prediction, to_leave_one_out, to_posterior, to_score
from ..process import NoiseProcess
from ..typing import PerRow, RowLogits, RowTokens, Selection, Times, Tokens
from .base import Denoiser, Transform, in_a_line, require_prediction

SCORE_END = 1e-4  # margin from the end of time at which scores are still evaluated


class _Conversion(Transform):
    """Converts any prediction type to that of the subclass."""

    target: Prediction
    accepts_scores = True

    def __init__(self, inner: Denoiser, process: NoiseProcess):
        super().__init__(inner)
        self.process, self.predicts = process, self.target

    def forward(self, z: Tokens, t: Times, rows: Selection | None = None) -> Float[Tensor, "... state"]:
        """The inner denoiser's outputs, converted."""
        if self.inner.predicts == "score" and self.target != "score":
            t = t.clamp(max=self.process.domain[1] - SCORE_END)
        return super().forward(z, t, rows)

    def edit(self, logits: RowLogits, z: RowTokens, t: PerRow) -> RowLogits:
        """The converted outputs, or the same outputs if no conversion is needed."""
        if logits.shape[-1] != self.process.vocab_size:
            states, came = self.process.vocab_size, f"{logits.shape[-1]} from {in_a_line(self.inner)}"
            raise ValueError(f"logits must have the width of the process, {states}; got {came}")
        # Unchecked, because the check would synchronize with the GPU at each step.
        return _CONVERT[self.target](self.process, logits, z, t, predicts=self.inner.predicts, check=False)


_CONVERT = {"leave_one_out": to_leave_one_out, "posterior": to_posterior, "score": to_score}


class LeaveOneOut(_Conversion):
    """Converts to leave-one-out: removes the likelihood of the token's own noisy value, or solves the scores for x_hat.

    If no signal is left, scores do not depend on the data. They are therefore evaluated at times at least 1e-4 before
    the end of the process's domain, also for later times.

    **Arguments:**

    - `inner`: the denoiser to wrap.
    - `process`: the process that generated z; an impossible z is not detected (`to_leave_one_out` does).
    """

    target = "leave_one_out"


class Posterior(_Conversion):
    """Converts to the posterior: adds the likelihood of the token's own noisy value.

    **Arguments:** as for `LeaveOneOut`.
    """

    target = "posterior"


class Score(_Conversion):
    """Converts to log-scores for every token, including masks; 0 at the current token.

    **Arguments:** as for `LeaveOneOut`.
    """

    target = "score"


def as_leave_one_out(denoiser: Denoiser, process: NoiseProcess) -> Denoiser:
    """Return the denoiser itself if it predicts leave-one-out, otherwise a conversion.

    **Raises:** `ValueError` if it is not a `Denoiser`, does not declare its prediction type (`Denoiser.predicts`), or
    predicts scores for state-dependent corruption (`to_leave_one_out`).
    """
    if not isinstance(denoiser, Denoiser):
        raise ValueError(f"a denoiser must be a noiselab.Denoiser; got {type(denoiser).__name__}")
    prediction = require_prediction(denoiser.predicts)
    if prediction == "leave_one_out":
        return denoiser
    if prediction == "score":
        # Tried on one token, so that unsupported conversions fail here and not at the first step.
        row = torch.zeros(1, process.vocab_size, dtype=torch.float64, device=process.device)
        process.solve_score(row, row[:, 0].long(), row[:, 0] + sum(process.domain) / 2)
    return LeaveOneOut(denoiser, process)


def as_posterior(denoiser: Denoiser, process: NoiseProcess) -> Denoiser:
    """Return the denoiser itself if it predicts the posterior, otherwise a conversion.

    **Raises:** `ValueError` as `as_leave_one_out`.
    """
    if isinstance(denoiser, Denoiser) and denoiser.predicts == "posterior":
        return denoiser
    return Posterior(as_leave_one_out(denoiser, process), process)
