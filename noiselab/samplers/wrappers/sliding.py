"""Sampling in blocks of which several are open at once: the next one begins before the current one is finished."""

from collections.abc import Iterator

import torch
from torch import Tensor

from ...categorical import Randomness
from ...numerics import require_count, require_number
from ...typing import Grid, Tokens
from ..base import Advance, Sampler, Stage, WrappedSampler
from ..confidence import noisy_data_tokens
from ..joint_thresholds import JointThresholdSampler
from ..walk_state import with_state
from .blocks import BlockSampler
from .stopping import EarlyStopping


class SlidingBlockSampler(BlockSampler):
    """Samples in blocks, each of which begins once those before it are finished to a given share (multi-block decoding).

    Each block has its own clock: it makes the steps of the grid from the moment at which it opens, while later tokens are noise
    at the first of the times. A block opens when of every earlier block at least the given share of the tokens is known to be
    clean. A block all of whose tokens are clean is finished, and makes no further steps; sampling ends when all are. With
    `share=1` and the most probable tokens the result is that of `BlockSampler`, without its idle steps.

    With an exact denoiser the distribution converges to that of the data if that of the inner sampler does: several open blocks
    only mean that tokens have different times. Use it with samplers whose speed does not depend on the grid
    (`ThresholdSampler`), and steps for every token of a block: `steps=block_size`. With noise on data tokens no token is known
    to be clean before the end, and blocks are sampled one after another.

    If the grid ends above the lower end of time, each block takes one more step to it.

    **Arguments:**

    - `inner`: the sampler to wrap.
    - `block_size`, `given`: as for `BlockSampler`.
    - `share`: the share of clean tokens of a block from which on the next one is open, in [0, 1]. At 0 all blocks are open
      from the start.
    - `at_once`: the largest number of open blocks that are not finished; by default any.

    **Raises:** `ValueError` for invalid settings, or around a sampler that stops by itself (`EarlyStopping`,
    `JointThresholdSampler` with noise on data tokens).

    **Source:** the idea of the multi-block decoder of d3LLM (hao-ai-lab/d3LLM), whose schedule has more states and is not
    reproduced.

    **Example:**

    ```python
    import torch
    import noiselab as nl

    process = nl.masked(vocab_size=3, mask_id=2)
    oracle = nl.MarkovOracle(torch.tensor([0.5, 0.5]), torch.tensor([[0.99, 0.01], [0.02, 0.98]]), process)
    counting = nl.denoisers.CallCounter(oracle)
    inner = nl.samplers.ThresholdSampler(process, counting, nl.samplers.ConfidenceThreshold(0.95))
    one_by_one = nl.samplers.BlockSampler(inner, 8).sample((1, 32), steps=8)
    calls = counting.calls
    several = nl.samplers.SlidingBlockSampler(inner, 8, share=0.5).sample((1, 32), steps=8)
    assert counting.calls - calls < calls
    ```
    """

    def __init__(
        self,
        inner: Sampler,
        block_size: int,
        *,
        share: float | int = 0.5,
        at_once: int | None = None,
        given: int | None = None,
    ):
        super().__init__(inner, block_size, given=given)
        self.share = require_number("share", share, 0, 1)
        self.at_once = at_once if at_once is None else require_count("at_once", at_once)
        _refuse_stopping(inner)

    def path(
        self, z: Tokens, times: Grid, *, generator: Randomness = None, advance: Advance | None = None
    ) -> Iterator[list[Stage]]:
        """The stages of each step of the open blocks."""
        window = _Window(self, z, times)
        advance, over = with_state(advance or self.stages), False

        def within(z: Tensor, t: Tensor, s: Tensor, *, generator: Randomness = None) -> list[Stage]:
            if window.is_over():
                return [Stage(self.kind, window.place(window.made, z), z)]
            now, later = window.turn(z, still=t == s)
            done = advance(z, now, later, generator=generator)
            return [stage._replace(z=torch.where(later < now, stage.z, z)) for stage in done]

        low, high = self.process.domain
        steps = torch.linspace(high, low, window.steps + 1, dtype=torch.float64, device=z.device)
        for stages in self.inner.path(z, steps, generator=generator, advance=within):
            if not over:
                yield stages
            # The walk of the inner sampler is made to its end, where it checks the logits.
            over = window.finish(stages[-1].z)

    def count_steps(self, z: Tokens, times: Grid) -> int:
        """Those of the grid for each block, if no two are open at once."""
        return _Window(self, z, times).steps

    def clean(self, z: Tokens, t: torch.Tensor, *, generator: Randomness = None) -> Tokens:
        """Clean tokens in one jump from the lower end of time, which all blocks have reached."""
        return self.inner.clean(z, torch.full_like(t, self.process.domain[0]), generator=generator)

    def extra_repr(self) -> str:
        """The settings, for `repr`."""
        more = "" if self.at_once is None else f", at_once={self.at_once}"
        given = "" if self.given is None else f", given={self.given}"
        return f"block_size={self.block_size}, share={self.share:g}{more}{given}"


class _Window:
    """The open blocks of each sequence in one walk, and the number of steps that each block has made."""

    def __init__(self, sampler: SlidingBlockSampler, z: Tensor, times: Tensor):
        self.process, self.share, self.at_once = sampler.process, sampler.share, sampler.at_once
        low = torch.full_like(times[-1:], self.process.domain[0])
        self.times = torch.cat((times, low)) if times[-1] > low else times
        self.last = len(self.times) - 1
        place = torch.arange(z.shape[1], device=z.device) - sampler._given(z)
        self.ours = (place >= 0).expand(z.shape)
        self.number = place.clamp(min=0).div(sampler.block_size, rounding_mode="floor").expand(z.shape)
        blocks = int(self.number.max()) + 1 if z.numel() else 0
        self.made = torch.zeros(len(z), blocks, dtype=torch.long, device=z.device)
        self.sizes = self._count(self.ours)
        self.made[self.sizes == 0] = self.last  # of shorter sequences
        self.opened = self.made == self.last
        self.steps = max(1, blocks * self.last)

    def _count(self, tokens: Tensor) -> Tensor:
        """The number of these tokens in each block."""
        return torch.zeros_like(self.made).scatter_add(1, self.number, (tokens & self.ours).long())

    def place(self, made: Tensor, z: Tensor) -> Tensor:
        """The time of each token after these numbers of steps; given tokens are at the lower end."""
        return torch.where(self.ours, self.times[made.gather(1, self.number)], self.process.domain[0])

    def turn(self, z: Tensor, still: Tensor) -> tuple[Tensor, Tensor]:
        """Open blocks and make a step of those that are open: the times of the tokens before and after it."""
        finished = self.made == self.last
        clean = self._count(self.process.is_clean(z, self.place(self.made, z)))
        enough = clean >= self.share * self.sizes.double() - 1e-9
        reached = (finished | enough).long().cumprod(-1)
        before = torch.nn.functional.pad(reached, (1, 0), value=1)[:, :-1].bool()
        if self.at_once is not None:
            before &= (~finished).long().cumsum(-1) <= self.at_once
        self.opened |= before
        # Sequences that have ended are at the lower end; they make no steps.
        self.made = torch.where(still[:, None], self.last, self.made)
        now = self.place(self.made, z)
        self.made = torch.where(self.opened, (self.made + 1).clamp(max=self.last), self.made)
        return now, self.place(self.made, z)

    def finish(self, z: Tensor) -> bool:
        """Finish the open blocks without noise; whether all are."""
        clean = self._count(self.process.is_clean(z, self.place(self.made, z)))
        self.made = torch.where(self.opened & (clean == self.sizes), self.last, self.made)
        return self.is_over()

    def is_over(self) -> bool:
        """Whether all blocks are finished."""
        return bool((self.made == self.last).all())


def _refuse_stopping(sampler: Sampler) -> None:
    """Raise `ValueError` for a sampler that stops a sequence when its open blocks are finished, later ones or not."""
    while True:
        if isinstance(sampler, BlockSampler):
            raise ValueError(
                f"a sampler in sliding blocks must not have blocks of its own; got {type(sampler).__name__}"
            )
        # Under absorbing noise a full block is finished, so that the next one is open before nothing changes.
        fills = isinstance(sampler, JointThresholdSampler) and len(noisy_data_tokens(sampler.process)) > 0
        if fills or isinstance(sampler, EarlyStopping) or getattr(sampler, "stability", None) is not None:
            raise ValueError(
                "a sampler in sliding blocks must not stop sequences by itself, because later blocks have not begun; got "
                f"{type(sampler).__name__}"
            )
        if not isinstance(sampler, WrappedSampler):
            return
        sampler = sampler.inner
