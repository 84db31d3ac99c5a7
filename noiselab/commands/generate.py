"""`noiselab generate`: generate texts as JSON Lines."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Annotated, Any

import tyro

from .arguments import Device, Dtype, Model, OptionalFloat, OptionalInt, OptionalPath, OptionalText, TextSeed, TextsFile
from .decoders import Name, block_length_of, check_numbers, decoder_of


@dataclass(frozen=True)
class Options:
    """Generate texts from noise or from prompts, or answers, as JSON Lines with text, tokens, prompt or messages, and model.

    Examples: noiselab generate MODEL --prompt "Born on " --regex "[0-9]{4}-[0-9]{2}-[0-9]{2}";
    noiselab generate MODEL --json-schema schema.json --length 64 --out records.jsonl;
    noiselab generate MODEL --sampler threshold --threshold 0.8 --block-length 32 --steps 32;
    noiselab generate MODEL --sampler joint-threshold --threshold 0.7 --edit 0.5 --block-length 32 --steps 48
    """

    model: Model
    """folder of a model, or its name on the Hugging Face hub"""
    out: TextsFile = None
    num_samples: int = 4
    """number of texts, for each prompt if prompts are given"""
    steps: OptionalInt = None
    """network evaluations per text, or per canvas of block-diffusion models; by default that of the model"""
    prompt: Annotated[list[str], tyro.conf.UseAppendAction] = field(default_factory=list)
    """beginning of the texts; may be given several times"""
    chat: Annotated[list[str], tyro.conf.UseAppendAction] = field(default_factory=list)
    """question to a model of conversations, which the chat template renders; may be given several times"""
    chats: OptionalPath = None
    """file of conversations to answer: JSON Lines with `messages`; an answer at the end is left out"""
    length: OptionalInt = None
    """tokens per text, including the prompt; by default that of noiselab.json, or the context, at most 1024. Block-diffusion
    models count those after it"""
    stop: bool = False
    """cut each text after its first end of text; block-diffusion models always do"""
    block_length: OptionalInt = None
    """sample blocks of this number of tokens one after another, each in all steps; with --stop until all texts have ended.
    The blocks of sliding, several of which are open at once, and of draft, whose steps are those of the whole text"""
    regex: Annotated[OptionalText, tyro.conf.arg(metavar="PATTERN")] = None
    """regular expression that each text matches after its prompt, up to its first end of text, where it is cut"""
    json_schema: OptionalPath = None
    """file with a JSON schema of which each text is, likewise; both need pip install noiselab[constraints]"""
    sampler: Name = "auto"
    """sampling algorithm; auto is ancestral, for block-diffusion models the published one. threshold, sliding and draft are
    for masks, joint-threshold for masks and edits, committing for any noise: with a step for each token of a block"""
    threshold: OptionalFloat = None
    """probability from which on committing, draft, joint-threshold, sliding and threshold take a token; by default 0.9, of
    joint-threshold 0.7"""
    edit: OptionalFloat = None
    """probability above which joint-threshold and committing replace visible tokens; by default 0.5 for joint-threshold under
    noise that makes them wrong, otherwise none are"""
    minimum: OptionalInt = None
    """tokens that draft, joint-threshold, sliding and threshold take at least in each step; by default 1"""
    temperature: OptionalFloat = None
    """temperature of the prediction"""
    top_k: OptionalInt = None
    """sample from this number of most likely tokens only"""
    top_p: OptionalFloat = None
    """sample from the smallest set of most likely tokens with this total probability"""
    min_p: OptionalFloat = None
    """sample from tokens with at least this fraction of the highest probability"""
    as_released: bool = False
    """use the time grid of the published GIDD code, which leaves a little noise"""
    seed: TextSeed = 0
    batch_size: int = 16
    """texts per batch, of which each process takes one at a time; does not change the texts"""
    dtype: Dtype = None
    device: Device = None


def main(options: Options) -> list[dict[str, Any]]:
    """Generate texts; write or print the records and return them."""
    from ..numerics import require_count
    from .common import answered, load, output, print_text, together

    records: list[dict[str, Any]] = []
    inputs = [file for file in (options.chats, options.json_schema) if file is not None]
    with together(options.device) as processes, output(options.out, *inputs, processes=processes) as write:
        require_count("num-samples", options.num_samples)
        require_count("batch-size", options.batch_size)
        check_numbers(options)
        starts, constraint = beginnings(options), constraint_of(options)
        pipe = load(options.model, processes.device)
        prompts = [prompt for prompt in starts for _ in range(options.num_samples)]
        for prompt, text in zip(prompts, _generated(pipe, prompts, constraint, options, processes), strict=True):
            record: dict[str, Any] = {"text": str(text), "tokens": getattr(text, "tokens", None)}
            if isinstance(prompt, list):
                record["messages"] = answered(prompt, str(text))
            else:
                record["prompt"] = prompt
            record["model"] = options.model
            write(record)
            records.append(record)
    if options.out is not None and processes.first:
        print_text(f"{len(records)} texts written to {options.out}")
    return records


def beginnings(options: Options) -> list[Any]:
    """The prompts or the conversations; `None` for texts without a prompt.

    **Raises:** `ValueError` if several kinds are given, or the file of conversations cannot be read.
    """
    from ..data.samples import read_questions

    if bool(options.prompt) + bool(options.chat) + (options.chats is not None) > 1:
        raise ValueError("only one of prompt, chat and chats must be given; got several")
    if options.chats is not None:
        return read_questions(options.chats)
    return [[{"role": "user", "content": text}] for text in options.chat] or [*options.prompt] or [None]


def constraint_of(options: Options) -> "str | dict[str, Any] | None":
    """The regular expression or the JSON schema; `None` for texts without a constraint.

    **Raises:** `ValueError` if both are given, or the file of the schema cannot be read or is none.
    """
    import json

    file = options.json_schema
    if file is None:
        return options.regex
    if options.regex is not None:
        raise ValueError("only one of regex and json-schema must be given; got both")
    try:
        schema = json.loads(file.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise ValueError(f"json-schema must be a JSON file; got {str(file)!r}: {error}") from error
    if not isinstance(schema, dict):
        raise ValueError(f"json-schema must be a file with a JSON schema, an object; {str(file)!r} has {schema!r}")
    return schema


def _automaton(pipe: Any, constraint: Any) -> Any:
    """The automaton of a constraint, made once for all batches."""
    from ..pipeline import DiffusionPipeline
    from ..pipeline.constraining import automaton_of

    if not isinstance(pipe, DiffusionPipeline):
        raise ValueError(
            "regex and json-schema require a diffusion model of whole texts; this one is block-diffusion or autoregressive"
        )
    try:
        return automaton_of(pipe, constraint)
    except ImportError as error:
        raise ValueError(str(error)) from error


def _generated(pipe: Any, prompts: Sequence[Any], constraint: Any, options: Options, processes: Any) -> Iterator[str]:
    """The texts, batch by batch."""
    from ..pipeline import AutoregressivePipeline, CanvasPipeline
    from ..pipeline.calls import slices
    from .common import dtype_of, generated_texts, text_generators

    shared: dict[str, Any] = {
        name: getattr(options, name) for name in ("temperature", "top_k", "top_p", "min_p", "length", "stop")
    }
    shared["dtype"] = dtype_of(options.dtype)
    generators, size = text_generators(options.seed, len(prompts)), options.batch_size
    about = [prompts, options]
    automaton = None if constraint is None else _automaton(pipe, constraint)
    if options.prompt:
        pipe.encode(options.prompt, "prompt")  # so that one that is too long is noticed before the work
    if isinstance(pipe, AutoregressivePipeline):
        if options.steps is not None or options.as_released or options.block_length or options.sampler != "auto":
            raise ValueError(
                "steps, sampler, block-length and as-released require a diffusion model; this model is autoregressive"
            )
        firsts = range(0, len(prompts), options.num_samples)
        some = [slice(k + part.start, k + part.stop) for k in firsts for part in slices(options.num_samples, size)]

        def continued(number: int) -> list[str]:
            own, prompt = some[number], prompts[some[number].start]
            one = None if prompt is None else [prompt]
            return list(pipe.generate(own.stop - own.start, prompts=one, generator=generators[own], **shared))

        yield from generated_texts(pipe, processes, len(some), continued, about=about)
        return
    shared["sampler"] = decoder_of(options)
    if isinstance(pipe, CanvasPipeline):
        if options.as_released or block_length_of(options) is not None:
            raise ValueError("as-released and block-length are not for block-diffusion models, which have canvases")
        shared["stop"] = options.stop or bool(pipe.ends)
    else:
        shared |= {"as_released": options.as_released, "block_length": block_length_of(options)}
        shared["constraint"] = automaton
    some = slices(len(prompts), size)

    def denoised(number: int) -> list[str]:
        own = some[number]
        return list(
            pipe.generate(
                own.stop - own.start if prompts[0] is None else 1,
                options.steps,
                prompts=None if prompts[0] is None else prompts[own],
                batch_size=size,
                generator=generators[own],
                show_progress=options.out is not None and processes.first,
                **shared,
            )
        )

    yield from generated_texts(pipe, processes, len(some), denoised, about=about)
