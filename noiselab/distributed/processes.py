"""Several processes that divide the work of one call, each on a device of its own."""

import atexit
import contextlib
import functools
import json
import os
import re
from collections.abc import Callable, Iterable, Iterator, Sequence
from datetime import timedelta
from typing import Any, TypeAlias

import torch
import torch.distributed as dist
from torch import Tensor

from ..devices import select_device
from ..numerics import require_number
from .failures import GRACE, ProcessError, ending_together, is_inside
from .joining import meet, numbers
from .messages import digest, pack, unpack

Work: TypeAlias = Callable[[Sequence[int]], Iterable[Sequence[Tensor]]]
"""Does the parts of a work that have these numbers, one after another, and gives the tensors of each."""


class Processes:
    """The processes that divide the work of a call, as one of them sees them; made by `join_processes`.

    Functions that take them must be called by all of the processes, in the same order and with the same arguments, and
    return the whole result in each. A part of the work is what one process does at once, such as a batch, and part k belongs
    to process k mod W of W: each part is computed as by a single process, so that the results are the same.

    **Arguments:**

    - `rank`: the index of this process; `world`: the number of processes.
    - `device`: the device of this process.
    - `minutes`: how long a process waits for the others after its share, before it ends with an error. That a process has
      ended is noticed at once.

    **Example:**

    ```python
    import torch
    from noiselab.distributed import join_processes

    processes = join_processes("cpu")  # alone, unless torchrun has started this script
    with processes.together():
        squares = processes.collect(lambda numbers: ([torch.tensor(k * k)] for k in numbers), 3)
    assert [int(found) for (found,) in squares] == [0, 1, 4]
    ```
    """

    def __init__(
        self,
        rank: int = 0,
        world: int = 1,
        *,
        device: torch.device | str = "cpu",
        minutes: float | int = 60,
    ):
        self.rank, self.world, self.device = rank, world, torch.device(device)
        self.minutes = require_number("minutes", minutes, 0, above=True)
        self._told: BaseException | None = None
        self.repeats_first = False
        """Whether this process failed with the error of the first one."""

    @property
    def first(self) -> bool:
        """Whether this is the process that prints and writes."""
        return self.rank == 0

    def collect(
        self, work: Work, count: int, *, about: Sequence[Any] = (), same_calls: bool = False
    ) -> list[list[Tensor]]:
        """Do a share of some work, and return the results of all of it, in order.

        **Arguments:**

        - `work`: does the parts with the numbers that it is given.
        - `count`: the number of parts.
        - `about`: what must be the same in all processes: numbers, texts, tensors, generators.
        - `same_calls`: whether all processes must do the same number of parts, as networks with sharded weights need; some
          parts are then done twice, and count once.

        **Returns:** the tensors of each part; of the parts of others on the CPU.

        **Raises:** `ProcessError` if another process fails; `ValueError` if the processes were asked for different work.
        """
        if self.world == 1:
            return [list(parts) for parts in work(range(count))]
        self._agree(count, about)
        numbers = deal(count, self.rank, self.world, same_calls=same_calls)
        try:
            done = zip(numbers, work([number % count for number in numbers]), strict=True)
            own = {number: list(parts) for number, parts in done}
            message = pack({number: parts for number, parts in own.items() if number < count})
        except Exception as error:
            # Others wait inside of the network for this process if weights are sharded; they notice when it has ended.
            self._told = error if same_calls else self._told
            if not is_inside():  # or they are ended, instead of finishing their shares
                self._tell(error, self.minutes)
            raise
        found = {number: parts for other in self._exchange(message) for number, parts in unpack(other).items()}
        return [own[number] if number in own else found.get(number, []) for number in range(count)]

    @contextlib.contextmanager
    def together(self) -> Iterator["Processes"]:
        """Context manager: all processes leave the block together; an error inside of one is the end of all.

        **Raises:** `ProcessError` with the error of another process, in `collect` or at the end of the block. A process that is
        still at work some seconds later is ended (`noiselab.distributed.ending_together`).
        """
        try:
            with ending_together():
                yield self
                self._exchange(b"")
        except Exception as error:
            self._tell(error, 2 * GRACE / 60)
            raise

    def _agree(self, count: int, about: Sequence[Any]) -> None:
        own = json.dumps([count, digest(about)]).encode()
        others = [rank for rank, other in enumerate(self._exchange(own)) if other != own]
        if others:
            raise ValueError(
                "all processes must make the same call, with the same data and seeds; those of process "
                f"{self.rank} and of {', '.join(map(str, others))} differ"
            )

    def _tell(self, error: BaseException, minutes: float) -> None:
        """Send an error to the others in place of the next message, unless they know it."""
        if error is not self._told and not isinstance(error, ProcessError):
            self._told, text = error, f"{type(error).__name__}: {error}".encode()
            with contextlib.suppress(ProcessError):
                self.repeats_first = self._exchange(text, minutes)[0] == text and not self.first

    def _exchange(self, message: bytes, failed: float | None = None) -> list[bytes]:
        """The messages of all processes; one that fails sends its error in place of the next message, whatever that is, and
        waits for others this number of minutes.
        """
        if self.world == 1:
            return [message]
        found = self._gather(bytes([failed is not None]) + message, self.minutes if failed is None else failed)
        errors = {rank: text[1:].decode() for rank, text in enumerate(found) if text[0] and rank != self.rank}
        if errors and failed is None:
            raise ProcessError("; ".join(f"process {rank} failed with {text}" for rank, text in errors.items()))
        return [text[1:] for text in found]

    def _gather(self, message: bytes, minutes: float) -> list[bytes]:
        """The messages of all processes, as they are, if they come in time."""
        group, limit = _group_of_cpus(dist.group.WORLD), timedelta(minutes=minutes)
        try:
            dist.monitored_barrier(group, timeout=limit)  # names the process that does not come
            sizes = [torch.zeros(1, dtype=torch.long) for _ in range(self.world)]
            dist.all_gather(sizes, torch.tensor([len(message)]), group)
            parts = [torch.zeros(int(max(sizes)), dtype=torch.uint8) for _ in range(self.world)]
            own = torch.zeros_like(parts[0])
            own[: len(message)] = torch.frombuffer(bytearray(message), dtype=torch.uint8)
            dist.all_gather(parts, own, group)
        except RuntimeError as error:
            text = str(error).splitlines()[0]
            silent = re.search(r"Rank (\d+) failed to pass", text)
            raise ProcessError(
                f"process {self.rank} of {self.world} got no answer from "
                + (f"process {silent[1]}" if silent else "another")
                + f", which has ended or took over {minutes:g} minutes longer: {text}"
            ) from error
        return [part[: int(size)].numpy().tobytes() for part, size in zip(parts, sizes, strict=True)]


def require_processes(processes: Processes | None) -> Processes:
    """The processes that divide a call, by default this one alone.

    **Raises:** `ValueError` for anything else, such as a number of processes.
    """
    if processes is not None and not isinstance(processes, Processes):
        raise ValueError(f"processes must be those of noiselab.distributed.join_processes, or None; got {processes!r}")
    return Processes() if processes is None else processes


def join_processes(device: str | None = None, *, minutes: float | int = 60) -> Processes:
    """Join the processes that `torchrun` has started; a script that it has not started is alone.

    **Arguments:**

    - `device`: as for `noiselab.devices.select_device`. An accelerator without an index is the one of this process, by
      `LOCAL_RANK`.
    - `minutes`: as for `Processes`.

    A process that waits for others says so after 15 seconds, and ends after ten minutes.

    **Raises:** `ValueError` if a process has no device of its own, or the environment is not that of `torchrun`;
    `ProcessError` if some processes have not come in time.
    """
    rank, world = numbers()
    place = _own_device(device)
    if dist.is_available() and dist.is_initialized():
        world, rank = dist.get_world_size(), dist.get_rank()
    elif world > 1:
        # Numbers, texts and checkpoints travel between CPUs, so that they never wait for a device.
        backends = {"cpu": "gloo", "cuda": "cpu:gloo,cuda:nccl", "xpu": "cpu:gloo,xpu:xccl"}
        store, rank, world = meet()
        dist.init_process_group(backends.get(place.type), store=store, rank=rank, world_size=world)
        atexit.register(_leave)
    return Processes(rank, world, device=place, minutes=minutes)


def _own_device(name: str | None) -> torch.device:
    device, local = select_device(name), int(os.environ.get("LOCAL_RANK", "0"))
    if device.type == "cpu" or device.index is not None:
        return device
    count = torch.accelerator.device_count()
    if local >= count:
        raise ValueError(f"each process must have a device of its own; got process {local} and {count} devices")
    torch.accelerator.set_device_index(local)
    return torch.device(device.type, local)


def _leave() -> None:
    if dist.is_initialized():
        dist.destroy_process_group()


@functools.lru_cache(maxsize=1)
def _group_of_cpus(everyone: Any) -> Any:
    """A group of all processes for messages between CPUs, apart from what networks and checkpoints say to each other."""
    atexit.register(_group_of_cpus.cache_clear)  # the threads of a group must end before the interpreter, or it aborts
    return dist.new_group(backend="gloo")


def deal(count: int, rank: int, world: int, *, same_calls: bool = False) -> list[int]:
    """The parts of a process: every W-th of `count`, from its index on.

    **Arguments:**

    - `count`: the number of parts; `rank`, `world`: the index of the process, and the number W of processes.
    - `same_calls`: whether each process gets the number of parts of the first. Numbers from `count` on are parts (modulo
      `count`) that are done again and do not count.

    **Example:**

    ```python
    from noiselab.distributed.processes import deal

    assert deal(5, 1, 2) == [1, 3] and deal(5, 1, 2, same_calls=True) == [1, 3, 5]
    ```
    """
    end = -(-count // world) * world if same_calls else count
    return list(range(rank, end, world))
