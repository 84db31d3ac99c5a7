"""Changes of existing texts by a block-diffusion model, canvas by canvas: gaps filled, tokens corrected, as a `TextStream`."""

from collections.abc import Generator, Sequence
from typing import TYPE_CHECKING, Any

import torch
from jaxtyping import Int
from torch import Tensor

from ..categorical import Randomness
from ..correctors import SelfCorrection
from ..data.rows import group_equal
from ..distributed import Processes
from ..networks.canvas import CanvasDenoiser
from ..networks.lengths import check_fits
from ..numerics import require_count
from ..samplers import BlockSampler, Infilling
from ..schedules import ScheduleLike
from ..typing import Times, Tokens
from .calls import padded_passages, padding_of, passages_with_gaps, shown
from .canvas_calls import canvas_times, of_texts
from .canvas_drawing import CanvasBatch, canvas_sampler
from .chats import Passage, Prompts, are_chats, chat_of, encode_answered
from .drawing import SamplerLike
from .seeds import text_randomness
from .streaming import Callback, Canvas, TextStream

if TYPE_CHECKING:
    from .canvas import CanvasPipeline

TOGETHER = 16
"""The number of texts that are filled at once."""


def infilling(
    pipe: "CanvasPipeline",
    *,
    texts: Prompts,
    num_inference_steps: int | None,
    sampler: SamplerLike | None,
    temperature: "ScheduleLike | None",
    top_k: int | None,
    top_p: float | int | None,
    min_p: float | int | None,
    callback: Callback | None,
    seed: int | None,
    seeds: Sequence[int] | None,
    generator: Randomness,
    show_progress: bool,
    dtype: torch.dtype | None,
    processes: Processes | None,
) -> TextStream:
    """The stream of `CanvasPipeline.infill`."""
    found = opened_passages(pipe, passages_with_gaps(pipe, texts), texts)
    given, sizes, own = padded_passages(found, padding_of(pipe))
    known = ~(own & (given == pipe.tokenizer.mask_token_id)) & (torch.arange(given.shape[1]) < sizes[:, None])
    first_gap = known.long().cumprod(-1).sum(-1)
    random = text_randomness(generator, seed, seeds, len(given), pipe._whole(processes))
    build = canvas_sampler(pipe, sampler, temperature, top_k, top_p, min_p)
    times, batches = canvas_times(pipe, num_inference_steps), []
    for some in group_equal([*zip(first_gap.tolist(), sizes.tolist(), strict=True)], TOGETHER):
        index, start, size = torch.tensor(some), int(first_gap[some[0]]), int(sizes[some[0]])
        steps = build(pipe.process, pipe.denoiser_after(start))
        blocks = BlockSampler(steps, pipe.canvas_length, given=start, context="past")
        tokens, there = (part[index, :size].to(pipe.device) for part in (given, known))
        chain = Infilling(blocks, tokens, there)
        batches.append(CanvasBatch(index, chain, size, times, whole=True, generator=of_texts(random, index)))
    given = torch.where(known, given, padding_of(pipe))
    canvas = Canvas(given, *borders(found, texts), known, pipe.decode, **shown(pipe.process))
    name = "generating" if show_progress else None
    return TextStream(
        batches, canvas, lambda: pipe._computing(dtype), callback=callback, name=name, processes=processes
    )


def correction(
    pipe: "CanvasPipeline",
    *,
    texts: Prompts,
    num_inference_steps: int,
    temperature: float | int,
    early_stopping: bool,
    early_stopping_patience: int,
    tokens_per_step: int,
    callback: Callback | None,
    batch_size: int,
    seed: int | None,
    seeds: Sequence[int] | None,
    generator: Randomness,
    show_progress: bool,
    dtype: torch.dtype | None,
    processes: Processes | None,
) -> TextStream:
    """The stream of `CanvasPipeline.self_correction`."""
    if are_chats(texts):
        found = encode_answered(pipe, chat_of(pipe), texts)
    else:
        found = [Passage(ids) for ids in pipe.encode(texts)]  # type: ignore[arg-type]
    found = opened_passages(pipe, found, texts)
    require_count("num_inference_steps", num_inference_steps)
    require_count("batch_size", batch_size)
    tokens, _, own = padded_passages(found, padding_of(pipe))
    random = text_randomness(generator, seed, seeds, len(tokens), pipe._whole(processes))
    batches = []
    for some in group_equal([(len(one.before), len(one.own), len(one.whole)) for one in found], batch_size):
        index, one = torch.tensor(some), found[some[0]]
        corrector = SelfCorrection(
            pipe.denoiser_after(len(one.before)),
            temperature=temperature,
            tokens_per_step=tokens_per_step,
            patience=early_stopping_patience,
            process=pipe.process,
            support=pipe.support,
        )
        batches.append(
            CorrectedCanvases(
                index,
                tokens[index, : len(one.whole)].to(pipe.device),
                corrector,
                span=(len(one.before), len(one.before) + len(one.own)),
                size=pipe.canvas_length,
                steps=num_inference_steps,
                stop=early_stopping,
                generator=of_texts(random, index),
            )
        )
    settings = shown(pipe.process) | {"span": (pipe.process.domain[0], batches[0].correction.time)}
    canvas = Canvas(tokens, *borders(found, texts), ~own, pipe.decode, complete=True, **settings)
    name = "correcting" if show_progress else None
    return TextStream(
        batches, canvas, lambda: pipe._computing(dtype), callback=callback, name=name, processes=processes
    )


class CorrectedCanvases:
    """Texts of one length that are corrected canvas by canvas, each given the corrected ones before it.

    **Arguments:**

    - `texts`: the numbers of the texts.
    - `tokens`: their tokens.
    - `correction`: the corrector of one canvas.
    - `span`: where the tokens that may change begin and end.
    - `size`: the number of tokens in a canvas.
    - `steps`: the maximum number of steps for each canvas, or without `stop` the exact number.
    """

    def __init__(
        self,
        texts: Int[Tensor, " some"],
        tokens: Tokens,
        correction: SelfCorrection,
        *,
        span: tuple[int, int],
        size: int,
        steps: int,
        stop: bool,
        generator: Randomness = None,
    ):
        self.texts, self.tokens, self.correction, self.span, self.size = texts, tokens, correction, span, size
        self.each, self.stop, self.generator = steps, stop, generator
        self.steps = steps * len(range(*span, size))

    def walk(self) -> Generator[tuple[Tokens, Times], None, None]:
        """The tokens after each step, and the time of the correction."""
        z, (first, last) = self.tokens, self.span
        time = torch.full((len(z),), self.correction.time, dtype=torch.float64)
        place = torch.arange(z.shape[1], device=z.device)
        try:
            for start in range(first, last, self.size):
                end = min(start + self.size, z.shape[1])
                rows: Any = ((place >= start) & (place < min(start + self.size, last)))[:end].expand(len(z), end)
                rest = z[:, end:]
                for state in self.correction.walk(
                    z[:, :end], rows=rows, steps=self.each, stop=self.stop, generator=self.generator
                ):
                    z = torch.cat([state, rest], 1)
                    yield z, time
        finally:
            for part in self.correction.denoiser.modules():
                if isinstance(part, CanvasDenoiser):
                    part.reset()

    def end(self, z: Tokens) -> Tokens:
        """The texts as they are: each state is complete."""
        return z

    def interrupt(self, z: Tokens, time: Times) -> Tokens:
        """The texts as they are."""
        return z


def opened_passages(pipe: "CanvasPipeline", found: Sequence[Passage], texts: Prompts) -> list[Passage]:
    """Passages of texts after the tokens that the tokenizer puts before each text; those of conversations have them."""
    if are_chats(texts):
        return list(found)
    made, opening = [], pipe.opening
    for i, one in enumerate(found):
        has = bool(opening) and one.own[: len(opening)] == opening
        made.append(one._replace(own=one.own[len(opening) :] if has else one.own, before=opening))
        check_fits(len(made[-1].whole), pipe.length, f"text {i}")
        if not made[-1].own:
            raise ValueError(f"texts must have tokens after the beginning of text; text {i} has none")
    return made


def borders(found: Sequence[Passage], texts: Prompts) -> tuple[Int[Tensor, " batch"], Int[Tensor, " batch"]]:
    """Where the texts that are returned begin and end: answers alone, or whole texts."""
    first = torch.tensor([len(one.before) for one in found])
    last = first + torch.tensor([len(one.own) + one.kept for one in found])
    return first if are_chats(texts) else torch.zeros_like(first), last
