"""Samplers of block-diffusion models, canvas by canvas after a prompt, and batches of texts that they sample."""

from collections.abc import Callable, Generator, Sequence
from functools import partial
from typing import TYPE_CHECKING, Any, TypeAlias

import torch
from jaxtyping import Int
from torch import Tensor

from ..categorical import Randomness
from ..denoisers import Denoiser
from ..networks.canvas import CanvasDenoiser
from ..process import NoiseProcess, as_token_times
from ..samplers import BlockSampler, EndToken, Infilling, Prompted, RenoisingSampler, Sampler
from ..schedules import ScheduleLike
from ..typing import Grid, Times, Tokens
from .drawing import SamplerLike, Truncation, chosen_sampler

if TYPE_CHECKING:
    from .canvas import CanvasPipeline

SamplerOf: TypeAlias = Callable[[NoiseProcess, Denoiser], Sampler]
"""Builds the sampler of one canvas from the process and a denoiser."""


def canvas_sampler(
    pipe: "CanvasPipeline",
    sampler: SamplerLike | None,
    temperature: "ScheduleLike | None",
    top_k: int | None,
    top_p: float | int | None,
    min_p: float | int | None,
) -> SamplerOf:
    """What builds the requested sampler of one canvas, by default the published one; it is built once to check it.

    **Raises:** `ValueError` if `sampler` builds no sampler, or is one.
    """
    if isinstance(sampler, Sampler):
        raise ValueError(
            "sampler must be a class of samplers, or a function of process and denoiser that builds one, because the denoiser "
            f"depends on the length of the prompt; got a {type(sampler).__name__}: pass its class"
        )
    if sampler is None:
        own = pipe.canvas
        made: SamplerLike = partial(
            RenoisingSampler,
            bound=own.bound,
            temperature=own.temperature if temperature is None else temperature,
            stability=own.stability,
            confidence=own.confidence,
        )
        asked = Truncation(1, top_k, top_p, min_p)
    else:
        made, asked = sampler, Truncation(temperature, top_k, top_p, min_p)  # type: ignore[arg-type]

    def build(process: NoiseProcess, denoiser: Denoiser) -> Sampler:
        return chosen_sampler(process, denoiser, made, asked, pipe.generation)

    build(pipe.process, pipe.denoiser_after(0))
    return build


def canvas_chain(
    pipe: "CanvasPipeline", build: SamplerOf, prompt: Int[Tensor, "batch prompt"], ends: Sequence[int], pad: int
) -> Sampler:
    """The sampler of texts: one canvas after another after the prompts, until the texts end.

    **Arguments:**

    - `build`: builds the sampler of one canvas.
    - `prompt`: prompts of one length, which may be 0.
    - `ends`: the tokens that end a text; none if it does not stop.
    - `pad`: the token after the end of a text while others continue, as published.
    """
    given = prompt.shape[1]
    chain: Sampler = BlockSampler(
        build(pipe.process, pipe.denoiser_after(given)), pipe.canvas_length, given=given, context="past"
    )
    if ends:
        chain = EndToken(chain, ends, fill=pad, prompt=given)
    return Prompted(chain, prompt) if given else chain


class CanvasBatch:
    """Texts with prompts of one length that are sampled canvas by canvas, as `TextStream` runs them.

    **Arguments:**

    - `texts`: the numbers of the texts.
    - `sampler`: their sampler, around a `BlockSampler`.
    - `length`: their number of tokens, with the prompt.
    - `times`: the times of each canvas.
    - `whole`: whether texts that are ended early have all of their length; otherwise they end after the canvas in progress.
    """

    def __init__(
        self,
        texts: Int[Tensor, " some"],
        sampler: Sampler,
        length: int,
        times: Grid,
        *,
        whole: bool = False,
        generator: Randomness = None,
    ):
        self.texts, self.sampler, self.times, self.generator = texts, sampler, times, generator
        self.shape, self.whole = (len(texts), length), whole
        blocks: Any = sampler
        while not isinstance(blocks, BlockSampler):
            blocks = blocks.inner
        self.blocks = blocks
        self.steps = sampler.count_steps(torch.zeros(self.shape, dtype=torch.long), times)
        self.best: Tokens | None = None

    def walk(self) -> Generator[tuple[Tokens, Times], None, None]:
        """The tokens after each step, and their times."""
        z = self.sampler.start(*self.shape, generator=self.generator, device=self.sampler.device)
        try:
            for stages in self.sampler.path(z, self.times.to(z.device), generator=self.generator):
                self.best = stages[-1].best
                yield stages[-1].z, stages[-1].time
        finally:
            # The keys and values of one batch must not remain while others are sampled.
            for part in self.sampler.denoiser.modules():
                if isinstance(part, CanvasDenoiser):
                    part.reset()

    def end(self, z: Tokens) -> Tokens:
        """The finished texts after the last step."""
        return self.sampler.clean(z, self.times[-1].to(z.device).expand(len(z)), generator=self.generator)

    def interrupt(self, z: Tokens, time: Times) -> Int[Tensor, "batch begun"]:
        """Finished texts after any step. The canvas in progress has the most probable tokens of the step, if the sampler has
        them, as published; otherwise it is finished in one jump to clean tokens, and so is each of `whole` texts after it.
        """
        time = as_token_times(time, z).expand(z.shape)
        begun = (time < self.times[0].to(time)).any(0).nonzero()[:, 0]
        width, size = int(begun[-1]) + 1, self.blocks.block_size
        if self.best is not None and self.best.shape[1] == width:
            done = self.best
        else:
            done = self.blocks.inner.clean(z[:, :width], time[:, :width], generator=self.generator)
        (low, high), end = self.sampler.process.domain, z.shape[1] if self.whole else width
        for start in range(width, end, size):
            done = torch.cat([done, z[:, start : start + size]], 1)
            time = torch.where(torch.arange(done.shape[1], device=z.device) < start, low, high)
            done = self.blocks.inner.clean(done, time.double().expand(done.shape), generator=self.generator)
        return self.sampler.put(done) if isinstance(self.sampler, Infilling) else done
