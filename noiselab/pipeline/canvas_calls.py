"""What the methods of a block-diffusion pipeline do: their arguments checked, as a `TextStream`."""

from collections.abc import Sequence
from typing import TYPE_CHECKING, Literal

import torch
from jaxtyping import Int
from torch import Tensor

from ..categorical import Randomness
from ..data.rows import group_equal
from ..distributed import Processes
from ..networks.lengths import check_fits
from ..numerics import require_count
from ..schedules import ScheduleLike
from ..typing import Grid
from .calls import padded, padding_of, shown
from .canvas_drawing import CanvasBatch, canvas_chain, canvas_sampler
from .chats import Prompts, are_chats, chat_of, encode_answered, encode_chats
from .constraining import Constraint, refuse_constraint
from .drawing import SamplerLike
from .seeds import text_randomness
from .streaming import Callback, Canvas, TextStream

if TYPE_CHECKING:
    from .canvas import CanvasPipeline


def generation(
    pipe: "CanvasPipeline",
    *,
    num_samples: int,
    num_inference_steps: int | None,
    prompts: Prompts | None,
    length: int | Literal["auto"] | None,
    stop: bool,
    constraint: Constraint | None,
    sampler: SamplerLike | None,
    temperature: "ScheduleLike | None",
    top_k: int | None,
    top_p: float | int | None,
    min_p: float | int | None,
    callback: Callback | None,
    batch_size: int,
    seed: int | None,
    seeds: Sequence[int] | None,
    generator: Randomness,
    show_progress: bool,
    dtype: torch.dtype | None,
    processes: Processes | None,
) -> TextStream:
    """The stream of `CanvasPipeline.generate`."""
    refuse_constraint(constraint)
    starts, ends = beginnings(pipe, prompts, stop or length == "auto")
    require_count("num_samples", num_samples)
    require_count("batch_size", batch_size)
    new = [new_tokens(pipe, length, len(start), f"prompt {i}") for i, start in enumerate(starts)]
    starts, new = ([one for one in each for _ in range(num_samples)] for each in (starts, new))  # type: ignore[assignment]
    build = canvas_sampler(pipe, sampler, temperature, top_k, top_p, min_p)
    pad, times = padding_of(pipe), canvas_times(pipe, num_inference_steps)
    wholes = torch.tensor([len(start) + more for start, more in zip(starts, new, strict=True)])
    given, sizes = padded(starts, pad, int(wholes.max()))
    random = text_randomness(generator, seed, seeds, len(given), pipe._whole(processes))
    batches = [
        CanvasBatch(
            texts,
            canvas_chain(pipe, build, given[texts, : int(sizes[texts[0]])].to(pipe.device), ends, pad),
            int(wholes[texts[0]]),
            times,
            generator=of_texts(random, texts),
        )
        for texts in map(torch.tensor, group_equal([*zip(sizes.tolist(), wholes.tolist(), strict=True)], batch_size))
    ]
    known = torch.arange(given.shape[1]) < sizes[:, None]
    first = sizes if are_chats(prompts) else torch.zeros_like(sizes)
    canvas = Canvas(given, first, wholes, known, pipe.decode, ends=ends, **shown(pipe.process))
    name = "generating" if show_progress else None
    return TextStream(
        batches, canvas, lambda: pipe._computing(dtype), callback=callback, name=name, processes=processes
    )


def beginnings(pipe: "CanvasPipeline", prompts: Prompts | None, stop: bool) -> tuple[list[list[int]], list[int]]:
    """The tokens of prompts or conversations, and those that end a text: always for answers, else if it is to `stop`.

    **Raises:** `ValueError` if a prompt is none, or the model cannot generate an end.
    """
    ends = set(pipe.ends)
    if prompts is not None and are_chats(prompts):
        chat = chat_of(pipe)
        starts, stop = encode_chats(pipe, chat, prompts), True
        ends |= chat.ends
    elif prompts is None:
        starts = [list(pipe.opening)]
    else:
        starts = [pipe.opened(ids, f"prompt {i}") for i, ids in enumerate(pipe.encode(prompts, "prompt"))]  # type: ignore[arg-type]
    if not stop:
        return starts, []
    possible = sorted(end for end in ends if end < len(pipe.support) and pipe.support[end])
    if not possible:
        names = pipe.tokenizer.convert_ids_to_tokens(sorted(ends))
        raise ValueError(
            "texts end at an end-of-text token that the model generates; the tokenizer has "
            + (f"{names}, outside of those the model generates" if names else "none")
            + ": pass stop=False for texts of the whole length"
        )
    return starts, possible


def scored(
    pipe: "CanvasPipeline", texts: Prompts, prompts: Sequence[str] | None = None
) -> tuple[list[list[int]], list[int]]:
    """The tokens of texts after their prompts, or of conversations up to the end of their answers; and what is not scored.

    **Raises:** `ValueError` as `CanvasPipeline.bound`.
    """
    if are_chats(texts):
        if prompts is not None:
            raise ValueError("prompts must be None with conversations, which contain them; got some")
        chat = chat_of(pipe)
        found = encode_answered(pipe, chat, texts)
        ends = {*chat.ends, *pipe.ends}
        rows = [[*one.before, *one.own, *(end for end in one.after[:1] if end in ends)] for one in found]
        return rows, [len(one.before) for one in found]
    own = pipe.encode(texts)  # type: ignore[arg-type]
    before = [[] for _ in own] if prompts is None else pipe.encode(prompts, "prompt")
    if len(before) != len(own):
        raise ValueError(f"prompts must be one for each of {len(own)} texts; got {len(before)}")
    starts = [pipe.opened(ids, f"prompt {i}") for i, ids in enumerate(before)]
    for i, (start, ids) in enumerate(zip(starts, own, strict=True)):
        check_fits(len(start) + len(ids), pipe.length, f"text {i}")
    return [[*start, *ids] for start, ids in zip(starts, own, strict=True)], [len(start) for start in starts]


def new_tokens(pipe: "CanvasPipeline", length: int | Literal["auto"] | None, given: int, what: str) -> int:
    """The number of tokens after a prompt of `given` tokens: whole canvases.

    **Raises:** `ValueError` if they do not fit into the context after it.
    """
    size, limit = pipe.canvas_length, pipe.length
    room = None if limit is None else (limit - given) // size * size
    if room is not None and room < size:
        raise ValueError(
            f"a prompt and one canvas of {size} tokens must fit the context of {limit} tokens; {what} has {given} tokens"
        )
    if length is None or length == "auto":
        wanted = -(-pipe.canvas.length // size) * size
        return wanted if room is None else min(wanted, room)
    wanted = -(-require_count("length", length) // size) * size
    if room is not None:
        check_fits(
            given + wanted,
            limit,
            f"{what} of {given} tokens and length={length}, which is {wanted // size} canvases of {size} tokens,",
            f"at most {room} tokens fit after it",
        )
    return wanted


def canvas_times(pipe: "CanvasPipeline", steps: int | None) -> Grid:
    """The times of the steps of each canvas, by default the number of the model."""
    steps = require_count("num_inference_steps", pipe.generation.steps if steps is None else steps)
    low, high = pipe.process.domain
    return torch.linspace(high, low, steps + 1, dtype=torch.float64)


def of_texts(random: Randomness, texts: Int[Tensor, " some"]) -> Randomness:
    """The randomness of some texts."""
    return [random[i] for i in texts.tolist()] if isinstance(random, Sequence) else random
