"""Traces: every change of every token in a sampling run, with its time, kind and model probabilities."""

import math
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import chain
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import torch
from jaxtyping import Float, Int
from torch import Tensor

from ..categorical import Randomness
from ..correctors.self_correction import SelfCorrection
from ..denoisers import Denoiser
from ..revisions import Revision
from ..samplers.base import Sampler, Stage
from ..typing import Grid, Times, Tokens, TokenSet
from .recording import record, stages_of
from .summary import ChangeSummary, as_table, summarize_changes

if TYPE_CHECKING:
    from matplotlib.figure import Figure


class Change(NamedTuple):
    """A token replaced by another, with time, kind and probabilities; its first fields are those of `Revision`.

    **Arguments:**

    - `sequence`, `position`: the location of the token.
    - `step`: the step, counted from 1.
    - `old`, `new`: the tokens.
    - `kind`: the kind of change, for example "denoise" or "gibbs".
    - `stage`: the stage; a step may have several stages. 0 is the start.
    - `time`: the time of the token after the change; NaN if the walk does not provide it.
    - `p_old`, `p_new`: the model's probabilities of both tokens just before the change; `None` if not evaluated.
    """

    sequence: int
    position: int
    step: int
    old: int
    new: int
    kind: str
    stage: int
    time: float
    p_old: float | None
    p_new: float | None


@dataclass(frozen=True, eq=False, repr=False)
class Trace:
    """The record of a sampling run, stage by stage; created by `Trace.of` or `trace`.

    Only changes are stored, which saves memory; states are rebuilt on demand. All tensors are on the CPU.

    **Arguments:**

    - `start`: the tokens of stage 0, int32.
    - `kinds`: the kind of change of each stage.
    - `steps`: the step that each stage belongs to; 0 for the start.
    - `times`: the times of the tokens at each stage, float64 [stage, batch, 1 or length].
    - `changed`: each change as (stage, sequence, position, old, new), int32, sorted by stage.
    - `probs`: the model's probabilities of the old and the new token; NaN if not evaluated.
    - `support`: the tokens that occur in data; `None` for all. Other tokens are drawn grey.

    **Example:**

    ```python
    import torch
    import noiselab as nl

    process = nl.gidd(vocab_size=3, mask_id=2, p_uniform=0.2)
    oracle = nl.MarkovOracle(torch.tensor([0.5, 0.5]), torch.tensor([[0.9, 0.1], [0.2, 0.8]]), process)
    random = torch.Generator().manual_seed(0)
    sampled = nl.Trace.of(nl.AncestralSampler(process, oracle), (2, 8), steps=8, generator=random, why=True)
    for change in sampled.changes(sequence=0, position=5):
        print(f"{change.kind}, step {change.step}: {change.old} to {change.new}, {change.p_old:.2f} to {change.p_new:.2f}")
    print(sampled.table())
    figure = sampled.plot(decode=lambda token: "ab_"[token])
    ```
    """

    start: Tokens
    kinds: tuple[str, ...]
    steps: tuple[int, ...]
    times: Float[Tensor, "stage batch time"]
    changed: Int[Tensor, "change 5"]
    probs: Float[Tensor, "change 2"]
    support: TokenSet | None = None

    @classmethod
    def of(
        cls,
        walker: Sampler | SelfCorrection,
        start: Sequence[int] | Tokens,
        *,
        steps: int | None = None,
        times: Grid | None = None,
        clean: bool = True,
        generator: Randomness = None,
        why: bool = False,
    ) -> "Trace":
        """Run a sampler and record every change. The generated tokens are the same as without recording.

        **Arguments:**

        - `walker`: a sampler, or a `SelfCorrection`.
        - `start`: the shape (batch, length) to start from noise, or initial tokens, which a `SelfCorrection` requires.
        - `steps`, `times`, `clean`, `generator`: as for `Sampler.sample`. With initial tokens, `times` may start at any
          time. A `SelfCorrection` takes at most `steps` (128 by default) at its own time.
        - `why`: whether to record the model's probabilities of the old and the new token of each change, given all
          tokens just before and their times. This costs one additional evaluation, on the changed tokens only, for each
          stage that changes a token. For a sampler these are leave-one-out predictions; for a `SelfCorrection`, the
          model's own predictions without temperature. With a model that stores state between evaluations, such as an
          approximate cache, the generated tokens may then differ.

        **Raises:** `ValueError` for arguments that do not fit the walker.
        """
        told = walker.denoiser if why else None
        if isinstance(walker, SelfCorrection):
            if not isinstance(start, Tensor) or times is not None:
                raise ValueError(
                    "SelfCorrection must start from tokens and determines its own time; got a shape, or times"
                )
            states = walker.walk(start, steps=128 if steps is None else steps, generator=generator)
            return trace(states, start=start, time=walker.time, kind=walker.kind, denoiser=told, support=walker.support)
        stages = stages_of(walker, start, steps, times, clean, generator)
        return trace(stages, denoiser=told, support=walker.process.support)

    # States and changes.

    @property
    def states(self) -> Int[Tensor, "stage batch length"]:
        """The tokens at every stage, rebuilt at each call."""
        return self._tokens(self.made_by())

    @property
    def end(self) -> Tokens:
        """The tokens of the last stage."""
        _, sequence, position, _, _ = self.changed.long().unbind(-1)
        place, count = sequence * self.start.shape[1] + position, torch.arange(len(position))
        last = torch.full((self.start.numel(),), -1).scatter_reduce(0, place, count, "amax").view_as(self.start)
        return self._tokens(last)

    def made_by(self) -> Int[Tensor, "stage batch length"]:
        """The index of the change that set each token at each stage, from 0; -1 for initial tokens."""
        stage, sequence, position, _, _ = self.changed.long().unbind(-1)
        made_by = torch.full((len(self), *self.start.shape), -1, dtype=torch.int32)
        made_by[stage, sequence, position] = torch.arange(len(stage), dtype=torch.int32)
        return made_by.cummax(0).values

    def sequence(self, index: int) -> "Trace":
        """The trace of a single sequence, whose index is then 0."""
        if not 0 <= index < len(self.start):
            raise ValueError(f"sequence must lie in [0, {len(self.start)}); got {index}")
        mine = self.changed[:, 1] == index
        changed = self.changed[mine] * torch.tensor([1, 0, 1, 1, 1], dtype=torch.int32)
        one = slice(index, index + 1)
        return replace(self, start=self.start[one], times=self.times[:, one], changed=changed, probs=self.probs[mine])

    def changes(self, sequence: int | None = None, position: int | None = None) -> list[Change]:
        """The changes in order: all, those of one sequence, or those of one token."""
        chosen = torch.ones(len(self.changed), dtype=torch.bool)
        for column, value in ((1, sequence), (2, position)):
            if value is not None:
                chosen &= self.changed[:, column] == value
        return [self._change(*row) for row in self._rows(chosen)]

    def revisions(self) -> list[Revision]:
        """The changes as plain `Revision`s."""
        return [Revision(*change[:6]) for change in self.changes()]

    def _tokens(self, made_by: Tensor) -> Tensor:
        # The last entry is what the index -1, a token of the start, meets.
        new = torch.cat([self.changed[:, 4], self.changed.new_zeros(1)]).long()
        return torch.where(made_by < 0, self.start.long(), new[made_by])

    def _rows(self, chosen: Tensor) -> Iterator[tuple[list[int], float, list[float]]]:
        stage, sequence, position, _, _ = self.changed[chosen].long().unbind(-1)
        times = self.times.expand(-1, -1, self.start.shape[1])[stage, sequence, position]
        return zip(self.changed[chosen].tolist(), times.tolist(), self.probs[chosen].tolist(), strict=True)

    def _change(self, row: list[int], time: float, probs: list[float]) -> Change:
        stage, sequence, position, old, new = row
        p_old, p_new = (None if math.isnan(p) else p for p in probs)
        return Change(sequence, position, self.steps[stage], old, new, self.kinds[stage], stage, time, p_old, p_new)

    # Summaries.

    def summary(self, truth: Tokens | None = None) -> dict[str, ChangeSummary]:
        """Summary statistics of each kind of change, including kinds that changed nothing.

        **Arguments:**

        - `truth`: the correct tokens, if known.
        """
        if truth is not None and truth.shape != self.start.shape:
            raise ValueError(f"truth must have shape {list(self.start.shape)}; got {list(truth.shape)}")
        return summarize_changes(self.kinds, self.changed, self.probs, truth)

    def table(self, truth: Tokens | None = None) -> str:
        """`summary` as a text table with one line per kind."""
        return as_table(self.summary(truth))

    # Pictures, which need more than this layer.

    def plot(self, sequence: int = 0, **how: Any) -> "Figure":
        """Plot one sequence; arguments as for `plot_trace`."""
        from .figure import plot_trace

        return plot_trace(self, sequence, **how)

    def html(self, path: str | Path, **how: Any) -> Path:
        """Write an interactive page; arguments as for `write_trace`."""
        from .page import write_trace

        return write_trace(self, path, **how)

    def __len__(self) -> int:
        return len(self.kinds)

    def __add__(self, other: "Trace") -> "Trace":
        """Concatenate two traces; the second must start from the final tokens of this one. Its steps are renumbered."""
        if not torch.equal(self.end, other.start.long()):
            raise ValueError("the second trace must start from the final tokens of the first; got other tokens")
        later = other.changed + torch.tensor([len(self) - 1, 0, 0, 0, 0], dtype=torch.int32)
        times = [self.times, other.times[1:]]
        width = max(part.shape[-1] for part in times)
        return Trace(
            self.start,
            self.kinds + other.kinds[1:],
            self.steps + tuple(self.steps[-1] + step for step in other.steps[1:]),
            torch.cat([part.expand(-1, -1, width) for part in times]),
            torch.cat([self.changed, later]),
            torch.cat([self.probs, other.probs]),
            other.support if self.support is None else self.support,
        )

    def __repr__(self) -> str:
        batch, length = self.start.shape
        counts = Counter(self.kinds[stage] for stage in self.changed[:, 0].tolist())
        by = ", ".join(f"{count} by {kind}" for kind, count in counts.items())
        return f"Trace({batch} x {length} tokens, {len(self)} stages, {len(self.changed)} changes{f': {by}' if by else ''})"


def trace(
    stages: Iterable[list[Stage] | Tokens],
    *,
    start: Tokens | None = None,
    time: Times | float | int | None = None,
    kind: str = "correct",
    denoiser: Denoiser | None = None,
    support: TokenSet | None = None,
) -> Trace:
    """Record a sampling run while it is executed.

    **Arguments:**

    - `stages`: the lists of stages from `Sampler.run` (starting with the initial stage) or `Sampler.path`, or the plain
      states of any `walk`.
    - `start`: the tokens before the first of `stages`; not needed for `run`, which yields them.
    - `time`: the time of the initial tokens; for plain states, the time of all stages.
    - `kind`: the kind of change recorded for plain states.
    - `denoiser`: if given, it is evaluated once for each stage that changes a token, at the changed tokens, given the
      tokens just before and their times.
    - `support`: the tokens that occur in data; by default all. Other tokens have no probability and are drawn grey.

    **Raises:** `ValueError` if the initial tokens are missing, or the denoiser is given without a time.

    **Example:**

    ```python
    import torch
    import noiselab as nl

    start = torch.tensor([[0, 1, 2]])
    walk = [torch.tensor([[0, 1, 1]]), torch.tensor([[0, 0, 1]])]
    print(nl.trace(walk, start=start, kind="by hand").changes())
    ```
    """
    walk = iter(stages)
    if start is None:
        first = next(walk, None)
        if not isinstance(first, list) or not first:
            raise ValueError(f"start must be given for a walk that does not yield it as a stage; got {first!r}")
        now, walk, count = first[0], chain([first[1:]], walk), 0
    else:
        if not isinstance(time, Tensor):
            known = torch.nan if time is None else time
            time = torch.full((len(start),), known, dtype=torch.float64, device=start.device)
        now, count = Stage("start", time, start), 1
    if denoiser is not None and now.time.isnan().any():
        raise ValueError("time must be given if a denoiser is; got None")
    each = (done if isinstance(done, list) else [Stage(kind, now.time, done)] for done in walk)
    return Trace(*record(now, each, count, denoiser, support))
