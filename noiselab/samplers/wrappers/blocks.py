"""Sampling block by block, from left to right."""

import copy
from collections.abc import Iterator
from typing import Literal, NamedTuple, get_args

import torch
from torch import Tensor, nn

from ...categorical import Randomness
from ...denoisers import Denoiser
from ...numerics import require_count
from ...process import as_token_times
from ...typing import Grid, Selection, Times, Tokens
from ..base import Advance, Sampler, Stage, WrappedSampler
from ..walk_state import with_state

Context = Literal["all", "past"]


class _Block(NamedTuple):
    """The block with a number in each sequence; a sequence with fewer blocks stays at its last one, which does not
    move.

    **Arguments:**

    - `given`: the number of leading tokens before the first block, [batch or 1, 1].
    - `number`, `size`: the number of the block, from 0, and its number of tokens, fewer at the end of the sequence.
    - `length`: the length of the sequences.
    - `times`: the times of the grid.
    - `low`: the lower end of time.
    """

    given: Tensor
    number: int
    size: int
    length: int
    times: Tensor
    low: float

    @property
    def begin(self) -> Tensor:
        """Where it begins, [batch or 1, 1]."""
        return torch.minimum(self.given + self.number * self.size, last_block(self.given, self.size, self.length))

    @property
    def over(self) -> Tensor:
        """The mask of sequences with fewer blocks, [batch or 1, 1]."""
        return self.given + self.number * self.size >= self.length

    def is_last(self) -> bool:
        """Whether it is the last block of all sequences."""
        return bool((self.begin + self.size >= self.length).all())

    def holds(self, z: Tensor) -> Tensor:
        """The mask of the tokens of the block."""
        position = torch.arange(z.shape[1], device=z.device)
        return (position >= self.begin) & (position < self.begin + self.size)

    def place(self, t: Tensor, z: Tensor) -> Tensor:
        """Times per token: t in the block, the lower end before it, the first time after it."""
        position, t = torch.arange(z.shape[1], device=z.device), as_token_times(t, z).expand(z.shape)
        begin, end, last = self.begin, self.begin + self.size, self.times[-1].to(t)
        # The last block of a sequence keeps the noise of the last time, while others take a step to the lower end.
        t = torch.where(self.over, last, torch.where(end >= self.length, torch.maximum(t, last), t))
        return torch.where(position >= end, self.times[0].to(t), torch.where(position < begin, self.low, t))


def last_block(given: Tensor, size: int, length: int) -> Tensor:
    """Where the last block of each sequence begins."""
    return given + (length - 1 - given).clamp(min=0) // size * size


def _in_blocks(denoiser: nn.Module) -> Denoiser | None:
    """The denoiser inside whose network attends by blocks."""
    parts = (part for part in denoiser.modules() if isinstance(part, Denoiser))
    return next((part for part in parts if part.attention_block), None)


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
    - `block_size`: the number of tokens in a block, positive.
    - `context`: the denoiser's input: "all", or "past", which truncates sequences after the current block. For a
      network with block-causal attention (`noiselab.networks.block_cache.BlockCausal`), "past" saves work and gives the
      same result; for others it is a context that differs from training.
    - `given`: the number of leading tokens that are given, such as a prompt. They are not sampled, and blocks are
      counted from their end, as in LLaDA. By default those before the first missing token of an `Infilling` or
      `Prompted` inside or around, which may differ between sequences. With 0, blocks are counted from position 0; blocks in
      which all tokens are known then change nothing. This is the default for a denoiser with block-causal attention
      (`Denoiser.attention_block`), which was trained with such blocks; if these are counted from the end of given tokens
      (`Denoiser.attention_given`), so are those of the sampler.

    **Raises:** `ValueError` for invalid settings, blocks that do not begin (or, with `context="past"`, end) where those of
    block-causal attention do, or prompts of unlike lengths with `context="past"`.

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

    def __init__(self, inner: Sampler, block_size: int, *, context: Context = "all", given: int | None = None):
        super().__init__(inner)
        self.keeps_clean = inner.keeps_clean
        if context not in get_args(Context):
            raise ValueError(f"context must be 'all' or 'past'; got {context!r}")
        if context == "past" and inner.needs_whole:
            raise ValueError(
                f"context must be 'all' around a sampler that needs whole sequences, such as {inner}; got 'past'"
            )
        self.block_size, self.context = inner.check_block(block_size), context
        self.given = given if given is None else require_count("given", given, 0)
        self._known: Tensor | None = None
        found = _in_blocks(self.denoiser)
        self._attention = None if found is None else found.attention_block
        self._attention_given = None if found is None else found.attention_given
        if self._attention is not None:
            if self.given is not None and self._attention_given is not None:
                raise ValueError(
                    "given must be left out, because the network counts blocks from tokens that are given to it; got "
                    f"{self.given}"
                )
            if self.given is not None and self.given % self._attention:
                raise ValueError(
                    f"given must be a multiple of {self._attention}, because the network attends by blocks of this size from "
                    f"position 0; got {self.given}"
                )
            if context == "past" and self.block_size % self._attention:
                raise ValueError(
                    f"block_size must be a multiple of {self._attention} with context='past', because the network attends by "
                    f"blocks of this size; got {self.block_size}"
                )

    def knowing(self, known: Selection) -> Sampler:
        """This sampler, with blocks counted from the end of the known tokens."""
        made = copy.copy(self)
        made.inner, made._known = self.inner.knowing(known), known
        return made

    def path(
        self, z: Tokens, times: Grid, *, generator: Randomness = None, advance: Advance | None = None
    ) -> Iterator[list[Stage]]:
        """The stages of each step of each block."""
        advance, size, length = with_state(advance or self.stages), self.block_size, z.shape[1]
        given = self._given(z)
        rest = length - int(given.min())
        if length == rest <= size:
            yield from self.inner.path(z, times, generator=generator, advance=advance)
            return
        if self.context == "past" and (given != given[0]).any():
            raise ValueError(f"context='past' needs prompts of one length; got {sorted(set(given[:, 0].tolist()))}")
        low = torch.full_like(times[-1:], self.process.domain[0])
        to_the_end = torch.cat((times, low)) if times[-1] > low else times
        for first in range(0, rest, size):
            block = _Block(given, first // size, size, length, times, self.process.domain[0])
            seen = length if self.context == "all" else min(int(block.begin[0]) + size, length)
            grid = times if block.is_last() else to_the_end
            within = self._within(block, advance)
            for stages in self.inner.path(z[:, :seen], grid, generator=generator, advance=within):
                stages = [self._whole(stage, z, times[0]) for stage in stages]
                z = stages[-1].z
                yield stages

    def count_steps(self, z: Tokens, times: Grid) -> int:
        """Those of the grid for each block, and one more to the lower end of time for each block but the last."""
        whole, rest = self.inner.count_steps(z, times), z.shape[1] - int(self._given(z).min())
        blocks = -(-rest // self.block_size)
        return blocks * whole + (blocks - 1) * int(float(times[-1]) > self.process.domain[0]) if blocks > 1 else whole

    def clean(self, z: Tokens, t: Times, *, generator: Randomness = None) -> Tokens:
        """Clean tokens in one jump: from t in the last block, from the lower end of time in those before it."""
        length, given, low = z.shape[1], self._given(z), self.process.domain[0]
        last = last_block(given, self.block_size, length)
        if (last > 0).any():
            position = torch.arange(length, device=z.device)
            t = torch.where(position < last, low, as_token_times(t, z).expand(z.shape))
        return self.inner.clean(z, t, generator=generator)

    def _given(self, z: Tensor) -> Tensor:
        """The number of leading tokens that are given in each sequence, [batch or 1, 1]."""
        if self._attention_given is not None:
            if len(self._attention_given) not in (1, len(z)):
                raise ValueError(
                    f"the denoiser must count blocks of these {len(z)} sequences; got {len(self._attention_given)} given"
                )
            return self._attention_given.to(z.device).clamp(max=z.shape[1])
        known = self.inner.known_tokens() if self._known is None else self._known
        if self.given is not None or known is None or self._attention is not None:
            return torch.full((1, 1), min(self.given or 0, z.shape[1]), device=z.device)
        return known[:, : z.shape[1]].to(z.device).long().cumprod(-1).sum(-1, keepdim=True)

    def _place(self, t: Tensor, z: Tensor, block: _Block) -> Tensor:
        """The times per token while a block is sampled."""
        return block.place(t, z)

    def _within(self, block: _Block, advance: Advance) -> Advance:
        """Return the function that makes the stages of one step in a block, from the times of the block."""

        def within(z: Tensor, t: Tensor, s: Tensor, *, generator: Randomness = None) -> list[Stage]:
            t, s = (self._place(time, z, block) for time in (t, s))
            done = advance(z, t, s, generator=generator)
            return [stage._replace(z=torch.where(block.holds(z), stage.z, z)) for stage in done]

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
            f", given={self.given}" if self.given is not None else ""
        )
