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
from ..processes import process_from, settings_of
from .canvas_settings import CanvasSettings

FILE = "noiselab.json"
NETWORK = ("shifted", "bidirectional")
VERSION = 2
"""The version of the format that is written. Files without one are of version 1, which names the noise by its family."""
MAX_BYTES = 1 << 27
"""The size of the largest file that is read."""


@dataclass(frozen=True)
class GenerationSettings:
    """The default settings for sampling from a model.

    **Arguments:**

    - `steps`: the number of network evaluations per sample, at least 1.
    - `temperature`: the temperature of the prediction, in [1e-20, 1e20].
    - `top_k`, `top_p`, `min_p`: truncation of the prediction: at least 1, in (0, 1] and in [0, 1]; none by default.
    - `length`: the number of tokens of a generated text, including the prompt, at least 1; by default the whole context. For a
      model of conversations, `width` of the `ResponseRows` that it was trained on. Block-diffusion models have that of
      `CanvasSettings` instead.

    **Raises:** `ValueError` for a number out of range.
    """

    steps: int = 128
    temperature: float | int = 1.0
    top_k: int | None = None
    top_p: float | int | None = None
    min_p: float | int | None = None
    length: int | None = None

    def __post_init__(self) -> None:
        require_count("steps", self.steps)
        require_number("temperature", self.temperature, *TEMPERATURES)
        if self.top_k is not None:
            require_count("top_k", self.top_k)
        if self.top_p is not None:
            require_number("top_p", self.top_p, 0, 1, above=True)
        if self.min_p is not None:
            require_number("min_p", self.min_p, 0, 1)
        if self.length is not None:
            require_count("length", self.length)


@dataclass(frozen=True)
class ModelSettings:
    """The settings of a model, stored as noiselab.json beside its weights.

    **Arguments:**

    - `noise`: a noise process, which is stored as a tree of names and numbers (`noiselab.processes.settings_of`), or its
      settings, such as `family` and its arguments (`noiselab.processes.process_from`); `None` for an autoregressive model.
    - `predicts`: the quantity that the model predicts: "leave_one_out", "posterior" or "score".
    - `generation`: the default settings for sampling.
    - `network`: how a model of transformers is called as a denoiser: `shifted` and `bidirectional` of
      `noiselab.networks.masked_lm.MaskedLanguageModel`; or the registered name, `kind`, of a denoiser of your own, with its
      arguments. A pipeline fills it in.
    - `adapter`: of a folder of adapters, the name and dtype of their base and the hash of its weights; filled in likewise.
    - `canvas`: of a block-diffusion model, the settings of its sampler; filled in likewise.
    - `block_size`: of a model that was trained in blocks (`Trainer(blocks=...)`), the number of tokens in a block. The pipeline
      then samples block by block, and bounds are those of blocks.

    **Raises:** `ValueError` for an unknown `predicts`, a process that cannot be written, or settings of the network that are
    not these two, true or false. Noise settings are checked when the process is built.

    **Example:**

    ```python
    import noiselab as nl
    from noiselab.pipeline import ModelSettings

    settings = ModelSettings({"family": "gidd", "vocab_size": 50, "mask_id": 49, "p_uniform": 0.2})
    print(settings.process())
    print(ModelSettings(nl.Interpolation(1 - nl.t, {nl.Uniform(50): nl.t})).noise)
    ```
    """

    noise: Mapping[str, Any] | NoiseProcess | None = None
    predicts: Prediction = "leave_one_out"
    generation: GenerationSettings = field(default_factory=GenerationSettings)
    network: Mapping[str, Any] | None = None
    adapter: Mapping[str, Any] | None = None
    canvas: CanvasSettings | None = None
    block_size: int | None = None

    def __post_init__(self) -> None:
        if isinstance(self.noise, NoiseProcess):
            object.__setattr__(self, "noise", settings_of(self.noise))
        if self.noise is not None and not isinstance(self.noise, Mapping):
            raise ValueError(
                f"noise must be a noise process or an object with its settings, or null; got {self.noise!r}"
            )
        if self.predicts not in get_args(Prediction):
            raise ValueError(f"predicts must be one of {get_args(Prediction)}; got {self.predicts!r}")
        if self.adapter is not None and not isinstance(self.adapter, Mapping):
            raise ValueError(f"adapter must be an object or null; got {self.adapter!r}")
        if self.canvas is not None and not isinstance(self.canvas, CanvasSettings):
            raise ValueError(f"canvas must be CanvasSettings, or None; got {self.canvas!r}")
        if self.block_size is not None:
            require_count("block_size", self.block_size)
        network: Any = {} if self.network is None else self.network
        if isinstance(network, Mapping) and "kind" in network:  # of a denoiser, which checks it when it is built
            return
        plain = isinstance(network, Mapping) and all(isinstance(value, bool) for value in network.values())
        if not plain or not set(network) <= set(NETWORK):
            raise ValueError(f"network must map {' and '.join(NETWORK)} to true or false; got {network!r}")

    def process(self) -> NoiseProcess:
        """The noise process.

        **Raises:** `ValueError` if there is none, or its settings are invalid.
        """
        if not isinstance(self.noise, Mapping):
            raise ValueError(f"{FILE} must describe the noise of this model; it has none")
        return process_from(self.noise)

    def save_pretrained(self, folder: str | Path) -> None:
        """Write noiselab.json into a folder."""
        content = {field.name: getattr(self, field.name) for field in fields(self)}
        content["generation"] = asdict(self.generation)
        if content.pop("canvas") is not None:
            content["canvas"] = asdict(self.canvas)  # type: ignore[arg-type]
        if self.block_size is None:
            del content["block_size"]
        write_json(Path(folder) / FILE, {"version": VERSION, **content})

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
            return cls._read(Path(path))
        except RecursionError as error:
            raise ValueError(f"{FILE} must not be nested so deeply; {str(path)!r} is") from error
        except (TypeError, AttributeError, ValueError) as error:
            names = ["version", *(f.name for f in fields(cls))]
            raise ValueError(f"{FILE} must be a JSON object of {names}; {str(path)!r}: {error}") from error

    @classmethod
    def _read(cls, path: Path) -> "ModelSettings":
        if path.stat().st_size > MAX_BYTES:
            raise ValueError(f"it must have at most {MAX_BYTES} bytes; got {path.stat().st_size}")
        content = json.loads(path.read_text(encoding="utf-8"))
        version = content.pop("version", 1)
        if type(version) is not int or not 1 <= version <= VERSION:
            raise ValueError(
                f"version must be a whole number from 1 to {VERSION}, which this version of noiselab reads; got {version!r}"
                + (": a newer noiselab has written it" if type(version) is int and version > VERSION else "")
            )
        if content.get("noise") is not None and not isinstance(content["noise"], Mapping):
            raise ValueError(f"noise must be an object or null; got {content['noise']!r}")
        generation = GenerationSettings(**content.pop("generation", {}))
        canvas = content.pop("canvas", None)
        return cls(**content, generation=generation, canvas=None if canvas is None else CanvasSettings(**canvas))
