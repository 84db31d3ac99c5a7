"""What belongs to a model besides its weights and its tokenizer: the noise it undoes, what it predicts, how to sample it."""

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, fields
from pathlib import Path
from typing import Any, get_args

from transformers.utils import cached_file

from ..files import write_json
from ..parametrization import Prediction
from ..process import NoiseProcess
from ..processes import process_from

FILE = "noiselab.json"


@dataclass(frozen=True)
class GenerationSettings:
    """How a model is sampled where a call does not say otherwise.

    **Arguments:**

    - `steps`: network evaluations of a sample, at least 1.
    - `temperature`: of the prediction, positive.
    - `top_k`, `top_p`, `min_p`: truncation of the prediction; none by default.
    """

    steps: int = 128
    temperature: float = 1.0
    top_k: int | None = None
    top_p: float | None = None
    min_p: float | None = None


@dataclass(frozen=True)
class ModelSettings:
    """Written as noiselab.json beside the weights of a model, and read with them.

    **Arguments:**

    - `noise`: `family` and its arguments, see `noiselab.processes.process_from`; None for an autoregressive model.
    - `predicts`: "leave_one_out", "posterior" or "score".
    - `generation`: how it is sampled by default.

    **Raises:** `ValueError` for another `predicts`; settings of noise are checked where the process is made.

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

    def __post_init__(self) -> None:
        if self.predicts not in get_args(Prediction):
            raise ValueError(f"predicts must be one of {get_args(Prediction)}; got {self.predicts!r}")

    def process(self) -> NoiseProcess:
        """The noise process.

        **Raises:** `ValueError` if there is none, or its settings are not understood.
        """
        if self.noise is None:
            raise ValueError(f"the noise of this model must be given; {FILE} names none")
        return process_from(self.noise)

    def save_pretrained(self, folder: str | Path) -> None:
        """Write the file into a folder."""
        write_json(Path(folder) / FILE, {**asdict(self), "noise": None if self.noise is None else dict(self.noise)})

    @classmethod
    def from_pretrained(cls, name: str | Path, revision: str = "main") -> "ModelSettings | None":
        """Read the file of a folder or a hub name; None if there is none.

        **Raises:** `ValueError` if it is not what `save_pretrained` writes.
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
            generation = GenerationSettings(**content.pop("generation", {}))
            return cls(**content, generation=generation)
        except (TypeError, AttributeError, ValueError) as error:
            names = [f.name for f in fields(cls)]
            raise ValueError(f"{FILE} must be a JSON object of {names}; {str(path)!r}: {error}") from error
