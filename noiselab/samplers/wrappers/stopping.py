"""Walks that end early, and sequences that do."""

from collections.abc import Iterator

import torch
from jaxtyping import Int
from torch import Tensor

from ...categorical import Randomness
from ...process import as_token_times
from ...typing import Grid, Times, Tokens
from ..base import Advance, Sampler, Stage, WrappedSampler


class EarlyStopping(WrappedSampler):
    """Stops a sequence when none of its tokens has changed for some steps, and the walk when all sequences have stopped.

    A stopped sequence is taken as it is, and for clean: it stands at the lower end of time and is not asked about. It must have
    left the first time of the grid everywhere, and hold no token that data cannot contain (a mask).

    Under masking a sequence without masks is finished, and nothing is lost. Under other noise it is an approximation: a wrong
    token that was left alone for `patience` steps stays, and `converges` is False. The finer the grid, the larger must
    `patience` be for the same quality.

    **Arguments:**

    - `inner`: the sampler to wrap. Inside `BlockSampler` each block stops by itself; around it, only the last one can.
    - `patience`: steps without a change; at least 1.

    **Raises:** `ValueError` for another patience.

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
        if patience < 1:
            raise ValueError(f"patience must be at least 1; got {patience}")
        self.patience, self.converges = patience, False

    def path(
        self, z: Tokens, times: Grid, *, generator: Randomness = None, advance: Advance | None = None
    ) -> Iterator[list[Stage]]:
        """That of the inner sampler, until all sequences have stopped."""
        advance, first, low = advance or self.stages, times[0], self.process.domain[0]
        quiet = torch.zeros(len(z), dtype=torch.long, device=z.device)
        stopped = torch.zeros(len(z), dtype=torch.bool, device=z.device)
        data = self.process.data_tokens(z.device)

        def onward(z: Tensor, t: Tensor, s: Tensor, *, generator: Randomness = None) -> list[Stage]:
            nonlocal quiet, stopped
            done = _around(advance, stopped, low, z, t, s, generator)
            changed = torch.stack([stage.z != z for stage in done]).any(0).any(-1)
            # Blocks inside know of later tokens only by the times they are told; those outside leave them where they are.
            told = (as_token_times(s, z) < first).all(-1)
            ours = as_token_times(done[-1].time, z) < first
            quiet = torch.where(told & ~changed, quiet + 1, 0)
            stopped = stopped | ((quiet >= self.patience) & (data[done[-1].z] | ~ours).all(-1))
            return done

        over = False
        for stages in self.inner.path(z, times, generator=generator, advance=onward):
            if not over:
                yield stages
            # What is left draws its random numbers and asks nobody: a sequence then leaves its generator as in any batch.
            over = bool(stopped.all())

    def extra_repr(self) -> str:
        """What it is set to."""
        return f"patience={self.patience}"


class EndToken(WrappedSampler):
    """Sequences of varying length: all that follows the first end token is replaced.

    With `BlockSampler` inside, a sequence is finished when its end token is in a finished block: what follows is not walked
    any more, and when all sequences are finished the walk ends. A finished sequence is not asked about
    (a denoiser in `ActiveOnly` then does not evaluate it). The law of what comes before the end is that of the
    inner sampler, and so is the law of the lengths. (Where noise is left at the lower end of time itself, an end token
    may be noise, with that small probability.)

    **Arguments:**

    - `inner`: the sampler to wrap.
    - `token`: the end token; one that data can contain.
    - `fill`: what replaces the tokens after it; by default the end token itself.
    - `prompt`: the number of first tokens that do not count: an end token among them does not end a sequence.

    **Raises:** `ValueError` for tokens outside the vocabulary, an end token that data cannot contain, or a negative prompt.

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

    def __init__(self, inner: Sampler, token: int, *, fill: int | None = None, prompt: int = 0):
        super().__init__(inner)
        fill, vocab_size = token if fill is None else fill, self.process.vocab_size
        if not (0 <= token < vocab_size and 0 <= fill < vocab_size):
            raise ValueError(f"token and fill must lie in [0, {vocab_size}); got {token}, {fill}")
        if not self.process.host_support()[token]:
            raise ValueError(f"the end token must be one that data can contain; got {token}, which only noise is")
        if prompt < 0:
            raise ValueError(f"prompt must not be negative; got {prompt}")
        self.token, self.fill, self.prompt = token, fill, prompt
        self.converges = False

    def path(
        self, z: Tokens, times: Grid, *, generator: Randomness = None, advance: Advance | None = None
    ) -> Iterator[list[Stage]]:
        """That of the inner sampler, until all sequences have ended."""
        advance, length = advance or self.stages, z.shape[1]
        end = torch.full((len(z),), length, device=z.device)  # where a sequence has ended; `length` if it has not

        def onward(z: Tensor, t: Tensor, s: Tensor, *, generator: Randomness = None) -> list[Stage]:
            z, low = self._filled(z, end), self.process.domain[0]
            return _around(advance, end < length, low, z, t, s, generator)

        over = False
        for stages in self.inner.path(z, times, generator=generator, advance=onward):
            end = torch.minimum(end, self._end(stages[-1]))
            if not over:
                yield [stage._replace(z=self._filled(stage.z, end)) for stage in stages]
            over = bool((end < length).all())  # what is left draws its random numbers, as in any batch

    def clean(self, z: Tokens, t: Times, *, generator: Randomness = None) -> Tokens:
        """As the inner sampler does it; then what follows the first end token is replaced."""
        z = self.inner.clean(z, t, generator=generator)
        return self._filled(z, lengths(z, self.token, prompt=self.prompt))

    def _end(self, stage: Stage) -> Tensor:
        """The first end token that is at the lower end of time with all before it; the length where there is none."""
        finished = as_token_times(stage.time, stage.z).expand(stage.z.shape) <= self.process.domain[0]
        finished = finished.long().cumprod(-1).bool()
        return lengths(torch.where(finished, stage.z, -1), self.token, prompt=self.prompt)

    def _filled(self, z: Tensor, end: Tensor) -> Tensor:
        return torch.where(torch.arange(z.shape[1], device=z.device) > end[:, None], self.fill, z)

    def extra_repr(self) -> str:
        """What it is set to."""
        more = f", fill={self.fill}" if self.fill != self.token else ""
        return f"token={self.token}{more}" + (f", prompt={self.prompt}" if self.prompt else "")


def lengths(x: Tokens, token: int, *, prompt: int = 0) -> Int[Tensor, " batch"]:
    """The number of tokens before the first end token; all of them if there is none.

    **Arguments:**

    - `token`: the end token.
    - `prompt`: the number of first tokens among which it does not count as an end.
    """
    end = (x == token) & (torch.arange(x.shape[1], device=x.device) >= prompt)
    return (end.long().cumsum(-1) == 0).sum(-1)


def _around(
    advance: Advance, still: Tensor, low: float, z: Tensor, t: Tensor, s: Tensor, generator: Randomness
) -> list[Stage]:
    """The stages of one step, in which some sequences stand still at the lower end of time."""
    t, s = (torch.where(still if time.dim() == 1 else still[:, None], low, time) for time in (t, s))
    done = advance(z, t, s, generator=generator)
    return [stage._replace(z=torch.where(still[:, None], z, stage.z)) for stage in done]
