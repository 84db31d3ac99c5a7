"""Correctors and samplers as revisers of finished sequences."""

import itertools
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import nn

from ..categorical import Randomness
from ..denoisers import WrappedDenoiser
from ..denoisers.modes import counting_sequences, device_of, evaluating
from ..denoisers.quality import QualityDenoiser
from ..denoisers.self_conditioning import Predictions, carrying, self_conditioned
from ..numerics import require_count, require_number
from ..revisions import Revised, Reviser
from ..samplers import Sampler
from ..samplers.walk_state import with_state
from ..typing import Selection, Times, Tokens
from .balanced import BalancedCorrector
from .base import Corrector
from .self_correction import SelfCorrection

STOP = (SelfCorrection, BalancedCorrector)
"""Correctors of finished sequences that stop by themselves, with a method `correct`."""


class CorrectorReviser(Reviser):
    """Corrects finished sequences by some steps of a corrector.

    Correctors that stop by themselves (`SelfCorrection`, `BalancedCorrector`) are stopped after at most `steps`, at a time
    of their own; all others take this number of steps at one time.

    **Arguments:**

    - `corrector`: any `Corrector`.
    - `time`: the time of the steps; by default the lower end of time, where tokens are clean. For a network, give one at
      which it was trained, such as 0.01, or give the corrector `noiselab.denoisers.EarliestTime(denoiser, 0.01)`.
    - `steps`: the number of steps of each sequence.
    - `settles`: whether the revision ends at a step that changes nothing in the batch; for correctors that draw nothing,
      whose further steps change nothing either.
    - `batch_size`: sequences at once.

    **Raises:** `ValueError` unless `corrector` is one, `time` lies in its domain, and `steps` and `batch_size` are positive;
    for a `time` or `settles` with a corrector that stops by itself.

    **Example:**

    ```python
    import torch
    import noiselab as nl
    from noiselab.correctors import CorrectorReviser, DraftCorrector

    process = nl.gidd(vocab_size=3, mask_id=2, p_uniform=0.2)
    oracle = nl.MarkovOracle(torch.tensor([0.5, 0.5]), torch.tensor([[0.99, 0.01], [0.01, 0.99]]), process)
    z = torch.tensor([[0, 0, 1, 0, 0]])
    gibbs = nl.GibbsCorrector(process, oracle, positions="unlikely")
    for reviser in (
        CorrectorReviser(nl.SelfCorrection(oracle, process=process)),
        CorrectorReviser(gibbs, steps=2),
        CorrectorReviser(DraftCorrector(process, oracle), time=0.01, settles=True),
    ):
        revised = reviser(z, generator=torch.Generator().manual_seed(0))
        assert revised.tokens.tolist() == [[0, 0, 0, 0, 0]] and revised.evaluations == 2
    ```
    """

    def __init__(
        self,
        corrector: Corrector,
        *,
        time: float | int | None = None,
        steps: int = 128,
        settles: bool = False,
        batch_size: int = 32,
    ) -> None:
        if not isinstance(corrector, Corrector):
            raise ValueError(f"corrector must be a noiselab.Corrector; got {type(corrector).__name__}")
        self.corrector, self.kind, self.settles = corrector, corrector.kind, settles
        self.steps, self.batch_size = require_count("steps", steps), require_count("batch_size", batch_size)
        if isinstance(corrector, STOP):
            if time is not None or settles:
                raise ValueError(
                    f"time and settles must be left out for {type(corrector).__name__}, which has its own time and stops by "
                    f"itself; got time={time}, settles={settles}"
                )
        else:
            process = vars(corrector).get("process")
            low, high = (0, 1) if process is None else process.domain
            time = low if time is None else require_number("time", time, low, high)
        self.time: Any = time  # none for those that stop by themselves

    def revise(self, z: Tokens, *, rows: Selection | None = None, generator: Randomness = None) -> Revised:
        """The sequences after the steps."""
        corrector = self.corrector

        def revised(some: Tokens, rows: Selection | None, generator: Randomness) -> Tokens:
            if isinstance(corrector, STOP):
                return corrector.correct(some, steps=self.steps, rows=rows, generator=generator)
            t = torch.full((len(some),), self.time, dtype=torch.float64, device=some.device)
            for _ in range(self.steps):
                before, some = some, corrector.step(some, t, rows=rows, generator=generator)
                if self.settles and torch.equal(before, some):
                    break
            return some

        denoiser = corrector.denoiser
        with torch.no_grad(), evaluating(denoiser), counting_sequences(*_networks(corrector)) as count:
            tokens = _in_batches(revised, z, rows, generator, self.batch_size, device_of(denoiser))
        return Revised(tokens, count.sequences)

    def __repr__(self) -> str:
        at = "" if self.time is None else f"time={self.time:g}, "
        return f"CorrectorReviser({self.corrector}, {at}steps={self.steps}{', settles=True' * self.settles})"


class ResamplingReviser(Reviser):
    """Adds the noise of a time to finished sequences and lets a sampler generate them again from there.

    With a sampler that revises what it has generated (`PathPlanningSampler`, `RemaskingSampler`), tokens that got no noise
    may change too. Without added noise, and with one step, it is the last step of a sampler: all tokens jump at once from
    their posterior at that time.

    **Arguments:**

    - `sampler`: any `Sampler`.
    - `time`: the time, within the domain of the process.
    - `steps`: the number of steps from there, evenly spaced; 0 for the jump to clean tokens alone.
    - `noise`: whether noise is added. Otherwise the sequences are taken for noisy ones of that time as they are.
    - `batch_size`: sequences at once.

    **Raises:** `ValueError` unless `sampler` is one, the time lies in the domain, `steps` is not negative and
    `batch_size` is positive.

    **Example:**

    ```python
    import torch
    import noiselab as nl

    process = nl.masked(vocab_size=3, mask_id=2)
    oracle = nl.MarkovOracle(torch.tensor([0.5, 0.5]), torch.tensor([[0.99, 0.01], [0.01, 0.99]]), process)
    reviser = nl.correctors.ResamplingReviser(nl.AncestralSampler(process, oracle), time=0.5, steps=4)
    revised = reviser(torch.tensor([[0, 0, 1, 0, 0]]), generator=torch.Generator().manual_seed(0))
    assert (revised.tokens < 2).all() and revised.evaluations <= 4
    ```
    """

    kind = "resample"

    def __init__(
        self, sampler: Sampler, *, time: float | int, steps: int, noise: bool = True, batch_size: int = 512
    ) -> None:
        if not isinstance(sampler, Sampler):
            raise ValueError(f"sampler must be a noiselab.Sampler; got {type(sampler).__name__}")
        self.sampler, self.steps, self.noise = sampler, require_count("steps", steps, 0), noise
        self.time = require_number("time", time, *sampler.process.domain)
        self.batch_size = require_count("batch_size", batch_size)

    def revise(self, z: Tokens, *, rows: Selection | None = None, generator: Randomness = None) -> Revised:
        """The sequences generated again; tokens outside `rows` get no noise and are restored after each step."""
        process = self.sampler.process
        times = torch.linspace(
            self.time, process.domain[0], self.steps + 1, dtype=torch.float64, device=self.sampler.device
        )

        def revised(some: Tokens, rows: Selection | None, generator: Randomness) -> Tokens:
            def kept(new: Tokens) -> Tokens:
                return new if rows is None else torch.where(rows, new, some)

            sampler = self.sampler if rows is None else self.sampler.knowing(~rows)
            t: Times = times[:1].expand(len(some))
            x = kept(process.corrupt(some, t, generator=generator)) if self.noise else some
            advance, parts, predictions = with_state(sampler.stages), self_conditioned(denoiser), Predictions(len(x))
            for now, then in itertools.pairwise(times):
                with carrying(parts, predictions):
                    done = advance(x, now.expand(len(x)), then.expand(len(x)), generator=generator)
                x = kept(done[-1].z)
            return kept(sampler.clean(x, times[-1:].expand(len(x)), generator=generator))

        denoiser = self.sampler.denoiser
        with torch.no_grad(), evaluating(denoiser), counting_sequences(_network(denoiser)) as count:
            tokens = _in_batches(revised, z, rows, generator, self.batch_size, self.sampler.device)
        return Revised(tokens, count.sequences)

    def __repr__(self) -> str:
        return f"ResamplingReviser({self.sampler}, time={self.time:g}, steps={self.steps}, noise={self.noise})"


def _networks(corrector: Corrector) -> list[nn.Module]:
    """The modules whose calls are evaluations: the network, and what a detector of the corrector calls."""
    own = getattr(getattr(corrector, "detector", None), "denoiser", None)
    heads = [own.head] if isinstance(own, QualityDenoiser) else [_network(own)] if isinstance(own, nn.Module) else []
    return [_network(corrector.denoiser), *heads]


def _network(denoiser: nn.Module) -> nn.Module:
    """What wrappers share: a sampler and its parts may each have a wrapper of their own around one network."""
    while isinstance(denoiser, WrappedDenoiser):
        denoiser = denoiser.inner
    return denoiser


def _in_batches(
    revised: Callable[[Tokens, Selection | None, Randomness], Tokens],
    z: Tokens,
    rows: Selection | None,
    generator: Randomness,
    size: int,
    device: torch.device,
) -> Tokens:
    """The sequences, some at a time, on the device of the model."""
    parts = []
    for first in range(0, len(z), size):
        some = slice(first, first + size)
        allowed = None if rows is None else rows[some].to(device)
        random = generator[some] if isinstance(generator, Sequence) else generator
        parts.append(revised(z[some].to(device), allowed, random).to(z.device))
    return torch.cat(parts) if parts else z
