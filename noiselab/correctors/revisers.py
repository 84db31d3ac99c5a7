"""Revisers of finished sequences by the predictions of a diffusion model: its best guesses, and a new end."""

import torch

from ..categorical import Randomness
from ..denoisers import Denoiser
from ..denoisers.base import in_a_line
from ..denoisers.modes import counting_sequences, evaluating
from ..numerics import require_count, require_number, require_token_set, require_tokens
from ..revisions import Revised, Reviser, require_free_end
from ..samplers import Infilling, Sampler
from ..typing import Selection, Tokens, TokenSet
from .detection import log_predict
from .self_correction import SelfCorrection


class BestGuessReviser(Reviser):
    """Replaces all tokens that are too improbable under a denoiser by its most probable tokens, in one evaluation.

    The counterpart of `SurpriseProofreader` for diffusion models: detection by `DenoiserDetector`, with a threshold that
    `threshold_at` chooses for a share of false alarms. It evaluates each sequence once.

    **Arguments:**

    - `denoiser`: used in evaluation mode.
    - `threshold`: in nats; tokens with a larger score are replaced, none at infinity.
    - `time`: the time that the denoiser is given, in [0, 1].
    - `support`: tokens that may be guessed; all by default.

    **Raises:** `ValueError` for a threshold that is NaN, or a time out of range.
    """

    kind = "best guess"

    def __init__(
        self,
        denoiser: Denoiser,
        *,
        threshold: float | int,
        time: float | int = 0.01,
        support: TokenSet | None = None,
    ) -> None:
        require_number("threshold", threshold, infinite=True)
        if support is not None:
            require_token_set("support", support)
        self.denoiser, self.threshold, self.support = denoiser, threshold, support
        self.time = require_number("time", time, 0, 1)

    def revise(self, z: Tokens, *, rows: Selection | None = None, generator: Randomness = None) -> Revised:
        """The sequences after the replacement; `generator` is not used."""
        require_tokens("tokens", z)
        with evaluating(self.denoiser):
            log_probs = log_predict(self.denoiser, z, self.time)
        require_tokens("tokens", z, log_probs.shape[-1])
        given = z.to(log_probs.device)
        replaced = -log_probs.gather(-1, given[..., None])[..., 0] > self.threshold
        if rows is not None:
            replaced = replaced & rows.to(replaced.device)
        if self.support is not None:
            log_probs = log_probs.masked_fill(~self.support.to(log_probs.device), -torch.inf)
        return Revised(torch.where(replaced, log_probs.argmax(-1), given).to(z.device), len(z))

    def __repr__(self) -> str:
        return f"BestGuessReviser({in_a_line(self.denoiser)}, threshold={self.threshold:g}, time={self.time:g})"


class InfillingReviser(Reviser):
    """Keeps the beginning of each sequence, samples the rest again by infilling, then runs self-correction.

    **Arguments:**

    - `sampler`: the sampler that fills in the rest, for example an `AncestralSampler`.
    - `given`: the number of leading tokens that are kept; those after them are replaced, whatever they were.
    - `steps`: the number of steps of the sampler.
    - `correction`: the self-correction of the filled sequences; it may change all tokens in `rows`, the given ones
      included. None by default.
    - `corrections`: the largest number of steps of `correction`.

    **Raises:** `ValueError` unless `given` is not negative, `steps` and `corrections` positive; when called, for `rows` that
    leave out a token to be written.
    """

    kind = "infill"

    def __init__(
        self,
        sampler: Sampler,
        *,
        given: int,
        steps: int,
        correction: SelfCorrection | None = None,
        corrections: int = 128,
    ) -> None:
        require_count("given", given, 0)
        require_count("steps", steps)
        require_count("corrections", corrections)
        self.sampler, self.given, self.steps = sampler, given, steps
        self.correction, self.corrections = correction, corrections

    def revise(self, z: Tokens, *, rows: Selection | None = None, generator: Randomness = None) -> Revised:
        """The sequences with a new end."""
        rows = require_free_end(rows, z, self.given)
        device = self.sampler.device
        known = (torch.arange(z.shape[1], device=device) < self.given).expand(z.shape)
        tokens = torch.where(known, z.to(device), 0)
        denoisers = [self.sampler.denoiser] + ([] if self.correction is None else [self.correction.denoiser])
        with counting_sequences(*denoisers) as count:
            x = Infilling(self.sampler, tokens, known, times="sequence").sample(
                (len(z), z.shape[1]), steps=self.steps, generator=generator
            )
            if self.correction is not None:
                x = self.correction.correct(x, steps=self.corrections, rows=rows.to(device), generator=generator)
        return Revised(x.to(z), count.sequences)

    def __repr__(self) -> str:
        return f"InfillingReviser({self.sampler}, given={self.given}, steps={self.steps}, correction={self.correction})"
