"""What processes tell each other. Nothing is pickled: tensors travel in the format of safetensors, other values as JSON."""

import hashlib
import json
from collections.abc import Sequence
from typing import Any

import safetensors.torch
import torch
import torch.distributed as dist
from torch import Tensor


def parallel() -> bool:
    """Whether this is one of several processes."""
    return dist.is_available() and dist.is_initialized() and dist.get_world_size() > 1


def barrier() -> None:
    """Wait for all processes."""
    if parallel():
        dist.barrier()


def total(value: Tensor) -> Tensor:
    """The sum over all processes."""
    if not parallel():
        return value
    value = value.clone()
    dist.all_reduce(value)
    return value


def broadcast(value: Any) -> Any:
    """Return the first process's value, of JSON types; the arguments of the others are ignored."""
    if not parallel():
        return value
    text = torch.frombuffer(bytearray(json.dumps(value).encode()), dtype=torch.uint8)
    size = torch.tensor(len(text))
    dist.broadcast(size, 0)
    if dist.get_rank() != 0:
        text = torch.empty(int(size), dtype=torch.uint8)
    dist.broadcast(text, 0)
    return json.loads(bytes(text.tolist()))


def pack(parts: dict[int, list[Tensor]]) -> bytes:
    """Numbered lists of tensors as bytes."""
    tensors = {
        f"{number} {i}": part.detach().cpu().clone() for number, own in parts.items() for i, part in enumerate(own)
    }
    return safetensors.torch.save({name: part.contiguous() for name, part in tensors.items()})


def unpack(message: bytes) -> dict[int, list[Tensor]]:
    """The lists of tensors that `pack` has made bytes."""
    found: dict[int, list[Tensor]] = {}
    tensors = safetensors.torch.load(message)
    for number, i in sorted(tuple(map(int, name.split())) for name in tensors):
        found.setdefault(number, []).append(tensors[f"{number} {i}"])
    return found


def digest(values: Sequence[Any]) -> str:
    """A hash of numbers, texts, tensors and generators."""
    found = hashlib.sha256()
    for value in values:
        if isinstance(value, torch.Generator):
            value = value.get_state()
        if isinstance(value, Tensor):
            found.update(f"{value.dtype} {list(value.shape)}".encode())
            found.update(value.detach().cpu().contiguous().view(torch.uint8).numpy().tobytes())
        else:
            found.update(repr(value).encode())
    return found.hexdigest()
