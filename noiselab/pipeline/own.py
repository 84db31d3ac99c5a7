"""A user's own denoiser in a pipeline: what it must offer, and how it is saved and loaded."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_model
from torch import Tensor

from ..denoisers import Denoiser
from ..denoisers.base import WrappedDenoiser, in_a_line
from ..files import write_text
from ..networks.canvas import CanvasNetwork
from ..networks.model_folders import finite
from ..numerics import require_count
from ..process import NoiseProcess
from ..processes.from_tree import TreeReader, refuse
from ..processes.registry import kind_named, kind_of
from ..processes.to_tree import TreeWriter
from ..typing import Selection, Times, Tokens

MODEL_TYPE = "noiselab_denoiser"
WEIGHTS = "model.safetensors"


class FirstLogits(WrappedDenoiser):
    """A denoiser with more logits than the process has tokens, of which the first are used.

    **Arguments:**

    - `inner`: the denoiser.
    - `states`: the number of tokens of the process.
    """

    def __init__(self, inner: Denoiser, states: int):
        super().__init__(inner)
        self.states = states

    def forward(self, z: Tokens, t: Times, rows: Selection | None = None) -> Tensor:
        """The first logits."""
        return self.inner(z, t, rows)[..., : self.states]


def logits_count(network: Any) -> int:
    """The number of logits of a network: that of its config, or of a denoiser or a network of canvases."""
    own = isinstance(network, Denoiser | CanvasNetwork)
    size: Any = network.vocab_size if own else network.config.vocab_size
    return int(size)


def check_denoiser(denoiser: Denoiser, process: NoiseProcess) -> None:
    """Check that a denoiser offers what a pipeline needs, by one call on two tokens.

    **Raises:** `ValueError` for a denoiser without `vocab_size`, or whose logits do not have that width.
    """
    name = type(denoiser).__name__
    size = getattr(denoiser, "vocab_size", None)
    if size is None:
        raise ValueError(
            f"a denoiser in a pipeline must have an attribute vocab_size, the number of its logits; {name} has none (pass the "
            "network itself if it is a DiT or a model of transformers)"
        )
    size = require_count(f"vocab_size of {name}", size)
    limit = getattr(denoiser, "max_length", None)
    if limit is not None:
        require_count(f"max_length of {name}, the longest sequence,", limit)
    data = process.data_tokens("cpu").nonzero()[:2, 0]
    if int(data.max()) >= size:
        raise ValueError(f"the model must cover all tokens; it has {size}, the noise {process.vocab_size}")
    place = next((own.device for own in [*denoiser.parameters(), *denoiser.buffers()]), torch.device("cpu"))
    time = torch.full((1,), sum(process.domain) / 2, dtype=torch.float64, device=place)
    training = denoiser.training
    try:
        with torch.no_grad():
            logits = denoiser.eval()(data[None].to(place), time)
    except Exception as error:
        raise ValueError(
            f"a denoiser must return logits of clean tokens from tokens [batch, length] and times [batch], float64; "
            f"{in_a_line(denoiser)} failed with: {error}"
        ) from error
    finally:
        denoiser.train(training)
    if not isinstance(logits, Tensor) or logits.shape != (1, len(data), size) or not logits.is_floating_point():
        came = f"{logits.dtype} {list(logits.shape)}" if isinstance(logits, Tensor) else type(logits).__name__
        raise ValueError(
            f"a denoiser must return floating-point logits [batch, length, vocab_size]; {in_a_line(denoiser)} with "
            f"vocab_size {size} returned {came} for {len(data)} tokens"
        )


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
    again = _built(settings)
    shapes, others = ({key: own.shape for key, own in each.state_dict().items()} for each in (denoiser, again))
    if shapes != others or again.predicts != denoiser.predicts:
        raise ValueError(
            f"a denoiser that is saved must be built again by the arguments of its __init__; {name} with {dict(settings)} "
            "has other weights or predicts something else"
        )
    save_model(denoiser, str(folder / WEIGHTS), {"format": "pt"})
    write_text(folder / "config.json", json.dumps({"model_type": MODEL_TYPE, "architectures": [name]}, indent=2) + "\n")


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
