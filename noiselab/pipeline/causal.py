"""Autoregressive models as a pipeline."""

from collections.abc import Sequence
from typing import ClassVar, Literal

import torch

from ..categorical import Randomness
from ..distributed import Processes
from ..networks.lengths import generated_length
from ..numerics import require_count
from .arguments import arguments_of
from .base import Pipeline
from .calls import padded, slices
from .chats import Prompts, are_chats, chat_of, encode_chats
from .constraining import Constraint, refuse_constraint
from .continuation import ContinuedBatch
from .drawing import Truncation
from .seeds import text_randomness
from .streaming import Callback, Canvas, Streaming, TextStream


def _generation(
    pipe: "AutoregressivePipeline",
    *,
    num_samples: int,
    prompts: Prompts | None,
    length: int | Literal["auto"] | None,
    temperature: float | int | None,
    top_k: int | None,
    top_p: float | int | None,
    min_p: float | int | None,
    stop: bool,
    constraint: Constraint | None,
    callback: Callback | None,
    batch_size: int | None,
    seed: int | None,
    seeds: Sequence[int] | None,
    generator: Randomness,
    dtype: torch.dtype | None,
    processes: Processes | None,
) -> TextStream:
    """The stream of `AutoregressivePipeline.generate`."""
    refuse_constraint(constraint)
    starts, ends = _beginnings(pipe, prompts, stop or length == "auto")
    longest = generated_length(None if length == "auto" else length, pipe.length, pipe.generation.length)
    require_count("num_samples", num_samples)
    if max(map(len, starts)) >= longest + (prompts is None):
        raise ValueError(f"prompts must be shorter than {longest} tokens; got one of {max(map(len, starts))}")
    chosen = Truncation(temperature, top_k, top_p, min_p).over(pipe.generation)
    random = text_randomness(generator, seed, seeds, num_samples * len(starts), pipe._whole(processes))
    batches = [
        ContinuedBatch(
            (some := slice(row * num_samples + part.start, row * num_samples + part.stop)),
            start,
            pipe.network,
            length=longest,
            ends=ends,
            pad=pipe.tokenizer.pad_token_id,
            chosen=chosen,
            computing=lambda: pipe._computing(dtype),
            generator=random[some] if isinstance(random, Sequence) else random,
        )
        for row, start in enumerate(starts)
        for part in slices(num_samples, num_samples if batch_size is None else require_count("batch_size", batch_size))
    ]
    special = (pipe.tokenizer.pad_token_id, pipe.tokenizer.eos_token_id, 0)
    pad = next(token for token in special if token is not None)
    given, sizes = padded([start for start in starts for _ in range(num_samples)], pad, longest)
    canvas = Canvas(
        given,
        sizes if are_chats(prompts) else torch.zeros_like(sizes),
        torch.full_like(sizes, longest),
        torch.arange(longest) < sizes[:, None],
        pipe.decode,
        data="written",
        ends=ends,
    )
    return TextStream(batches, canvas, lambda: pipe._computing(dtype), callback=callback, processes=processes)


def _beginnings(
    pipe: "AutoregressivePipeline", prompts: Prompts | None, stop: bool
) -> tuple[list[list[int]], list[int]]:
    """The tokens of prompts or conversations, and those that end a text: always for answers, else if it is to `stop`."""
    begin, end = pipe.tokenizer.bos_token_id, pipe.tokenizer.eos_token_id
    begin = end if begin is None else begin
    ends = [end] if stop and end is not None else []
    if prompts is None:
        if begin is None:
            raise ValueError("prompts must be given if the tokenizer has no token that starts or ends a text; got none")
        starts = [[begin]]
    elif are_chats(prompts):
        chat = chat_of(pipe)
        starts, ends, stop = encode_chats(pipe, chat, prompts), sorted(chat.ends), True
    else:
        starts = pipe.encode(prompts, "prompt")  # type: ignore[arg-type]
    if stop and not ends:
        raise ValueError("answers, stop and length='auto' need an end-of-text token; the tokenizer has none")
    return starts, ends


class AutoregressivePipeline(Streaming, Pipeline, loads=("autoregressive",)):
    """An autoregressive language model; `generate` uses transformers."""

    tag = "autoregressive"
    streams: ClassVar = {"generate": _generation}

    def generate(
        self,
        num_samples: int = 1,
        *,
        prompts: Prompts | None = None,
        length: int | Literal["auto"] | None = None,
        temperature: float | int | None = None,
        top_k: int | None = None,
        top_p: float | int | None = None,
        min_p: float | int | None = None,
        stop: bool = False,
        constraint: Constraint | None = None,
        callback: Callback | None = None,
        batch_size: int | None = None,
        seed: int | None = None,
        seeds: Sequence[int] | None = None,
        generator: Randomness = None,
        dtype: torch.dtype | None = None,
        processes: Processes | None = None,
    ) -> list[str]:
        """Generate texts token by token, starting from the end-of-text token or from prompts.

        **Arguments:**

        - `num_samples`: the number of texts, for each prompt if prompts are given.
        - `prompts`: the beginnings of the texts; or conversations, each a list of messages with "role" and "content", that
          the chat template of the tokenizer renders. Of these the answers alone are returned, cut as by `stop`.
        - `length`: the number of tokens of a text, including the prompt; by default `pipe.generation.length`, without it the
          whole context, or 1,024 tokens if it is longer or has no limit. "auto" is the default length with `stop=True`.
        - `temperature`, `top_k`, `top_p`, `min_p`: temperature and truncation of the predicted distribution.
        - `stop`: whether to cut each text after its first end-of-text token that is not in the prompt. Models trained on
          packed texts continue after it.
        - `constraint`: must be left out; texts that satisfy one need a diffusion model of whole texts.
        - `callback`: called after each token with a `GenerationState`. If it returns True, generation ends with the tokens
          that are there; prompts that have not begun are left out.
        - `batch_size`: the number of texts generated at once, all with one prompt; by default `num_samples`.
        - `seed`: text i has random numbers of its own, derived from the seed and i.
        - `seeds`: one seed for each text: a text is the same alone and in any batch and order.
        - `generator`: instead of seeds, the source of randomness: one generator, or one for each text.
        - `dtype`: the dtype of the network's arithmetic; by default that of the weights.
        - `processes`: those that divide the batches among them, from `noiselab.distributed.join_processes`; by default this
          one does all. Each of them must make the same call, with seeds or a generator for each text, and gets all texts.

        **Returns:** the texts without special tokens, grouped by prompt.

        **Raises:** `ValueError` if a setting is out of range, a prompt is too long, the seeds or generators are not one for
        each text, there is no end of text at which to stop, or a constraint is given.
        """
        return _generation(self, **arguments_of(locals())).run()
