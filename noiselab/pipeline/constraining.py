"""Texts that satisfy a constraint: a regular expression, a JSON schema or an automaton, as a sampler."""

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, TypeAlias

from ..constraints import TokenAutomaton
from ..data import json_automaton, regex_automaton
from ..denoisers import Denoiser
from ..process import NoiseProcess
from ..samplers import ConstrainedSampler, Sampler

if TYPE_CHECKING:
    from .diffusion import DiffusionPipeline
    from .drawing import SamplerLike

Constraint: TypeAlias = str | Mapping[str, Any] | TokenAutomaton
"""A regular expression, a JSON schema as a mapping, or an automaton over the tokens of the noise."""


def constrained(
    pipe: "DiffusionPipeline",
    constraint: Constraint,
    ends: Sequence[int],
    sampler: "SamplerLike | None",
    block_length: int | None,
) -> "tuple[SamplerLike, list[int]]":
    """The sampler of texts that satisfy a constraint after their prompt, and the tokens that end them.

    A text satisfies it before its first end token, or as a whole. Without `ends`, that of the tokenizer ends it, if the model
    generates one.

    **Raises:** `ValueError` for a constraint that is none or accepts texts that contain an end, or with another sampler.
    """
    if sampler is not None:
        raise ValueError(
            "sampler must be None with a constraint, which has a sampler of its own (for others, wrap a denoiser in "
            f"noiselab.denoisers.Constrained); got {sampler!r}"
        )
    if block_length is not None or pipe.settings.block_size is not None:
        raise ValueError(
            "block_length must be None with a constraint, and the model not one of blocks: the constraint is on whole texts; "
            f"got {pipe.settings.block_size if block_length is None else block_length}"
        )
    end = pipe.tokenizer.eos_token_id
    own = [] if end is None or end >= len(pipe.support) or not pipe.support[end] else [end]
    ends = list(ends) or own
    automaton = automaton_of(pipe, constraint)
    if ends:
        inner, automaton = automaton, automaton.ending(ends, fill="any")
        if (inner.table[:, inner.classes[ends]] < inner.states).any():
            raise ValueError(
                "constraint must be on texts without an end, which are cut at the first one; it accepts texts with one of the "
                f"end tokens {pipe.tokenizer.convert_ids_to_tokens(ends)}"
            )

    def make(process: NoiseProcess, denoiser: Denoiser) -> Sampler:
        return ConstrainedSampler(process, denoiser, automaton, start="prompt")

    return make, ends


def refuse_constraint(constraint: object) -> None:
    """Raise `ValueError` for a constraint on texts of a model that generates them piece by piece."""
    if constraint is not None:
        raise ValueError(
            "constraint must be None for autoregressive and block-diffusion models: constraints need a diffusion model of "
            f"whole texts (DiffusionPipeline); got a {type(constraint).__name__}"
        )


def automaton_of(pipe: "DiffusionPipeline", constraint: Constraint) -> TokenAutomaton:
    """The automaton of a constraint over the tokens of the pipeline's noise.

    **Raises:** `ValueError` for a constraint that is none.
    """
    if isinstance(constraint, TokenAutomaton):
        return constraint
    if isinstance(constraint, str):
        return regex_automaton(constraint, pipe.tokenizer, vocab_size=pipe.process.vocab_size)
    if isinstance(constraint, Mapping):
        return json_automaton(constraint, pipe.tokenizer, vocab_size=pipe.process.vocab_size)
    raise ValueError(
        "constraint must be a regular expression, a JSON schema (a mapping) or a noiselab.constraints.TokenAutomaton; got "
        f"{constraint!r}"
    )
