"""The settings of a model: its noise process, prediction type, and defaults for sampling."""

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, fields
from pathlib import Path
from typing import Any, get_args

from transformers.utils import cached_file

from ..files import write_json
from ..numerics import TEMPERATURES, require_count, require_number
from ..parametrization import Prediction
from ..process import NoiseProcess
from ..processes import process_from

FILE = "noiselab.json"
NETWORK = ("shifted", "bidirectional")


@dataclass(frozen=True)
class GenerationSettings:
    """The default settings for sampling from a model.

    **Arguments:**

    - `steps`: the number of network evaluations per sample, at least 1.
    - `temperature`: the temperature of the prediction, in [1e-20, 1e20].
    - `top_k`, `top_p`, `min_p`: truncation of the prediction: at least 1, in (0, 1] and in [0, 1]; none by default.

    **Raises:** `ValueError` for a number out of range.
    """

    steps: int = 128
    temperature: float | int = 1.0
    top_k: int | None = None
    top_p: float | int | None = None
    min_p: float | int | None = None

    def __post_init__(self) -> None:
        require_count("steps", self.steps)
        require_number("temperature", self.temperature, *TEMPERATURES)
        if self.top_k is not None:
            require_count("top_k", self.top_k)
        if self.top_p is not None:
            require_number("top_p", self.top_p, 0, 1, above=True)
        if self.min_p is not None:
            require_number("min_p", self.min_p, 0, 1)


@dataclass(frozen=True)
class ModelSettings:
    """The settings of a model, stored as noiselab.json beside its weights.

    **Arguments:**

    - `noise`: `family` and its arguments, see `noiselab.processes.process_from`; `None` for an autoregressive model.
    - `predicts`: the quantity that the model predicts: "leave_one_out", "posterior" or "score".
    - `generation`: the default settings for sampling.
    - `network`: how a model of transformers is called as a denoiser: `shifted` and `bidirectional` of
      `noiselab.networks.masked_lm.MaskedLanguageModel`. A pipeline fills it in.

    **Raises:** `ValueError` for an unknown `predicts`, or settings of the network that are not these two, true or false. The
    noise settings are checked when the process is built.

    **Example:**

    ```python
    from noiselab.pipeline import ModelSettings

    settings = ModelSettings({"family": "gidd", "vocab_size": 50, "mask_id": 49, "p_uniform": 0.2})
    print(settings.process())
    ```
    """

    noise: Mapping[str, Any] | None = None
    predicts: Prediction = "leave_one_out"
    generation: GenerationSettings = field(default_factory=GenerationSettings)
    network: Mapping[str, Any] | None = None

    def __post_init__(self) -> None:
        if self.predicts not in get_args(Prediction):
            raise ValueError(f"predicts must be one of {get_args(Prediction)}; got {self.predicts!r}")
        network: Any = {} if self.network is None else self.network
        plain = isinstance(network, Mapping) and all(isinstance(value, bool) for value in network.values())
        if not plain or not set(network) <= set(NETWORK):
            raise ValueError(f"network must map {' and '.join(NETWORK)} to true or false; got {network!r}")

    def process(self) -> NoiseProcess:
        """The noise process.

        **Raises:** `ValueError` if there is none, or its settings are invalid.
        """
        if self.noise is None:
            raise ValueError(f"{FILE} must describe the noise of this model; it has none")
        return process_from(self.noise)

    def save_pretrained(self, folder: str | Path) -> None:
        """Write noiselab.json into a folder."""
        plain = {name: None if part is None else dict(part) for name, part in self._mappings().items()}
        write_json(Path(folder) / FILE, {**asdict(self), **plain})

    def _mappings(self) -> dict[str, Mapping[str, Any] | None]:
        return {"noise": self.noise, "network": self.network}

    @classmethod
    def from_pretrained(cls, name: str | Path, revision: str = "main") -> "ModelSettings | None":
        """Read noiselab.json from a folder or the Hub; return `None` if there is none.

        **Raises:** `ValueError` if the file is not in the format of `save_pretrained`.
        """
        path = cached_file(
            str(name),
            FILE,
            revision=revision,
            _raise_exceptions_for_missing_entries=False,
            _raise_exceptions_for_connection_errors=False,
        )
        if path is None:
            return None
        try:
            content = json.loads(Path(path).read_text(encoding="utf-8"))
            if content.get("noise") is not None and not isinstance(content["noise"], Mapping):
                raise ValueError(f"noise must be an object or null; got {content['noise']!r}")
            generation = GenerationSettings(**content.pop("generation", {}))
            return cls(**content, generation=generation)
        except (TypeError, AttributeError, ValueError, RecursionError) as error:
            names = [f.name for f in fields(cls)]
            raise ValueError(f"{FILE} must be a JSON object of {names}; {str(path)!r}: {error}") from error
