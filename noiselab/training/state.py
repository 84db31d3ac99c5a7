"""The state of a run in sharded safetensors: written in the background, read by any number of processes.

Tensors are those of `torch.distributed.checkpoint`, by name: `model.`, `optimizer.` and `average.`. Its own format would be
unpickled, so that its safetensors format is used.
"""

import warnings
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
import torch.distributed.checkpoint as dcp
from torch import Tensor, nn
from torch.distributed.checkpoint import HuggingFaceStorageReader, HuggingFaceStorageWriter
from torch.distributed.checkpoint.api import CheckpointException
from torch.distributed.checkpoint.state_dict import (
    StateDictOptions,
    get_model_state_dict,
    get_optimizer_state_dict,
    set_optimizer_state_dict,
)

from .ema import Average
from .layout import Layout

FOLDER = "state"
# A single process has no process group; torch says so at each save, in a thread.
warnings.filterwarnings("ignore", message="torch.distributed is disabled, unavailable or uninitialized")


def trained_tensors(network: nn.Module) -> dict[str, Tensor]:
    """The trained weights and the buffers of a network by name, sharded as they are."""
    found: dict[str, Any] = get_model_state_dict(network, options=StateDictOptions(ignore_frozen_params=True))
    return dict(found)


def tensors_of(
    network: nn.Module, optimizer: torch.optim.Optimizer, average: Average | None
) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """All tensors of a run by name, and the whole state of the optimizer."""
    options = StateDictOptions(flatten_optimizer_state_dict=True)
    state: dict[str, Any] = dict(get_optimizer_state_dict(network, optimizer, options=options))
    found = {f"model.{name}": value for name, value in trained_tensors(network).items()}
    found |= {f"optimizer.{name}": value for name, value in state.items() if isinstance(value, Tensor)}
    if average is not None:
        found |= {f"average.{name}": value for name, value in average.tensors().items()}
    return found, state


def read_state(
    folder: Path, network: nn.Module, optimizer: torch.optim.Optimizer | None, average: Average | None
) -> None:
    """Read the state of a run into a network, its optimizer and its average, in place.

    **Arguments:**

    - `folder`: a checkpoint.
    - `optimizer`: `None` to read the weights alone.

    **Raises:** `ValueError` if the checkpoint is not one of these.
    """
    state: dict[str, Any] = {}
    if optimizer is None:
        tensors = {f"model.{name}": value for name, value in trained_tensors(network).items()}
        if average is not None:
            tensors |= {f"average.{name}": value for name, value in average.tensors().items()}
    else:
        tensors, state = tensors_of(network, optimizer, average)
    try:
        storage = HuggingFaceStorageReader(str(folder / FOLDER))
        dcp.load(tensors, storage_reader=storage, no_dist=not dist.is_initialized())
    except (CheckpointException, RuntimeError, ValueError, OSError, KeyError) as error:
        raise ValueError(f"{folder} must contain the state of this run; {error}") from error
    if optimizer is not None:
        state |= {name.removeprefix("optimizer."): tensors[name] for name in tensors if name.startswith("optimizer.")}
        options = StateDictOptions(flatten_optimizer_state_dict=True)
        set_optimizer_state_dict(network, optimizer, state, options=options)


class StateWriter:
    """Writes the state of a run in the background: training goes on once the tensors are copied.

    **Arguments:**

    - `layout`: the processes, all of which take part.
    """

    def __init__(self, layout: Layout):
        self.layout = layout
        self.group = dist.new_group(backend="gloo") if layout.world > 1 else None
        self.pool = ThreadPoolExecutor(1, thread_name_prefix="checkpoint")
        self.pending: Future[None] | None = None

    def write(self, folder: Path, tensors: dict[str, Tensor], finish: Callable[[], None]) -> None:
        """Copy tensors, and write them in the background.

        **Arguments:**

        - `folder`: the checkpoint.
        - `finish`: called in the background when all processes have written.
        """
        self.wait()
        storage = HuggingFaceStorageWriter(str(folder / FOLDER), save_distributed=True)
        alone = not dist.is_initialized()
        written: Any = dcp.async_save(tensors, storage_writer=storage, process_group=self.group, no_dist=alone)

        def work() -> None:
            try:
                written.result()
            except CheckpointException as error:  # no `Exception`, and of all processes
                raise next((found for found, _ in error.failures.values()), OSError(str(error))) from error
            finish()

        self.pending = self.pool.submit(work)

    def wait(self) -> None:
        """Wait until the last state is written.

        **Raises:** what went wrong in the background.
        """
        pending, self.pending = self.pending, None
        if pending is not None:
            pending.result()
