"""What identifies a run: the settings, data and weights that must be the same when it is resumed."""

import hashlib
import json
import logging
import re
from collections.abc import Mapping
from dataclasses import asdict
from typing import Any

import numpy as np
import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.distributed.tensor import DTensor, Shard
from torch.utils.data import IterableDataset

from ..distributed import total
from ..files import as_json
from .options import Optimization

logger = logging.getLogger(__name__)

CHUNK = 1 << 20
"""Elements that are summed at once."""
INTEGERS = {1: torch.int8, 2: torch.int16, 4: torch.int32, 8: torch.int64}


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
    return json.loads(as_json(settings))  # infinities as they are stored


def in_words(setting: Any) -> str:
    """The name of a function, or the settings of an object; without addresses, which differ in each process."""
    return getattr(setting, "__name__", None) or re.sub(r" at 0x[0-9a-fA-F]+", "", repr(setting))


def fingerprint(tensors: Mapping[str, Tensor]) -> str:
    r"""A hash of named tensors, the same however they are sharded; of sharded ones all processes must call it.

    With the elements' bits as integers $b_i$, it is one of $\sum_i b_i$ and $\sum_i (2 i + 1) b_i$ modulo $2^{64}$ for each
    tensor, which are exact in any order, so that no process needs more than its own elements.
    """
    shared = any(isinstance(tensor, DTensor) for tensor in tensors.values())
    adds_whole = not shared or dist.get_rank() == 0
    sums = torch.stack([_sums(tensor, adds_whole) for tensor in tensors.values()]) if tensors else torch.zeros(0, 2)
    sums = total(sums) if shared else sums
    digest = hashlib.blake2b(digest_size=16)
    for (name, tensor), values in zip(tensors.items(), sums, strict=True):
        digest.update(f"{name} {tensor.dtype} {tuple(tensor.shape)} {values.tolist()}".encode())
    return digest.hexdigest()


@torch.no_grad()
def _sums(tensor: Tensor, adds_whole: bool) -> Tensor:
    """Both sums over the elements that this process adds, int64 [2] on the CPU; not of whole tensors if another does."""
    flat, first = (tensor.reshape(-1), 0) if not isinstance(tensor, DTensor) else _own_elements(tensor)
    if not adds_whole and not isinstance(tensor, DTensor):
        flat = flat[:0]
    flat = flat.detach().contiguous()
    bits = flat.view(torch.uint8 if flat.dtype == torch.bool else INTEGERS[flat.itemsize])
    sums = torch.zeros(2, dtype=torch.int64, device=flat.device)
    for start in range(0, len(bits), CHUNK):
        part = bits[start : start + CHUNK].long()
        factors = torch.arange(first + start, first + start + len(part), device=flat.device).mul_(2).add_(1)
        sums += torch.stack([part.sum(), factors.mul_(part).sum()])
    return sums.cpu()


def _own_elements(tensor: DTensor) -> tuple[Tensor, int]:
    """The elements of a sharded tensor that this process adds, as a row, and the index of the first of them."""
    own, first, mesh = tensor.to_local().reshape(-1), 0, tensor.device_mesh
    for place, placement in enumerate(tensor.placements):
        rank = mesh.get_local_rank(place)
        if isinstance(placement, Shard):  # of the first axis, as `fully_shard` does it
            rows = -(-len(tensor) // mesh.size(place))
            first = min(rank * rows, len(tensor)) * (tensor.numel() // max(1, len(tensor)))
        elif rank:
            own = own[:0]  # one of several copies
    return own, first


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
