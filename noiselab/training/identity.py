"""What identifies a run: the settings, data and weights that must be the same when it is resumed."""

import hashlib
import json
import logging
from collections.abc import Mapping
from dataclasses import asdict
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.utils.data import IterableDataset

from .options import Optimization

logger = logging.getLogger(__name__)


def settings_of_run(
    network: nn.Module, optimization: Optimization, dataset: Any, noise: Mapping[str, Any], more: Mapping[str, Any]
) -> dict[str, Any]:
    """The settings that a resumed run must share, of JSON types.

    **Arguments:**

    - `network`: its frozen weights count by their contents, the others by their shapes.
    - `optimization`: all but `micro_batch` counts.
    - `dataset`: the training data, which count by their contents.
    - `noise`, `more`: the settings of the loss, and those of the user.
    """
    numbers = asdict(optimization)
    del numbers["micro_batch"]
    frozen = {name: p for name, p in network.named_parameters() if not p.requires_grad}
    settings = {
        "optimization": numbers,
        **noise,
        "weights": {name: list(p.shape) for name, p in network.named_parameters()},
        **({"frozen": fingerprint(frozen)} if frozen else {}),
        "data": data_settings(dataset),
        **more,
    }
    return json.loads(json.dumps(settings))


def sums_of(network: nn.Module) -> str:
    """A short text that changes with the weights of a network: a hash of the sums of each weight and of its squares."""
    sums = [torch.stack([w.sum(dtype=torch.float64), (w * w).sum(dtype=torch.float64)]) for w in network.parameters()]
    values = torch.stack([one.detach().cpu() for one in sums]) if sums else torch.zeros(0)
    return hashlib.sha256(values.numpy().tobytes()).hexdigest()[:16]


def fingerprint(tensors: Mapping[str, Tensor]) -> str:
    """A hash of named tensors."""
    digest = hashlib.blake2b(digest_size=16)
    for name, tensor in tensors.items():
        digest.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}".encode())
        digest.update(tensor.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy().tobytes())
    return digest.hexdigest()


def data_settings(dataset: Any) -> dict[str, Any]:
    """Settings that identify the training data by their contents, wherever and whenever these were written."""
    if isinstance(dataset, IterableDataset):
        return {"stream": type(dataset).__name__, "contents": stream_contents(dataset)}
    return {"rows": len(dataset), "contents": row_contents(dataset)}


def stream_contents(dataset: Any) -> str | None:
    """The `key` of a stream, or `None`, with a warning, if it has none."""
    key = getattr(dataset, "key", None)
    if not isinstance(key, str):
        logger.warning(
            "a resumed run cannot notice that the data of this %s have changed: give it an attribute key, a string that "
            "changes whenever its contents do",
            type(dataset).__name__,
        )
        return None
    return key


def row_contents(dataset: Any) -> str:
    """The `key` of a data set, or a hash of all its rows if it has none."""
    key = getattr(dataset, "key", None)
    if isinstance(key, str):
        return key
    digest = hashlib.sha256()
    with torch.random.fork_rng(
        devices=[]
    ):  # rows that draw random numbers are the same each time, and change no others
        torch.manual_seed(0)
        for index in range(len(dataset)):
            digest.update(f"row {index}".encode())
            _add(digest, dataset[index])
    return digest.hexdigest()


def _add(digest: Any, value: Any) -> None:
    """Add a row or one of its values to a hash."""
    if isinstance(value, Mapping):
        for name, part in value.items():
            digest.update(repr(name).encode())
            _add(digest, part)
    elif isinstance(value, Tensor | np.ndarray):
        array = np.ascontiguousarray(value)
        digest.update(f"{array.dtype} {array.shape}".encode())
        digest.update(array.tobytes())
    else:
        digest.update(repr(value).encode("utf-8", "surrogatepass"))
