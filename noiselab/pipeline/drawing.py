"""Token-level operations of a diffusion pipeline: choosing a sampler, sampling and correcting batches of texts."""

import contextlib
from collections.abc import Callable, Generator, Sequence
from dataclasses import replace
from typing import NamedTuple, TypeAlias

import torch
from jaxtyping import Int
from torch import Tensor

from ..categorical import Randomness
from ..denoisers import Denoiser, MinP, Temperature, TopK, TopP, attending_to, takes_mask
from ..process import NoiseProcess
from ..samplers import AncestralSampler, EndToken, Infilling, Sampler
from ..typing import Grid, Selection, Times, Tokens
from .corrections import Correcting, network_of, states_of
from .settings import GenerationSettings

SamplerLike: TypeAlias = Sampler | Callable[[NoiseProcess, Denoiser], Sampler]
"""A sampler, or a function or class that builds one from a process and a denoiser."""


class Truncation(NamedTuple):
    """Temperature and truncation given in a call; `None` where the default applies."""

    temperature: float | int | None = None
    top_k: int | None = None
    top_p: float | int | None = None
    min_p: float | int | None = None

    def over(self, defaults: GenerationSettings) -> GenerationSettings:
        """The defaults with the given ones in their place, checked."""
        return replace(defaults, **{name: value for name, value in self._asdict().items() if value is not None})


def chosen_sampler(
    process: NoiseProcess,
    denoiser: Denoiser,
    sampler: SamplerLike | None,
    asked: Truncation,
    defaults: GenerationSettings,
) -> Sampler:
    """Return the requested sampler, by default ancestral, with the requested truncation of predictions.

    **Raises:** `ValueError` if `sampler` does not build a sampler, or truncation is combined with a sampler instance.
    """
    if isinstance(sampler, Sampler):
        if any(value is not None for value in asked):
            raise ValueError(
                "temperature, top_k, top_p and min_p must be None with a sampler instance, whose denoiser is fixed; pass the "
                "class of the sampler, or wrap its denoiser in noiselab.Temperature, ..."
            )
        return sampler
    if sampler is not None and not callable(sampler):
        raise ValueError(f"sampler must be a noiselab.Sampler, or build one from process and denoiser; got {sampler!r}")
    chosen = asked.over(defaults)
    if chosen.temperature != 1:
        denoiser = Temperature(denoiser, chosen.temperature)
    if chosen.top_k is not None:
        denoiser = TopK(denoiser, chosen.top_k)
    if chosen.top_p is not None:
        denoiser = TopP(denoiser, chosen.top_p)
    if chosen.min_p is not None:
        denoiser = MinP(denoiser, chosen.min_p)
    try:
        made = (sampler or AncestralSampler)(process, denoiser)
    except TypeError as error:
        raise ValueError(
            f"sampler must build a noiselab.Sampler from process and denoiser; {sampler!r}: {error}"
        ) from error
    if not isinstance(made, Sampler):
        raise ValueError(f"sampler must build a noiselab.Sampler; got {type(made).__name__}")
    return made


class SampledBatch:
    """A batch of texts that is sampled given its known tokens, as `TextStream` runs it.

    **Arguments:**

    - `texts`: the indices of the texts.
    - `tokens`, `known`: the known tokens, and the mask of their positions.
    - `times`: decreasing times; sampling starts from pure noise even if the first is below the upper end.
    - `clean`: whether to remove the noise that remains at the last time.
    - `ends`: the tokens that end a text after its known beginning, after which it is not sampled; none by default.
    """

    def __init__(
        self,
        texts: slice,
        tokens: Tokens,
        known: Selection,
        sampler: Sampler,
        times: Grid,
        *,
        clean: bool = True,
        ends: Sequence[int] = (),
        generator: Randomness = None,
    ):
        self.texts, self.clean, self.generator = texts, clean, generator
        tokens, known = tokens.to(sampler.device), known.to(sampler.device)
        # The networks of pipelines are trained with one time per sequence.
        self.given = Infilling(sampler, tokens, known, times="sequence") if known.any() else None
        self.sampler = sampler if self.given is None else self.given
        if ends:
            self.sampler = EndToken(self.sampler, ends, prompt=known.long().cumprod(-1).sum(-1))
        self.shape, self.times = tokens.shape, times
        self.steps = self.sampler.count_steps(tokens, times)

    def walk(self) -> Generator[tuple[Tokens, Times], None, None]:
        """The tokens after each step, and their times."""
        z = self.sampler.start(*self.shape, generator=self.generator, device=self.sampler.device)
        for stages in self.sampler.path(z, self.times.to(z.device), generator=self.generator):
            yield stages[-1].z, stages[-1].time

    def end(self, z: Tokens) -> Tokens:
        """The finished texts after the last step."""
        if not self.clean:
            return z
        return self.sampler.clean(z, self.times[-1].to(z.device).expand(len(z)), generator=self.generator)

    def interrupt(self, z: Tokens, time: Times) -> Tokens:
        """Finished texts after any step, by one jump to clean tokens from the time of each token."""
        if self.sampler.needs_whole:
            return self.sampler.clean(z, time, generator=self.generator)
        # Not that of a `BlockSampler`, for which only the last block is not at the lower end of time.
        z = Sampler.clean(self.sampler, z, time, generator=self.generator)
        return z if self.given is None else self.given.put(z)


class CorrectedBatch:
    """A batch of texts to which self-correction is applied, as `TextStream` runs it.

    **Arguments:**

    - `texts`: the indices of the texts.
    - `tokens`: the sequences, padded at the end. Padding is not attended to and does not change.
    - `lengths`: the number of real tokens of each sequence.
    - `correction`: the rule.
    - `steps`: the maximum number of steps, or without `stop` the exact number.
    - `time`: the time at which the network is evaluated.
    - `rows`: the tokens that may change; by default all real ones.

    **Raises:** `ValueError` if the sequences differ in length and the denoiser takes no attention mask.
    """

    def __init__(
        self,
        texts: slice,
        tokens: Tokens,
        lengths: Int[Tensor, " batch"],
        correction: Correcting,
        *,
        steps: int,
        time: float,
        stop: bool = True,
        rows: Selection | None = None,
        generator: Randomness = None,
        device: torch.device | str | None = None,
    ):
        width, shortest = int(lengths.max()), int(lengths.min())
        denoiser = network_of(correction)
        if shortest < width and (denoiser is None or not takes_mask(denoiser)):
            raise ValueError(
                "texts of different lengths are padded, which needs a network that accepts attention_mask; correct them "
                f"one by one (batch_size=1); got {shortest} to {width} tokens"
            )
        self.texts, self.correction, self.steps, self.stop, self.generator = texts, correction, steps, stop, generator
        self.denoiser, self.time = denoiser, time
        self.tokens = tokens[:, :width].to(device)
        self.real = None if shortest == width else (torch.arange(width) < lengths[:, None]).to(device)
        self.rows = self.real if rows is None else rows[:, :width].to(device)

    def walk(self) -> Generator[tuple[Tokens, Times], None, None]:
        """The tokens after each step, and the time of the correction."""
        z, time = self.tokens, torch.full((len(self.tokens),), self.time, dtype=torch.float64)
        walk = states_of(self.correction, z, steps=self.steps, stop=self.stop, rows=self.rows, generator=self.generator)
        while True:
            # Entered at each step, so that nothing is left if the caller goes no further.
            with contextlib.nullcontext() if self.denoiser is None else attending_to(self.denoiser, self.real):
                found = next(walk, None)
            if found is None:
                return
            yield found, time

    def end(self, z: Tokens) -> Tokens:
        """The texts as they are: each state is complete."""
        return z

    def interrupt(self, z: Tokens, time: Times) -> Tokens:
        """The texts as they are."""
        return z
