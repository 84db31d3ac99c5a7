"""Communication between the processes of a data-parallel run, without pickling."""

import json
from typing import Any

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
