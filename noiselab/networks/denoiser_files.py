"""Files of a denoiser of one's own: it is stored by the name under which it is registered, its arguments and its weights."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_model

from ..denoisers import Denoiser
from ..files import write_text
from ..processes.from_tree import TreeReader, refuse
from ..processes.registry import kind_named, kind_of
from ..processes.to_tree import TreeWriter
from .model_folders import finite

MODEL_TYPE = "noiselab_denoiser"
WEIGHTS = "model.safetensors"


def network_settings(denoiser: Denoiser) -> dict[str, Any] | None:
    """How a denoiser is stored in noiselab.json: its registered name and arguments; `None` if it is not registered.

    **Raises:** `ValueError` for an argument that cannot be written.
    """
    kind = kind_of(denoiser)
    if kind is None:
        return None
    written, arguments = TreeWriter(), kind.arguments_of(denoiser)
    return {
        "kind": kind.name,
        **{name: written.write("value", value, f"network.{name}") for name, value in arguments.items()},
    }


def save_denoiser(denoiser: Denoiser, settings: Mapping[str, Any] | None, folder: Path) -> None:
    """Write the weights of a registered denoiser, and a config.json that names its kind of model.

    **Raises:** `ValueError` if its class is not registered, or its arguments do not build it again.
    """
    name = type(denoiser).__name__
    if settings is None:
        raise ValueError(
            f"a denoiser that is saved must be of a registered class, which {name} is not: put the decorator "
            "noiselab.processes.registered on it, or name it as an entry point of the group 'noiselab.denoisers' in the "
            "pyproject.toml of its package"
        )
    check_rebuilt(denoiser, settings)
    save_model(denoiser, str(folder / WEIGHTS), {"format": "pt"})
    write_text(folder / "config.json", json.dumps({"model_type": MODEL_TYPE, "architectures": [name]}, indent=2) + "\n")


def check_rebuilt(denoiser: Denoiser, settings: Mapping[str, Any]) -> None:
    """Check that the name and the arguments of a denoiser build it again.

    **Raises:** `ValueError` if it then has other weights, or predicts something else.
    """
    again = _built(settings)
    shapes, others = ({key: own.shape for key, own in each.state_dict().items()} for each in (denoiser, again))
    if shapes != others or again.predicts != denoiser.predicts:
        raise ValueError(
            f"a denoiser that is saved must be built again by the arguments of its __init__; {type(denoiser).__name__} with "
            f"{dict(settings)} has other weights or predicts something else"
        )


def load_denoiser(folder: Path, settings: Mapping[str, Any] | None, dtype: torch.dtype | None = None) -> Denoiser:
    """Load a denoiser that `save_denoiser` has written.

    **Raises:** `ValueError` if noiselab.json does not name a registered class, or the weights do not fit it.
    """
    if settings is None or "kind" not in settings:
        raise ValueError(f"noiselab.json must name the denoiser as its `network`; that of {str(folder)!r} does not")
    denoiser = _built(settings)
    try:
        stored = load_file(folder / WEIGHTS)
    except (OSError, SafetensorError) as error:
        raise ValueError(f"the weights must be an intact {WEIGHTS}; {str(folder)!r}: {error}") from error
    own = denoiser.state_dict(keep_vars=True)
    shared = {id(own[name]) for name in stored if name in own}
    faults = [f"{name} is missing" for name in own if name not in stored and id(own[name]) not in shared]
    faults += [f"{name} is unexpected" for name in stored if name not in own]
    for name in own.keys() & stored.keys():
        if own[name].shape != stored[name].shape:
            faults.append(f"{name} must have shape {list(own[name].shape)}; it has {list(stored[name].shape)}")
        elif not finite(stored[name]):
            faults.append(f"{name} must be finite")
    if faults:
        raise ValueError(f"the weights must fit {type(denoiser).__name__}; {str(folder)!r}: {'; '.join(faults[:8])}")
    for name, values in stored.items():
        own[name].data = values
    return (denoiser if dtype is None else denoiser.to(dtype)).eval()


def _built(settings: Mapping[str, Any]) -> Denoiser:
    """A denoiser by its registered name and arguments."""
    kind = kind_named(settings["kind"])
    if kind is None or kind.base is not Denoiser:
        refuse(
            "network.kind",
            "name a denoiser that is registered by noiselab.processes.registered (import the module that defines it), or of an "
            "installed package",
            settings["kind"],
        )
    return TreeReader().build(kind, settings, "network")
