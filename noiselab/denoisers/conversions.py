"""Changes from one prediction to another: leave-one-out, posterior, score. Each wraps a denoiser."""

import torch
from jaxtyping import Float
from torch import Tensor

from ..parametrization import Prediction, to_leave_one_out, to_posterior, to_score
from ..process import NoiseProcess
from ..typing import PerRow, RowLogits, RowTokens, Selection, Times, Tokens
from .base import Denoiser, Transform, require_prediction

SCORE_END = 1e-4  # how near the end of time scores are asked for the clean token


class _Conversion(Transform):
    """Predicts what the subclass names, whatever the wrapped denoiser predicts."""

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
        """The outputs of the other prediction, or the same where nothing is to be converted."""
        # Unchecked: the check would be one wait for the GPU at each step.
        return _CONVERT[self.target](self.process, logits, z, t, predicts=self.inner.predicts, check=False)


_CONVERT = {"leave_one_out": to_leave_one_out, "posterior": to_posterior, "score": to_score}


class LeaveOneOut(_Conversion):
    """Predicts leave-one-out: takes the likelihood of the token's own noisy value out, or solves the scores for x_hat.

    Where no signal is left, scores are those of pure noise, whatever the data: they are asked for at times up to 1e-4
    before the end of the process's domain, and stand for those after it.

    **Arguments:**

    - `inner`: the denoiser to wrap.
    - `process`: the noise that made z; an impossible z is not looked for (`to_leave_one_out` does).
    """

    target = "leave_one_out"


class Posterior(_Conversion):
    """Predicts the posterior: puts the likelihood of the token's own noisy value in, if it was not.

    **Arguments:** as for `LeaveOneOut`.
    """

    target = "posterior"


class Score(_Conversion):
    """Predicts log-scores, for every token and masks too: 0 at the token that is there.

    **Arguments:** as for `LeaveOneOut`.
    """

    target = "score"


def as_leave_one_out(denoiser: Denoiser, process: NoiseProcess) -> Denoiser:
    """The denoiser itself if it predicts leave-one-out, else converted.

    **Raises:** `ValueError` if it is no `Denoiser`, does not say what it predicts (`Denoiser.predicts`), or predicts scores
    for state-dependent noise (`to_leave_one_out`).
    """
    if not isinstance(denoiser, Denoiser):
        raise ValueError(f"a denoiser must be a noiselab.Denoiser; got {type(denoiser).__name__}")
    prediction = require_prediction(denoiser.predicts)
    if prediction == "leave_one_out":
        return denoiser
    if prediction == "score":
        # Tried on one token: what cannot be solved is refused now, not at the first step.
        row = torch.zeros(1, process.vocab_size, dtype=torch.float64, device=process.device)
        process.solve_score(row, row[:, 0].long(), row[:, 0] + sum(process.domain) / 2)
    return LeaveOneOut(denoiser, process)
