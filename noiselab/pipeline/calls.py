"""What `generate`, `infill` and `self_correction` of a diffusion pipeline do: their arguments checked, as a `TextStream`."""

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, Literal

import torch
from jaxtyping import Int
from torch import Tensor

from ..categorical import Randomness
from ..data.texts import text_list
from ..denoisers import ActiveOnly, Denoiser
from ..distributed import Processes
from ..networks.lengths import check_fits, generated_length
from ..numerics import require_count
from ..process import NoiseProcess
from ..samplers import BlockSampler, Sampler
from ..typing import Grid, Selection, Tokens, TokenSet
from .chats import Passage, Prompts, are_chats, chat_of, encode_answered, encode_chats
from .constraining import Constraint, constrained
from .corrections import CorrectionMethod, chosen_rule
from .drawing import CorrectedBatch, SampledBatch, SamplerLike, Truncation, chosen_sampler
from .seeds import text_randomness
from .streaming import Callback, Canvas, TextStream

if TYPE_CHECKING:
    from .base import Pipeline
    from .diffusion import DiffusionPipeline


def generation(
    pipe: "DiffusionPipeline",
    *,
    num_samples: int,
    num_inference_steps: int | None,
    prompts: Prompts | None,
    length: int | Literal["auto"] | None,
    block_length: int | None,
    stop: bool,
    constraint: Constraint | None,
    sampler: SamplerLike | None,
    temperature: float | int | None,
    top_k: int | None,
    top_p: float | int | None,
    min_p: float | int | None,
    as_released: bool,
    callback: Callback | None,
    batch_size: int,
    seed: int | None,
    seeds: Sequence[int] | None,
    generator: Randomness,
    show_progress: bool,
    dtype: torch.dtype | None,
    processes: Processes | None,
) -> TextStream:
    """The stream of `DiffusionPipeline.generate`."""
    starts, ends = beginnings(pipe, prompts, stop or length == "auto")
    if as_released and (
        ends or constraint is not None or block_length is not None or pipe.settings.block_size is not None
    ):
        raise ValueError(
            "as_released generates whole texts as the published package does; conversations, stop, constraint, block_length "
            "and length='auto' must be left out with it"
        )
    if constraint is not None:
        sampler, ends = constrained(pipe, constraint, ends, sampler, block_length)
    length = generated_length(None if length == "auto" else length, pipe.length, pipe.generation.length)
    require_count("num_samples", num_samples)
    require_count("batch_size", batch_size)
    longest = max(map(len, starts))
    if longest > length - are_chats(prompts):
        raise ValueError(f"prompts must fit {length} tokens; got one of {longest} (length= sets their number)")
    starts = [start for start in starts for _ in range(num_samples)]
    given, sizes = padded(starts, padding_of(pipe), length)
    known = torch.arange(length) < sizes[:, None]
    random = text_randomness(generator, seed, seeds, len(given), pipe._whole(processes))
    truncation = Truncation(temperature, top_k, top_p, min_p)
    denoiser = pipe.denoiser
    # A cache evaluates the sequences with active rows alone, by itself.
    if ends and not any(isinstance(part, Denoiser) and part.keeps_keys for part in denoiser.modules()):
        denoiser = ActiveOnly(denoiser)
    chosen = chosen_sampler(pipe.process, denoiser, sampler, truncation, pipe.generation)
    chosen = in_blocks(pipe, chosen, block_length)
    times = chosen.grid(times=times_of(pipe, num_inference_steps, as_released))
    batches = [
        SampledBatch(
            some,
            given[some],
            known[some],
            chosen,
            times,
            clean=not as_released,
            ends=ends,
            generator=random[some] if isinstance(random, Sequence) else random,
        )
        for some in slices(len(given), batch_size)
    ]
    first = sizes if are_chats(prompts) else torch.zeros_like(sizes)
    canvas = Canvas(given, first, torch.full_like(sizes, length), known, pipe.decode, ends=ends, **shown(pipe.process))
    name = "generating" if show_progress else None
    return TextStream(
        batches, canvas, lambda: pipe._computing(dtype), callback=callback, name=name, processes=processes
    )


def infilling(
    pipe: "DiffusionPipeline",
    *,
    texts: Prompts,
    num_inference_steps: int | None,
    sampler: SamplerLike | None,
    temperature: float | int | None,
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
    """The stream of `DiffusionPipeline.infill`."""
    found = passages_with_gaps(pipe, texts)
    given, sizes, own = padded_passages(found, padding_of(pipe))
    known = ~(own & (given == pipe.tokenizer.mask_token_id)) & (torch.arange(given.shape[1]) < sizes[:, None])
    random = text_randomness(generator, seed, seeds, len(given), pipe._whole(processes))
    truncation = Truncation(temperature, top_k, top_p, min_p)
    chosen = in_blocks(pipe, chosen_sampler(pipe.process, pipe.denoiser, sampler, truncation, pipe.generation), None)
    times = chosen.grid(times=times_of(pipe, num_inference_steps, False))
    batches = [
        SampledBatch(
            one,
            given[one, :size],
            known[one, :size],
            chosen,
            times,
            generator=random[one] if isinstance(random, Sequence) else random,
        )
        for one, size in zip(slices(len(given), 1), sizes.tolist(), strict=True)
    ]
    given = torch.where(known, given, padding_of(pipe))
    canvas = Canvas(given, *borders(found), known, pipe.decode, **shown(pipe.process))
    name = "generating" if show_progress else None
    return TextStream(
        batches, canvas, lambda: pipe._computing(dtype), callback=callback, name=name, processes=processes
    )


def correction(
    pipe: "DiffusionPipeline",
    *,
    texts: Prompts,
    num_inference_steps: int,
    temperature: float | int,
    t0: float | int,
    early_stopping: bool,
    early_stopping_patience: int,
    tokens_per_step: int,
    method: CorrectionMethod,
    as_released: bool,
    callback: Callback | None,
    batch_size: int,
    seed: int | None,
    seeds: Sequence[int] | None,
    generator: Randomness,
    show_progress: bool,
    dtype: torch.dtype | None,
    processes: Processes | None,
) -> TextStream:
    """The stream of `DiffusionPipeline.self_correction`."""
    found = passages(pipe, texts, as_released)
    require_count("num_inference_steps", num_inference_steps)
    require_count("batch_size", batch_size)
    tokens, sizes, own = padded_passages(found, padding_of(pipe))
    random = text_randomness(generator, seed, seeds, len(tokens), pipe._whole(processes))
    rule = chosen_rule(
        pipe,
        method,
        t0=t0,
        temperature=temperature,
        tokens_per_step=tokens_per_step,
        early_stopping=early_stopping,
        early_stopping_patience=early_stopping_patience,
        as_released=as_released,
    )
    batches = [
        CorrectedBatch(
            some,
            tokens[some],
            sizes[some],
            rule,
            steps=num_inference_steps,
            time=float(t0),
            stop=early_stopping,
            rows=own[some] if are_chats(texts) else None,
            generator=random[some] if isinstance(random, Sequence) else random,
            device=pipe.device,
        )
        for some in slices(len(tokens), batch_size)
    ]
    settings = shown(pipe.process) | {"span": (pipe.process.domain[0], float(t0))}
    canvas = Canvas(tokens, *borders(found), ~own, pipe.decode, complete=True, **settings)
    name = "correcting" if show_progress else None
    return TextStream(
        batches, canvas, lambda: pipe._computing(dtype), callback=callback, name=name, processes=processes
    )


def in_blocks(pipe: "DiffusionPipeline", sampler: Sampler, block_length: int | None) -> Sampler:
    """A sampler that samples block by block, if `block_length` is given or the model was trained in blocks."""
    own = pipe.settings.block_size
    if block_length is not None:
        require_count("block_length", block_length)
    size = own if block_length is None else block_length
    if size is None or (block_length is None and isinstance(sampler, BlockSampler)):
        return sampler
    return BlockSampler(sampler, size, context="all" if own is None else "past")


def beginnings(pipe: "DiffusionPipeline", prompts: Prompts | None, stop: bool) -> tuple[list[list[int]], list[int]]:
    """The tokens of prompts or conversations, and those that end a text: always for answers, else if it is to `stop`.

    **Raises:** `ValueError` if a prompt is none, or the model cannot generate an end.
    """
    if prompts is not None and are_chats(prompts):
        chat = chat_of(pipe)
        starts, ends = encode_chats(pipe, chat, prompts), sorted(chat.ends)
    else:
        starts = [[]] if prompts is None else pipe.encode(prompts, "prompt")  # type: ignore[arg-type]
        ends = [] if not stop or pipe.tokenizer.eos_token_id is None else [pipe.tokenizer.eos_token_id]
        if not stop:
            return starts, []
    possible = [end for end in ends if end < len(pipe.support) and pipe.support[end]]
    if not possible:
        names = pipe.tokenizer.convert_ids_to_tokens(ends)
        raise ValueError(
            "answers, stop and length='auto' need an end-of-text token that the model generates; the tokenizer has "
            + (f"{names}, outside the support of the noise" if names else "none")
        )
    return starts, possible


def passages(pipe: "DiffusionPipeline", texts: Prompts, as_released: bool) -> list[Passage]:
    """The tokens of texts, or of conversations that end with an answer, that may change."""
    if are_chats(texts):
        if as_released:
            raise ValueError("texts must not be conversations with as_released: the published package knows none")
        return encode_answered(pipe, chat_of(pipe), texts)
    encode = pipe.encode_as_released if as_released else pipe.encode
    return [Passage(ids) for ids in encode(texts)]  # type: ignore[arg-type]


def passages_with_gaps(pipe: "Pipeline", texts: Prompts) -> list[Passage]:
    """The same, with mask tokens where the gaps are.

    **Raises:** `ValueError` if there are no texts, or one has no gap, or is longer than the context.
    """
    mask = pipe.tokenizer.mask_token_id
    if mask is None:
        raise ValueError("the tokenizer must have a mask token, by which a text marks its gaps; got one without")
    if are_chats(texts):
        found = encode_answered(pipe, chat_of(pipe), texts, gaps=True)
    else:
        call: Any = pipe.tokenizer
        plain: list[str] = text_list(texts)  # type: ignore[arg-type]
        found = [Passage(call(text, add_special_tokens=False, verbose=False)["input_ids"]) for text in plain]
    for i, one in enumerate(found):
        check_fits(len(one.whole), pipe.length, f"text {i}")
        if mask not in one.own:
            raise ValueError(f"texts must contain {pipe.tokenizer.mask_token}; text {i} does not")
        if mask in (*one.before, *one.after):
            raise ValueError(
                f"gaps must be in the last answer; conversation {i} has {pipe.tokenizer.mask_token} elsewhere"
            )
    return found


def padded_passages(found: Sequence[Passage], pad: int) -> tuple[Tokens, Int[Tensor, " batch"], Selection]:
    """Passages as one tensor, padded at the end; their numbers of tokens; and the mask of those that may change."""
    tokens, sizes = padded([one.whole for one in found], pad)
    first = torch.tensor([[len(one.before)] for one in found])
    place, last = torch.arange(tokens.shape[1]), first + torch.tensor([[len(one.own)] for one in found])
    return tokens, sizes, (place >= first) & (place < last)


def borders(found: Sequence[Passage]) -> tuple[Int[Tensor, " batch"], Int[Tensor, " batch"]]:
    """Where the texts that are returned begin and end."""
    first = torch.tensor([len(one.before) for one in found])
    return first, first + torch.tensor([len(one.own) + one.kept for one in found])


def times_of(pipe: "DiffusionPipeline", steps: int | None, as_released: bool) -> Grid:
    """The times of this number of steps, by default that of the model; or those of dvruette/gidd."""
    steps = require_count("num_inference_steps", pipe.generation.steps if steps is None else steps)
    if steps < 1 + as_released:
        raise ValueError(
            f"num_inference_steps must be at least {1 + as_released}; got {steps}"
            + (" (with as_released, the last step has no effect)" if as_released else "")
        )
    low, high = pipe.process.domain
    if not as_released:
        return torch.linspace(high, low, steps + 1, dtype=torch.float64)
    margin = float(getattr(getattr(pipe.network, "config", None), "t_eps", 1e-4))
    times = margin + (1 - 2 * margin) * torch.linspace(0, 1, steps + 1, dtype=torch.float64)
    return times[:-1].flip(0)


def padding_of(pipe: "Pipeline") -> int:
    """The token at padding, which is known by its position: any, if the tokenizer has none for it."""
    pad, end = pipe.tokenizer.pad_token_id, pipe.tokenizer.eos_token_id
    return pad if pad is not None else end if end is not None else 0


def padded(ids: Sequence[Sequence[int]], pad: int, length: int | None = None) -> tuple[Tokens, Int[Tensor, " batch"]]:
    """Sequences as one tensor, padded at the end, and their numbers of tokens."""
    sizes = torch.tensor([len(found) for found in ids])
    tokens = torch.full((len(ids), int(sizes.max()) if length is None else length), pad)
    for row, found in enumerate(ids):
        tokens[row, : len(found)] = torch.tensor(found, dtype=torch.long)
    return tokens, sizes


def slices(count: int, size: int) -> list[slice]:
    """The batches of `count` texts."""
    return [slice(first, min(first + size, count)) for first in range(0, count, size)]


def shown(process: NoiseProcess) -> dict[str, Any]:
    """The settings of a `Canvas`: the ends of time, and the tokens that are not noise if noise shows."""
    return {"span": process.domain, "data": tokens_that_are_not_noise(process)}


def tokens_that_are_not_noise(process: NoiseProcess) -> TokenSet | None:
    """The data tokens, if there are other tokens that data become under the noise; else `None`."""
    data = process.host_support()
    others = (~data).nonzero()[:, 0].to(process.device)
    if not len(others):
        return None
    time = torch.full((1,), sum(process.domain) / 2, dtype=torch.float64, device=others.device)
    visible: Selection = process.is_possible(others[None], time)
    return data if bool(visible.any()) else None
