"""Loading networks in published formats, without a tokenizer and without code of the folder."""

from pathlib import Path
from typing import Any

import torch
from huggingface_hub.errors import StrictDataclassError

from ..model_folders import model_folder, read_config
from . import a2d, diffusion_gemma, gidd_scale, llada2_moe, mdlm  # noqa: F401
from .base import FORMATS


def load_network(name: str | Path, dtype: torch.dtype | None = None, revision: str = "main") -> Any:
    """Load a network in a published format, and check that it is intact and matches its config.

    No tokenizer is needed, no pickle is loaded and no remote code is run. The formats are those of
    `noiselab.networks.published.FORMATS`, by `model_type` in config.json.

    **Arguments:**

    - `name`: a folder with config.json and safetensors weights, or a name on the Hugging Face Hub.
    - `dtype`: the dtype of the weights; by default that of the checkpoint.
    - `revision`: branch, tag or commit on the Hub; unused for a folder.

    **Returns:** a `PublishedNetwork`, in evaluation mode, called as
    `network(input_ids, timesteps, attention_mask=None, condition=None, prefix=None, self_conditioning=None)`.

    **Raises:** `ValueError` if the config or the weights are missing or cannot be read; if the format is not known, or a
    value in config.json changes the computation and is not implemented; if a weight is missing, unexpected, of another
    shape or not finite. A `UserWarning` names fields of config.json that are not known.
    """
    try:
        folder = model_folder(name, revision)
        settings = read_config(folder)
        kind = settings.get("model_type")
        load = FORMATS.get(str(kind).lower())
        if load is None:
            raise ValueError(f"model_type must be one of {sorted(FORMATS)}; got {kind!r}")
        return load(folder, settings, dtype)
    except (ValueError, TypeError, AttributeError, StrictDataclassError) as error:
        raise ValueError(
            "a published network must have a config.json of a known format, and intact safetensors weights; "
            f"{str(name)!r}: {error}"
        ) from error
