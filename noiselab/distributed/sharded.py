"""Networks whose weights are sharded over processes, as evaluations see them."""

from typing import Any

import torch.distributed as dist
from torch import nn


def is_sharded(module: nn.Module) -> bool:
    """Whether weights of a module are sharded over processes (`fully_shard`), so that all of them must call it alike."""
    return bool(_sharded_parts(module))


def reshard(module: nn.Module) -> None:
    """Free weights that were gathered by a forward pass without a backward pass, as in evaluation."""
    for part in _sharded_parts(module):
        part.reshard()


def is_shard(module: nn.Module) -> bool:
    """Whether a module itself was given to `fully_shard`: weights of its own are there only while it is called."""
    if not (dist.is_available() and dist.is_initialized()):
        return False
    from torch.distributed.fsdp import FSDPModule  # takes time to import

    return isinstance(module, FSDPModule)


def _sharded_parts(module: nn.Module) -> list[Any]:
    return [part for part in module.modules() if is_shard(part)]
