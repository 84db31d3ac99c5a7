"""The finished network in the format that `from_pretrained` loads, and what noiselab.json states about it."""

import contextlib
import json
import warnings
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import torch
import transformers
from safetensors.torch import load_file, save_model
from torch import nn

from ..denoisers import Denoiser
from ..files import write_json
from ..networks.adapters import merged_network, write_adapter
from ..networks.denoiser_files import check_rebuilt, network_settings, save_denoiser
from ..networks.masked_lm import MaskedLanguageModel
from ..networks.published import PublishedDenoiser
from ..networks.wrapped import is_adapted


def stored_network(model: nn.Module, merge: bool | None = None) -> dict[str, Any]:
    """What noiselab.json states about a network: nothing, if it is a model of transformers or a module that is not registered.

    Of a `MaskedLanguageModel` it is how it calls its model, without which a causal architecture would load as autoregressive,
    and the base of adapters that are written without it; of a registered denoiser, its name and arguments.

    **Arguments:**

    - `model`: the network; `merge`: whether adapters are merged into the weights, see `Trainer.save_final`.
    """
    if isinstance(model, MaskedLanguageModel):
        return {"network": model.settings, "adapter": None if merge else model.adapter}
    if not isinstance(model, Denoiser):
        return {}
    try:
        settings = network_settings(model)
        if settings is not None:
            check_rebuilt(model, settings)
    except ValueError as error:  # what was trained must not be lost for it
        warnings.warn(f"of the denoiser only the weights are written: {error}", UserWarning, stacklevel=3)
        settings = None
    return {} if settings is None else {"network": settings}


def write_model(model: nn.Module, folder: Path, stored: Mapping[str, Any]) -> None:
    """Write a finished network: of a `MaskedLanguageModel`, the model of transformers inside or its adapters; of a
    `PublishedDenoiser`, the network in its published format.

    **Arguments:**

    - `stored`: see `stored_network`.
    """
    network: Any = model
    if isinstance(model, MaskedLanguageModel):
        network = model.model
    elif isinstance(model, PublishedDenoiser):
        network = model.network
    if is_adapted(network):
        if stored.get("adapter") is not None:
            return write_adapter(network, folder, stored["adapter"].get("token"))
        network = merged_network(network)
    if isinstance(model, Denoiser) and "kind" in stored.get("network", {}):
        folder.mkdir(parents=True, exist_ok=True)
        return save_denoiser(model, stored["network"], folder)
    write_weights(network if isinstance(network, transformers.PreTrainedModel) else model, folder)


def describe_network(folder: Path, stored: Mapping[str, Any]) -> None:
    """Add what `stored_network` states to noiselab.json."""
    if not stored:
        return
    path = folder / "noiselab.json"
    content = json.loads(path.read_text(encoding="utf-8")) if path.exists() else {}
    write_json(path, {**content, **stored})


def write_weights(model: nn.Module, folder: Path) -> None:
    """Write a network to safetensors, with its configuration if it has one."""
    folder.mkdir(parents=True, exist_ok=True)
    if isinstance(model, transformers.PreTrainedModel):
        with _no_bars():
            model.save_pretrained(folder)
    else:
        save_model(model, str(folder / "model.safetensors"), metadata={"format": "pt"})


@contextlib.contextmanager
def _no_bars() -> Iterator[None]:
    """Disable transformers' own progress bars, which would disturb that of training."""
    shown = transformers.logging.is_progress_bar_enabled()
    transformers.logging.disable_progress_bar()
    try:
        yield
    finally:
        if shown:
            transformers.logging.enable_progress_bar()


def load_weights(model: nn.Module, folder: Path) -> None:
    """Read weights written by `write_weights` or transformers.

    **Raises:** `ValueError` if they do not match the model.
    """
    tensors: dict[str, torch.Tensor] = {}
    for file in sorted(folder.glob("model*.safetensors")):
        tensors |= load_file(file)
    missing, unexpected = model.load_state_dict(tensors, strict=False)
    # Tied weights have several names, of which only one is in the file.
    own = model.state_dict()
    held = {own[name].data_ptr() for name in tensors if name in own}
    wrong = [*unexpected, *(name for name in missing if own[name].data_ptr() not in held)]
    if wrong:
        raise ValueError(f"{folder} must contain the weights of this model; it differs in {', '.join(wrong)}")
