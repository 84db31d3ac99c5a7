"""The processes of a run and their devices, and how a network is distributed over them."""

import contextlib
import copy
import inspect
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.distributed.device_mesh import DeviceMesh, init_device_mesh
from torch.distributed.fsdp import FSDPModule, MixedPrecisionPolicy, fully_shard
from torch.nn.parallel import DistributedDataParallel

from ..distributed import barrier, join_processes
from ..distributed.joining import numbers
from .initial import FirstWeights


class Layout(NamedTuple):
    """The processes of a run.

    **Arguments:**

    - `device`: the device of this process.
    - `rank`, `world`: the index of this process, and the number of processes.
    - `shards`: the number of processes that share one copy of the weights; 1 if each has its own.
    """

    device: torch.device
    rank: int = 0
    world: int = 1
    shards: int = 1

    @property
    def first(self) -> bool:
        """Whether this is the process that prints and writes."""
        return self.rank == 0

    def mesh(self) -> DeviceMesh:
        """The mesh over which weights are sharded: [shards], or [replicas, shards]."""
        kind = self.device.type
        if self.shards == self.world:
            return init_device_mesh(kind, (self.world,), mesh_dim_names=("shard",))
        sizes = self.world // self.shards, self.shards
        return init_device_mesh(kind, sizes, mesh_dim_names=("replicate", "shard"))


def start_processes(*, cpu: bool = False, shards: int = 1) -> Layout:
    """The layout of this run, from the environment that `torchrun` sets; joins the other processes if there are any.

    **Arguments:**

    - `cpu`: do not use an accelerator.
    - `shards`: the number of processes that share one copy of the weights; 0 for all of them.

    **Raises:** `ValueError` if `shards` does not divide the number of processes, or a process has no device of its own.
    """
    world = numbers()[1]
    if shards < 0 or world % (shards or world):
        raise ValueError(f"shards must divide the number of processes, {world}, or be 0 for all; got {shards}")
    joined = join_processes("cpu" if cpu else None)
    return Layout(joined.device, joined.rank, joined.world, shards or joined.world)


@contextlib.contextmanager
def first_alone(layout: Layout) -> Iterator[None]:
    """Context manager: the first process does the work inside before the others, which find what it has written."""
    if not layout.first:
        barrier()
    yield
    if layout.first:
        barrier()


def blocks_of(network: nn.Module) -> list[nn.Module]:
    """The repeated blocks of a network, which are sharded and compiled one by one: those of its longest list of modules."""
    lists = [part for part in network.modules() if isinstance(part, nn.ModuleList)]
    sizes = [sum(weight.numel() for weight in part.parameters()) for part in lists]
    return list(lists[sizes.index(max(sizes))]) if lists else []


def distribute(
    module: nn.Module,
    network: nn.Module,
    layout: Layout,
    *,
    precision: torch.dtype | None = None,
    first: FirstWeights | None = None,
) -> nn.Module:
    """Distribute a module over the processes: a copy in each, or weights that are sharded block by block.

    **Arguments:**

    - `module`: the module whose `forward` is one pass of training, with the output projection inside.
    - `network`: the network in it.
    - `precision`: the dtype in which sharded weights are gathered; by default that of the weights.
    - `first`: fills a network without memory that is sharded, part by part.

    **Returns:** the module to call; sharded modules are changed in place.
    """
    if layout.world == 1:
        return module
    if layout.shards == 1:
        own = None if layout.device.type == "cpu" else [layout.device]
        # Buffers are those of the network, the same in each process. Newer versions of torch have another name for it.
        newer = "forward_sync_buffers" in inspect.signature(DistributedDataParallel.__init__).parameters
        settings: dict[str, Any] = {"forward_sync_buffers" if newer else "broadcast_buffers": False}
        return DistributedDataParallel(module, device_ids=own, **settings)
    mesh = layout.mesh()
    # Inputs keep their dtype: angles and times would lose digits.
    policy = MixedPrecisionPolicy(
        param_dtype=precision, reduce_dtype=None if precision is None else torch.float32, cast_forward_inputs=False
    )
    blocks = blocks_of(network)
    for block in blocks:
        if first is not None:
            first.fill(block)
        fully_shard(block, mesh=mesh, mp_policy=policy)
    if first is not None:
        first.fill(network, blocks)
    fully_shard(module, mesh=mesh, mp_policy=policy)
    return module


@contextlib.contextmanager
def summed_later(module: nn.Module, later: bool) -> Iterator[None]:
    """Context manager: with `later`, gradients stay in each process, to be summed with those of a later pass."""
    if isinstance(module, DistributedDataParallel):
        with module.no_sync() if later else contextlib.nullcontext():
            yield
        return
    if isinstance(module, FSDPModule):
        module.set_requires_gradient_sync(not later)
    yield


def full_tensor(value: Any) -> Any:
    """A tensor without shards; all processes must call this."""
    gather = getattr(value, "full_tensor", None)
    return value if gather is None else gather()


def gathered(network: nn.Module, folder: Path | None) -> dict[str, Tensor]:
    """The weights of a sharded network without shards, and its buffers, by name; all processes must call this.

    **Arguments:**

    - `folder`: where the process that keeps them has a file for each, mapped into memory, so that it holds only one at a time;
      `None` in other processes, which get nothing.
    """
    found: dict[str, Tensor] = {} if folder is None else dict(network.named_buffers())
    made: dict[int, Tensor] = {}  # of tied weights there is one
    for name, weight in network.named_parameters(remove_duplicate=False):
        if id(weight) not in made:
            whole = full_tensor(weight.detach())
            if folder is not None and whole.numel():
                file = str(folder / str(len(made)))
                whole = (
                    torch.from_file(file, shared=True, size=whole.numel(), dtype=whole.dtype)
                    .view_as(whole)
                    .copy_(whole)
                )
            made[id(weight)] = nn.Parameter(whole, weight.requires_grad) if folder is not None else weight
        found |= {} if folder is None else {name: made[id(weight)]}
    return found


def hollow(network: nn.Module) -> nn.Module:
    """A copy of a network whose weights have no memory."""
    empty = {
        id(weight): nn.Parameter(torch.empty_like(weight, device="meta"), requires_grad=weight.requires_grad)
        for weight in network.parameters()
    }
    return copy.deepcopy(network, empty)
