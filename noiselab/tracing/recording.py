"""Running a sampler and recording every change: the implementation of `Trace`."""

from collections.abc import Iterable, Iterator, Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from ..categorical import Randomness
from ..denoisers import Denoiser
from ..numerics import as_time_shape, mask_off_support
from ..samplers.base import Sampler, Stage, WrappedSampler
from ..samplers.wrappers.infilling import Infilling


class Record(NamedTuple):
    """The fields of a `Trace`, in their order."""

    start: Tensor
    kinds: tuple[str, ...]
    steps: tuple[int, ...]
    times: Tensor
    changed: Tensor
    probs: Tensor
    support: Tensor | None


def record(
    now: Stage, walk: Iterable[list[Stage]], first: int, denoiser: Denoiser | None, support: Tensor | None
) -> Record:
    """Run a walk to its end and record every change.

    **Arguments:**

    - `now`: the initial stage.
    - `walk`: the stages of each step.
    - `first`: the number of the first step.
    - `denoiser`: if given, it is evaluated on each change for the probabilities of the old and the new token.
    """
    kinds, steps, times = [now.kind], [0], [as_time_shape(now.time, now.z).cpu()]
    changed = [torch.empty(0, 5, dtype=torch.int32)]
    probs = [torch.empty(0, 2, dtype=torch.float64)]
    # Copies: a walk that edits its tokens in place must not edit the record.
    start, now = now.z.to("cpu", torch.int32, copy=True), now._replace(z=now.z.clone())
    for step, stages in enumerate(walk, first):
        for stage in stages:
            where = stage.z != now.z
            if where.any():
                pairs = torch.stack([now.z[where], stage.z[where]], -1)
                rows = torch.cat([torch.full_like(pairs[:, :1], len(kinds)), where.nonzero(), pairs], -1)
                changed.append(rows.to("cpu", torch.int32))
                probs.append(probabilities(denoiser, now, where, pairs, support))
            now = stage._replace(z=stage.z.clone())
            kinds.append(stage.kind)
            steps.append(step)
            times.append(as_time_shape(stage.time, stage.z).cpu())
    width = max(time.shape[-1] for time in times)
    return Record(
        start,
        tuple(kinds),
        tuple(steps),
        torch.stack([time.expand(-1, width) for time in times]),
        torch.cat(changed),
        torch.cat(probs),
        None if support is None else support.cpu(),
    )


@torch.no_grad()
def probabilities(
    denoiser: Denoiser | None, before: Stage, rows: Tensor, pairs: Tensor, support: Tensor | None
) -> Tensor:
    """The denoiser's probabilities of the old and the new token of each row, [n, 2] on the CPU."""
    if denoiser is None:
        return torch.full(pairs.shape, torch.nan, dtype=torch.float64)
    logits = mask_off_support(denoiser(before.z, before.time, rows), support)
    return logits.double().softmax(-1).gather(-1, pairs.long()).cpu()


def stages_of(
    sampler: Sampler,
    start: Sequence[int] | Tensor,
    steps: int | None,
    times: Tensor | None,
    clean: bool,
    generator: Randomness,
) -> Iterator[list[Stage]]:
    """Yield the stages of `Sampler.run`, from noise or from given tokens; known tokens have their own times from the
    start.
    """
    if isinstance(start, Tensor):
        states = sampler.process.vocab_size
        if start.numel() and (start.min() < 0 or start.max() >= states):
            raise ValueError(f"tokens must lie in [0, {states}); got {start.min().item()} to {start.max().item()}")
        grid = sampler.grid(steps, times).to(start.device)
        first = _with_known_tokens(sampler, Stage("start", grid[0].expand(len(start)), start))
        rest = _from_tokens(sampler, first.z, grid, clean, generator)
    else:
        rest = sampler.run(start, steps=steps, times=times, clean=clean, generator=generator)
        first = _with_known_tokens(sampler, next(rest)[0])
    yield [first]
    yield from rest


def _from_tokens(
    sampler: Sampler, z: Tensor, times: Tensor, clean: bool, generator: Randomness
) -> Iterator[list[Stage]]:
    for stages in sampler.path(z, times, generator=generator):
        z = stages[-1].z
        yield stages
    if clean:
        end = times[-1].expand(len(z))
        yield [Stage("clean", end, sampler.clean(z, end, generator=generator))]


def _with_known_tokens(sampler: Sampler, start: Stage) -> Stage:
    while isinstance(sampler, WrappedSampler):
        if isinstance(sampler, Infilling):
            z = sampler.put(start.z)
            start = start._replace(z=z, time=sampler.clock(start.time, z))
        sampler = sampler.inner
    return start
