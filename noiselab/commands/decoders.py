"""The samplers of `noiselab generate` by their names, with the numbers that some of them take."""

from typing import TYPE_CHECKING, Any, Literal

if TYPE_CHECKING:
    from ..denoisers import Denoiser
    from ..process import NoiseProcess
    from ..samplers import Sampler
    from .generate import Options

SAMPLERS = {
    "ancestral": "AncestralSampler",
    "committing": "CommittingSampler",
    "confidence": "ConfidenceSampler",
    "deterministic": "DeterministicSampler",
    "draft": "DraftSampler",
    "entropy-bounded": "EntropyBoundedSampler",
    "euler": "EulerSampler",
    "first-hitting": "FirstHittingSampler",
    "joint-threshold": "JointThresholdSampler",
    "path-planning": "PathPlanningSampler",
    "remasking": "RemaskingSampler",
    "renoising": "RenoisingSampler",
    "sliding": "SlidingBlockSampler",
    "tau-leaping": "TauLeapingSampler",
    "threshold": "ThresholdSampler",
}
Name = Literal[
    "auto",
    "ancestral",
    "committing",
    "confidence",
    "deterministic",
    "draft",
    "entropy-bounded",
    "euler",
    "first-hitting",
    "joint-threshold",
    "path-planning",
    "remasking",
    "renoising",
    "sliding",
    "tau-leaping",
    "threshold",
]
TAKES = {
    "committing": ("threshold", "edit"),
    "draft": ("threshold", "minimum"),
    "joint-threshold": ("threshold", "edit", "minimum"),
    "sliding": ("threshold", "minimum"),
    "threshold": ("threshold", "minimum"),
}
"""The numbers of each decoder that has some."""
OWN_BLOCKS = ("draft", "sliding")
"""Decoders with blocks of their own, which `--block-length` sets."""


def check_numbers(options: "Options") -> None:
    """Raise `ValueError` for numbers that the sampler does not have, or sliding blocks without a length."""
    for name in ("threshold", "edit", "minimum"):
        value = getattr(options, name)
        if value is not None and name not in TAKES.get(options.sampler, ()):
            those = ", ".join(sampler for sampler, numbers in TAKES.items() if name in numbers)
            raise ValueError(
                f"{name} must be left out unless the sampler is one of {those}; got {value} with {options.sampler}"
            )
    if options.sampler == "sliding" and options.block_length is None:
        raise ValueError("--sampler sliding requires block-length, the number of tokens of a block; got none")


def block_length_of(options: "Options") -> int | None:
    """The length of blocks around the sampler; `None` for those with blocks of their own."""
    return None if options.sampler in OWN_BLOCKS else options.block_length


def decoder_of(options: "Options") -> Any:
    """The class of the sampler, or a function that builds it with the numbers; `None` for that of the model."""
    from .. import samplers

    if options.sampler == "auto":
        return None
    if options.sampler not in TAKES:
        return getattr(samplers, SAMPLERS[options.sampler])

    def build(process: "NoiseProcess", denoiser: "Denoiser") -> "Sampler":
        return _built(process, denoiser, options)

    return build


def _built(process: "NoiseProcess", denoiser: "Denoiser", options: "Options") -> "Sampler":
    from .. import samplers

    numbers = {name: getattr(options, name) for name in TAKES[options.sampler]}
    given = {name: value for name, value in numbers.items() if value is not None}
    if options.sampler == "committing":
        return samplers.CommittingSampler(process, denoiser, **given)
    if options.sampler == "joint-threshold":
        if "edit" not in given and not _edits(process):
            given["edit"] = None
        return samplers.JointThresholdSampler(process, denoiser, **given)
    rule = samplers.ConfidenceThreshold(**given)
    if options.sampler == "draft":
        return samplers.DraftSampler(process, denoiser, rule, block_size=options.block_length)
    inner = samplers.ThresholdSampler(process, denoiser, rule)
    if options.sampler == "threshold":
        return inner
    assert options.block_length is not None  # `check_numbers`
    return samplers.SlidingBlockSampler(inner, options.block_length)


def _edits(process: "NoiseProcess") -> bool:
    """Whether a visible token may be wrong under this noise."""
    from ..process import InterpolatingProcess
    from ..samplers.confidence import noisy_data_tokens

    return not isinstance(process, InterpolatingProcess) or len(noisy_data_tokens(process)) > 0
