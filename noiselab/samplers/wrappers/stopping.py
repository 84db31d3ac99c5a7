"""Early stopping of sequences and of sampling."""

from collections.abc import Iterator, Sequence

import torch
from jaxtyping import Int
from torch import Tensor

from ...categorical import Randomness
from ...numerics import require_count
from ...process import as_token_times
from ...typing import Grid, Times, Tokens
from ..base import Advance, Sampler, Stage, WrappedSampler, hold_still


class EarlyStopping(WrappedSampler):
    """Stops updating a sequence once none of its tokens has changed for `patience` steps, and ends sampling once all
    have stopped.

    A stopped sequence is treated as fully denoised: its time is set to the lower end of the domain and the network is
    no longer evaluated on it. A sequence stops only if all its tokens have left the first time of the grid and it
    contains no token outside the support of the data (a mask).

    For absorbing noise a sequence without masks is finished, so that the result is exact. For other noise it is an
    approximation: a wrong token that does not change for `patience` steps is kept, and `converges` is False. Finer
    grids require a larger `patience` for the same quality.

    **Arguments:**

    - `inner`: the sampler to wrap. Inside `BlockSampler` each block stops separately; around it, only the last block
      can stop.
    - `patience`: the number of steps without a change, at least 1.

    **Raises:** `ValueError` if `patience` is less than 1.

    **Example:**

    ```python
    import torch
    import noiselab as nl

    process = nl.masked(vocab_size=3, mask_id=2)
    oracle = nl.MarkovOracle(torch.tensor([0.5, 0.5]), torch.tensor([[0.9, 0.1], [0.2, 0.8]]), process)
    sampler = nl.samplers.EarlyStopping(nl.AncestralSampler(process, oracle), patience=1)
    states = list(sampler.run((1, 4), steps=1024, generator=torch.Generator().manual_seed(0)))
    assert len(states) < 1024
    ```
    """

    def __init__(self, inner: Sampler, patience: int):
        super().__init__(inner)
        self.patience, self.converges = require_count("patience", patience), False
        self.keeps_clean = inner.keeps_clean

    def path(
        self, z: Tokens, times: Grid, *, generator: Randomness = None, advance: Advance | None = None
    ) -> Iterator[list[Stage]]:
        """The path of the inner sampler, until all sequences have stopped."""
        advance, first, low, length = advance or self.stages, times[0], self.process.domain[0], z.shape[1]
        quiet = torch.zeros(len(z), dtype=torch.long, device=z.device)
        stopped = torch.zeros(len(z), dtype=torch.bool, device=z.device)
        data, over = self.process.data_tokens(z.device), False

        def onward(z: Tensor, t: Tensor, s: Tensor, *, generator: Randomness = None) -> list[Stage]:
            nonlocal quiet, stopped
            done = hold_still(advance, stopped, low, z, t, s, generator, over=over)
            changed = torch.stack([stage.z != z for stage in done]).any(0).any(-1)
            # An inner BlockSampler marks later tokens only by their times; an outer one leaves them at the first time.
            # One with `context="past"` leaves them out.
            left_start = (as_token_times(s, z) < first).all(-1) & (z.shape[1] == length)
            ours = as_token_times(done[-1].time, z) < first
            quiet = torch.where(left_start & ~changed, quiet + 1, 0)
            stopped = stopped | ((quiet >= self.patience) & (data[done[-1].z] | ~ours).all(-1))
            return done

        for stages in self.inner.path(z, times, generator=generator, advance=onward):
            if not over:
                yield stages
            # Remaining steps draw their random numbers without evaluating the network, so that generators do not depend
            # on the batch.
            over = bool(stopped.all())

    def extra_repr(self) -> str:
        """The settings, for `repr`."""
        return f"patience={self.patience}"


class EndToken(WrappedSampler):
    """Sequences of variable length: all tokens after the first end token are replaced.

    With a `BlockSampler` inside, a sequence is finished when its end token is in a finished block: later tokens are not
    sampled, and sampling ends when all sequences are finished. So it is without blocks where tokens up to the end token are
    certainly clean, as all revealed ones are under absorbing noise, and the inner sampler never changes such tokens
    (`keeps_clean`). Finished sequences have no active rows, so that a denoiser in `ActiveOnly` does not evaluate them. The
    tokens before the end, and the lengths, are those of the inner sampler. (If a process has noise at the lower end of
    time, an end token may be noise, with that small probability.)

    **Arguments:**

    - `inner`: the sampler to wrap.
    - `token`: the end token, or several, in the support of the data.
    - `fill`: the token that replaces all tokens after it; by default the (first) end token itself.
    - `prompt`: the number of leading tokens that are ignored, for all sequences or for each: an end token among them does not
      end a sequence.

    **Raises:** `ValueError` if a token is outside the vocabulary, an end token is outside the support, or `prompt` is
    negative.

    **Example:**

    ```python
    import torch
    import noiselab as nl

    process = nl.masked(vocab_size=3, mask_id=2)
    oracle = nl.MarkovOracle(torch.tensor([0.8, 0.2]), torch.tensor([[0.9, 0.1], [0.5, 0.5]]), process)
    blocks = nl.samplers.BlockSampler(nl.AncestralSampler(process, oracle), block_size=4)
    x = nl.samplers.EndToken(blocks, token=1).sample((5, 16), steps=8)
    assert (nl.samplers.lengths(x, 1) == (x == 0).sum(-1)).all()
    ```
    """

    def __init__(
        self,
        inner: Sampler,
        token: int | Sequence[int],
        *,
        fill: int | None = None,
        prompt: int | Int[Tensor, " batch"] = 0,
    ):
        super().__init__(inner)
        vocab_size = self.process.vocab_size
        ends = _ends(token, vocab_size - 1)
        for one in ends:
            if not self.process.host_support()[one]:
                raise ValueError(f"the end token must be in the support of the process; got {one}")
        self.token, self.fill = token, require_count("fill", ends[0] if fill is None else fill, 0, vocab_size - 1)
        self.prompt = prompt if isinstance(prompt, Tensor) else require_count("prompt", prompt, 0)
        self.converges, self.keeps_clean = False, inner.keeps_clean

    def path(
        self, z: Tokens, times: Grid, *, generator: Randomness = None, advance: Advance | None = None
    ) -> Iterator[list[Stage]]:
        """The path of the inner sampler, until all sequences have ended."""
        # A sampler around this one may change any token that is not at the lower end of time.
        certain = advance is None and self.inner.keeps_clean
        advance, length = advance or self.stages, z.shape[1]
        end = torch.full((len(z),), length, device=z.device)  # where a sequence has ended; `length` if it has not
        over = False

        def onward(z: Tensor, t: Tensor, s: Tensor, *, generator: Randomness = None) -> list[Stage]:
            z, low = self._filled(z, end), self.process.domain[0]
            return hold_still(advance, end < length, low, z, t, s, generator, over=over)

        for stages in self.inner.path(z, times, generator=generator, advance=onward):
            end = torch.minimum(end, self._end(stages[-1], certain))
            if not over:
                yield [stage._replace(z=self._filled(stage.z, end)) for stage in stages]
            over = bool((end < length).all())  # remaining steps still draw their random numbers

    def clean(self, z: Tokens, t: Times, *, generator: Randomness = None) -> Tokens:
        """Apply `clean` of the inner sampler, then replace all tokens after the first end token."""
        z = self.inner.clean(z, t, generator=generator)
        return self._filled(z, lengths(z, self.token, prompt=self.prompt))

    def _end(self, stage: Stage, certain: bool) -> Tensor:
        """The first end token such that it and all earlier tokens are at the lower end of time, or certainly clean; the
        length if there is none.
        """
        finished = as_token_times(stage.time, stage.z).expand(stage.z.shape) <= self.process.domain[0]
        if certain:
            finished = finished | self.process.is_clean(stage.z, stage.time)
        finished = finished.long().cumprod(-1).bool()
        return lengths(torch.where(finished, stage.z, -1), self.token, prompt=self.prompt)

    def _filled(self, z: Tensor, end: Tensor) -> Tensor:
        return torch.where(torch.arange(z.shape[1], device=z.device) > end[:, None], self.fill, z)

    def extra_repr(self) -> str:
        """The settings, for `repr`."""
        first = self.token[0] if isinstance(self.token, Sequence) else self.token
        more = f", fill={self.fill}" if self.fill != first else ""
        before = self.prompt.tolist() if isinstance(self.prompt, Tensor) else self.prompt
        return f"token={self.token}{more}" + (f", prompt={before}" if before else "")


def lengths(x: Tokens, token: int | Sequence[int], *, prompt: int | Int[Tensor, " batch"] = 0) -> Int[Tensor, " batch"]:
    """The number of tokens before the first end token; all of them if there is none.

    **Arguments:**

    - `token`: the end token, or several.
    - `prompt`: the number of leading tokens that are ignored, for all sequences or for each.

    **Raises:** `ValueError` if there is no end token, or one of them or `prompt` is negative.
    """
    ends = _ends(token)
    if not isinstance(prompt, Tensor):
        require_count("prompt", prompt, 0)
    if x.dim() != 2:
        raise ValueError(f"x must have shape [batch, length]; got {list(x.shape)}")
    if x.is_floating_point() or x.dtype == torch.bool:
        raise ValueError(f"x must be integers; got {x.dtype}")
    before = prompt.to(x.device)[:, None] if isinstance(prompt, Tensor) else prompt
    end = torch.isin(x, torch.tensor(ends, device=x.device)) & (torch.arange(x.shape[1], device=x.device) >= before)
    return (end.long().cumsum(-1) == 0).sum(-1)


def _ends(token: int | Sequence[int], last: int | None = None) -> list[int]:
    """The end tokens, checked."""
    several = token if isinstance(token, Sequence) and not isinstance(token, str) else [token]
    ends = [require_count("token", one, 0, last) for one in several]
    if not ends:
        raise ValueError("there must be at least one end token; got none")
    return ends
