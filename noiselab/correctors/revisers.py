"""Revisers of finished sequences by a diffusion model."""

from collections.abc import Sequence

import torch
from torch import nn

from ..categorical import Randomness
from ..denoisers import Denoiser
from ..denoisers.base import in_a_line
from ..denoisers.modes import counting_sequences, device_of, evaluating
from ..denoisers.quality import QualityDenoiser
from ..numerics import require_count, require_number, require_token_set, require_tokens
from ..revisions import Revised, Reviser, require_free_end
from ..samplers import Infilling, Sampler
from ..typing import Selection, Tokens, TokenSet
from .base import Corrector
from .detection import log_predict
from .self_correction import SelfCorrection


class SelfCorrectionReviser(Reviser):
    """Corrects finished sequences by GIDD's self-correction.

    **Arguments:**

    - `correction`: the `SelfCorrection` to apply, with its denoiser and settings. For a `DiffusionPipeline` named
      `pipe` it is `SelfCorrection(pipe.denoiser, process=pipe.process, support=pipe.support)`.
    - `steps`: the largest number of steps; each is one evaluation of every sequence that has not stopped.
    - `batch_size`: sequences at once.

    **Raises:** `ValueError` unless `steps` and `batch_size` are positive.

    **Example:**

    ```python
    import torch
    import noiselab as nl

    process = nl.gidd(vocab_size=3, mask_id=2, p_uniform=0.2)
    oracle = nl.MarkovOracle(torch.tensor([0.5, 0.5]), torch.tensor([[0.99, 0.01], [0.01, 0.99]]), process)
    reviser = nl.correctors.SelfCorrectionReviser(nl.SelfCorrection(oracle, process=process))
    revised = reviser(torch.tensor([[0, 0, 1, 0, 0]]), generator=torch.Generator().manual_seed(0))
    assert revised.tokens.tolist() == [[0, 0, 0, 0, 0]] and revised.evaluations == 2
    ```
    """

    kind = "self-correct"

    def __init__(self, correction: SelfCorrection, *, steps: int = 128, batch_size: int = 32) -> None:
        require_count("steps", steps)
        require_count("batch_size", batch_size)
        self.correction, self.steps, self.batch_size = correction, steps, batch_size

    def revise(self, z: Tokens, *, rows: Selection | None = None, generator: Randomness = None) -> Revised:
        """The sequences after at most `steps` steps."""
        denoiser, parts = self.correction.denoiser, []
        device = device_of(denoiser)
        with evaluating(denoiser), counting_sequences(denoiser) as count:
            for first in range(0, len(z), self.batch_size):
                some = slice(first, first + self.batch_size)
                part = self.correction.correct(
                    z[some].to(device),
                    steps=self.steps,
                    rows=None if rows is None else rows[some].to(device),
                    generator=generator[some] if isinstance(generator, Sequence) else generator,
                )
                parts.append(part.to(z.device))
        return Revised(torch.cat(parts) if parts else z, count.sequences)

    def __repr__(self) -> str:
        return f"SelfCorrectionReviser({self.correction}, steps={self.steps})"


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


class CorrectorReviser(Reviser):
    """Corrects finished sequences by a corrector at one small time, several times.

    **Arguments:**

    - `corrector`: for example a `SuspectCorrector` or a `DraftCorrector`.
    - `time`: the time that it is given, in [0, 1].
    - `steps`: the number of its steps, at least 1; it ends early when nothing changes in any sequence, if `settles`.
    - `settles`: whether a step that changes nothing ends the revision; false for correctors that draw.

    **Raises:** `ValueError` for another thing than a corrector, or a setting out of range.

    **Example:**

    ```python
    import torch
    import noiselab as nl
    from noiselab.correctors import CorrectorReviser, DraftCorrector

    process = nl.gidd(vocab_size=3, mask_id=2, p_uniform=0.2)
    oracle = nl.MarkovOracle(torch.tensor([0.5, 0.5]), torch.tensor([[0.99, 0.01], [0.01, 0.99]]), process)
    revised = CorrectorReviser(DraftCorrector(process, oracle))(torch.tensor([[0, 0, 1, 0, 0]]))
    assert revised.tokens.tolist() == [[0, 0, 0, 0, 0]] and revised.evaluations == 2
    ```
    """

    def __init__(self, corrector: Corrector, *, time: float | int = 0.01, steps: int = 8, settles: bool = True) -> None:
        if not isinstance(corrector, Corrector):
            raise ValueError(f"corrector must be a noiselab.Corrector; got {type(corrector).__name__}")
        self.corrector, self.kind = corrector, corrector.kind
        self.time, self.steps = require_number("time", time, 0, 1), require_count("steps", steps)
        self.settles = settles

    def revise(self, z: Tokens, *, rows: Selection | None = None, generator: Randomness = None) -> Revised:
        """The sequences after at most `steps` steps."""
        denoiser = self.corrector.denoiser
        device = device_of(denoiser)
        before, t = z.to(device), torch.full((len(z),), self.time, dtype=torch.float64, device=device)
        rows = None if rows is None else rows.to(device)
        with evaluating(denoiser), counting_sequences(*networks_of(self.corrector)) as count:
            for _ in range(self.steps):
                after = self.corrector.step(before, t, rows=rows, generator=generator)
                settled, before = torch.equal(before, after), after
                if settled and self.settles:
                    break
        return Revised(before.to(z.device), count.sequences)

    def __repr__(self) -> str:
        return f"CorrectorReviser({self.corrector}, time={self.time:g}, steps={self.steps})"


def networks_of(corrector: Corrector) -> list[nn.Module]:
    """The modules whose calls are evaluations: the denoiser, and what a detector of the corrector calls."""
    own = getattr(getattr(corrector, "detector", None), "denoiser", None)
    heads = [own.head] if isinstance(own, QualityDenoiser) else [own] if isinstance(own, nn.Module) else []
    return [corrector.denoiser, *heads]


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
