"""The settings of the published sampler of block-diffusion models, and where folders keep them."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from .. import schedules
from ..networks.model_folders import read_json
from ..numerics import TEMPERATURES, require_count, require_number

FILE = "generation_config.json"
SAMPLER = "EntropyBoundSamplerConfig"
STEPS = 48
"""The published number of steps for each canvas."""
NAMES = {
    "t_min": "t_min",
    "t_max": "t_max",
    "stability_threshold": "stability",
    "confidence_threshold": "confidence",
    "max_new_tokens": "length",
}
"""Fields of generation_config.json -> those of `CanvasSettings`."""


@dataclass(frozen=True)
class CanvasSettings:
    """How a block-diffusion model is sampled by default, by `noiselab.samplers.RenoisingSampler`, and where texts end.

    The defaults are the published ones.

    **Arguments:**

    - `bound`: the bound on the entropies of the tokens that are accepted together, in nats, at least 0.
    - `t_min`, `t_max`: the temperature at time t is `t_min + (t_max - t_min) * t`, so that the first step has `t_max`; at least
      0, and `t_max` positive.
    - `stability`: the number of steps for which the most probable tokens of a canvas must stay the same before it is
      finished, at least 0; `None` to take all steps.
    - `confidence`: the mean entropy in nats per token below which a canvas may be finished, at least 0.
    - `length`: the number of tokens of a text after its prompt, rounded up to whole canvases; at least 1.
    - `ends`: the tokens that end a text; if there are none, the end of text of the tokenizer.

    **Raises:** `ValueError` for a number out of range.
    """

    bound: float | int = 0.1
    t_min: float | int = 0.4
    t_max: float | int = 0.8
    stability: int | None = 1
    confidence: float | int = 0.005
    length: int = 256
    ends: Sequence[int] = ()

    def __post_init__(self) -> None:
        require_number("bound", self.bound, 0)
        require_number("t_min", self.t_min, 0, TEMPERATURES[1])
        require_number("t_max", self.t_max, *TEMPERATURES)
        if self.stability is not None:
            require_count("stability", self.stability, 0)
        require_number("confidence", self.confidence, 0)
        require_count("length", self.length)
        if not isinstance(self.ends, list | tuple):
            raise ValueError(f"ends must be a list of tokens; got {self.ends!r}")
        object.__setattr__(self, "ends", tuple(require_count("ends", end, 0) for end in self.ends))

    @property
    def temperature(self) -> schedules.Schedule:
        """The temperature as a schedule of the time at the beginning of a step."""
        # No step begins at t = 0, where a temperature of 0 would be refused.
        low = max(self.t_min, TEMPERATURES[0])
        return low + (self.t_max - low) * schedules.t


def published_settings(folder: Path) -> tuple[CanvasSettings, int]:
    """The settings in the generation_config.json of a folder, the published ones where it names none; and the number of steps.

    **Raises:** `ValueError` if the file is damaged, names another sampler, or has a number out of range.
    """
    content = read_json(folder / FILE)
    try:
        found = {ours: content[theirs] for theirs, ours in NAMES.items() if content.get(theirs) is not None}
        found |= _sampler_settings(content.get("sampler_config"))
        ends = content.get("eos_token_id")
        found["ends"] = () if ends is None else tuple(ends) if isinstance(ends, list) else (ends,)
        steps = content.get("max_denoising_steps")
        return CanvasSettings(**found), STEPS if steps is None else require_count("max_denoising_steps", steps)
    except ValueError as error:
        raise ValueError(f"{FILE} must have settings of the published sampler; {str(folder)!r}: {error}") from error


def _sampler_settings(content: Any) -> dict[str, Any]:
    if content is None:
        return {}
    if not isinstance(content, Mapping) or content.get("_cls_name", SAMPLER) != SAMPLER:
        raise ValueError(f"sampler_config must be an {SAMPLER}; got {content!r}")
    return {"bound": content["entropy_bound"]} if content.get("entropy_bound") is not None else {}
