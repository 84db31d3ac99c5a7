"""Sampling block by block, from left to right."""

from collections.abc import Iterator
from typing import Literal, get_args

import torch
from torch import Tensor

from ...categorical import Randomness
from ...numerics import require_count
from ...process import as_token_times
from ...typing import Grid, Times, Tokens
from ..base import Advance, Sampler, Stage, WrappedSampler

Context = Literal["all", "past"]


class BlockSampler(WrappedSampler):
    """Runs the whole grid of times for one block of tokens after another (semi-autoregressive sampling).

    While a block is sampled, earlier tokens are at the lower end of time and later tokens are noise at the first of the
    times; the denoiser receives these per-token times. With the exact denoiser the distribution converges to that of
    the data for any block size, if that of the inner sampler does. With a single block the result is the inner sampler.

    If the grid ends above the lower end of time, each block but the last takes one more step to it; `clean` removes the
    noise of the last block, as for any sampler. (If a process has noise at the lower end itself, such as
    `log_snr_hybrid`, `clean` removes it from all blocks.)

    **Arguments:**

    - `inner`: the sampler to wrap. If it has its own walk (`EarlyStopping`), that is used in each block.
    - `block_size`: the number of tokens in a block, positive. Blocks start at position 0.
    - `context`: the denoiser's input: "all", or "past", which truncates sequences after the current block. For a
      network with block-causal attention (`noiselab.networks.block_cache.BlockCausal`), "past" saves work and gives the
      same result; for others it is a context that differs from training.
    - `given`: the number of leading tokens that are given, such as a prompt; blocks that consist only of these are
      skipped.

    **Raises:** `ValueError` for invalid settings.

    **Source:** Arriola et al. (2025), arXiv 2503.09573; Nie et al. (2025), LLaDA, arXiv 2502.09992.

    **Example:**

    ```python
    import torch
    import noiselab as nl

    process = nl.masked(vocab_size=3, mask_id=2)
    oracle = nl.MarkovOracle(torch.tensor([0.5, 0.5]), torch.tensor([[0.9, 0.1], [0.2, 0.8]]), process)
    sampler = nl.samplers.BlockSampler(nl.AncestralSampler(process, oracle), block_size=4, context="past")
    assert (sampler.sample((4, 16), steps=8) < 2).all()
    ```
    """

    def __init__(self, inner: Sampler, block_size: int, *, context: Context = "all", given: int = 0):
        super().__init__(inner)
        require_count("block_size", block_size)
        require_count("given", given, 0)
        if context not in get_args(Context):
            raise ValueError(f"context must be 'all' or 'past'; got {context!r}")
        self.block_size, self.context, self.given = block_size, context, given

    def path(
        self, z: Tokens, times: Grid, *, generator: Randomness = None, advance: Advance | None = None
    ) -> Iterator[list[Stage]]:
        """The stages of each step of each block."""
        advance, size, length = advance or self.stages, self.block_size, z.shape[1]
        if length <= size:
            yield from self.inner.path(z, times, generator=generator, advance=advance)
            return
        low = torch.full_like(times[-1:], self.process.domain[0])
        to_the_end = torch.cat((times, low)) if times[-1] > low else times
        for begin in range(self.given // size * size, length, size):
            end = min(begin + size, length)
            seen = length if self.context == "all" else end
            grid = times if end == length else to_the_end
            within = self._within(begin, end, times[0], advance)
            for stages in self.inner.path(z[:, :seen], grid, generator=generator, advance=within):
                stages = [self._whole(stage, z, times[0]) for stage in stages]
                z = stages[-1].z
                yield stages

    def clean(self, z: Tokens, t: Times, *, generator: Randomness = None) -> Tokens:
        """Clean tokens in one jump: from t in the last block, from the lower end of time in those before it."""
        begin = (z.shape[1] - 1) // self.block_size * self.block_size
        if begin > 0:
            t = self._place(t, z, begin, z.shape[1], t.new_zeros(()))
        return self.inner.clean(z, t, generator=generator)

    def _place(self, t: Tensor, z: Tensor, begin: int, end: int, first: Tensor) -> Tensor:
        """Times per token: t in the block, the lower end before it, the first time after it."""
        position = torch.arange(z.shape[1], device=z.device)
        t = torch.where(position < begin, self.process.domain[0], as_token_times(t, z).expand(z.shape))
        return torch.where(position >= end, first.to(t), t)

    def _within(self, begin: int, end: int, first: Tensor, advance: Advance) -> Advance:
        """Return the function that makes the stages of one step in a block, from the times of the block."""

        def within(z: Tensor, t: Tensor, s: Tensor, *, generator: Randomness = None) -> list[Stage]:
            t, s = (self._place(time, z, begin, end, first) for time in (t, s))
            done = advance(z, t, s, generator=generator)
            return [stage._replace(z=torch.cat((z[:, :begin], stage.z[:, begin:end], z[:, end:]), 1)) for stage in done]

        return within

    def _whole(self, stage: Stage, z: Tensor, first: Tensor) -> Stage:
        """Extend a stage by the later tokens that were truncated, at their time."""
        seen = stage.z.shape[1]
        if seen == z.shape[1]:
            return stage
        time = as_token_times(stage.time, stage.z).expand(stage.z.shape)
        rest = first.to(time).expand(len(z), z.shape[1] - seen)
        return stage._replace(time=torch.cat((time, rest), 1), z=torch.cat((stage.z, z[:, seen:]), 1))

    def extra_repr(self) -> str:
        """The settings, for `repr`."""
        return f"block_size={self.block_size}, context={self.context!r}" + (
            f", given={self.given}" if self.given else ""
        )
