"""Token-level operations of a diffusion pipeline: choosing a sampler, sampling and correcting in batches."""

from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import NamedTuple, TypeAlias

import torch
from jaxtyping import Int
from torch import Tensor
from tqdm.auto import tqdm

from ..categorical import Randomness
from ..correctors import SelfCorrection
from ..denoisers import Denoiser, MinP, Temperature, TopK, TopP, attending_to, takes_mask
from ..process import NoiseProcess
from ..samplers import AncestralSampler, Infilling, Sampler
from ..typing import Grid, Selection, Tokens
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
    made = (sampler or AncestralSampler)(process, denoiser)
    if not isinstance(made, Sampler):
        raise ValueError(f"sampler must build a noiselab.Sampler; got {type(made).__name__}")
    return made


def draw(
    tokens: Tokens,
    known: Selection,
    sampler: Sampler,
    times: Grid,
    *,
    batch_size: int = 16,
    clean: bool = True,
    generator: Randomness = None,
    show_progress: bool = False,
) -> Tokens:
    """Sample sequences given their known tokens, in batches; the result is on the CPU.

    **Arguments:**

    - `tokens`, `known`: the known tokens, and the mask of their positions.
    - `times`: decreasing times; sampling starts from pure noise even if the first is below the upper end.
    - `clean`: whether to remove the noise that remains at the last time.
    """
    parts, batches, grid = [], -(-len(tokens) // batch_size), sampler.grid(times=times)
    with tqdm(total=batches * (len(times) - 1), desc="generating", disable=not show_progress) as bar:
        for first in range(0, len(tokens), batch_size):
            some, where = (x[first : first + batch_size].to(sampler.device) for x in (tokens, known))
            random = generator[first : first + batch_size] if isinstance(generator, Sequence) else generator
            # The networks of pipelines are trained with one time per sequence.
            around = Infilling(sampler, some, where, times="sequence") if where.any() else sampler
            z = around.start(*some.shape, generator=random, device=sampler.device)
            done = 0
            for state in around.walk(z, grid, generator=random):
                z, done = state, done + 1
                bar.update(1)
            bar.update(len(times) - 1 - done)  # some end early
            if clean:
                z = around.clean(z, grid[-1].to(z.device).expand(len(z)), generator=random)
            parts.append(z.cpu())
    return torch.cat(parts)


def correct(
    correction: SelfCorrection,
    tokens: Tokens,
    lengths: Int[Tensor, " batch"],
    *,
    steps: int,
    stop: bool = True,
    batch_size: int = 16,
    generator: Randomness = None,
    show_progress: bool = False,
    device: torch.device | str | None = None,
) -> Tokens:
    """Apply self-correction to sequences in batches; the result is on the CPU.

    **Arguments:**

    - `tokens`: the sequences, padded at the end. Padding is not attended to and does not change.
    - `lengths`: the number of real tokens of each sequence.
    - `steps`: the maximum number of steps, or without `stop` the exact number.

    **Raises:** `ValueError` if sequences in one batch differ in length and the denoiser takes no attention mask.
    """
    corrected = tokens.clone()
    with tqdm(total=len(tokens) * steps, desc="correcting", disable=not show_progress) as bar:
        for first in range(0, len(tokens), batch_size):
            some = slice(first, first + batch_size)
            width, shortest = int(lengths[some].max()), int(lengths[some].min())
            z = tokens[some, :width].to(device)
            real = None if shortest == width else (torch.arange(width) < lengths[some, None]).to(z.device)
            if real is not None and not takes_mask(correction.denoiser):
                raise ValueError(
                    "texts of different lengths are padded, which needs a network that accepts attention_mask; correct them "
                    f"one by one (batch_size=1); got {shortest} to {width} tokens"
                )
            random = generator[some] if isinstance(generator, Sequence) else generator
            size, done = len(z), 0
            with attending_to(correction.denoiser, real):
                for state in correction.walk(z, steps=steps, rows=real, generator=random, stop=stop):
                    z, done = state, done + 1
                    bar.update(size)
            bar.update(size * (steps - done))
            corrected[some, :width] = z.cpu()
    return corrected
