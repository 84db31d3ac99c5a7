"""Several processes in tests: threads that tell each other the same bytes, or real ones started by `torchrun`."""

import os
import subprocess
import sys
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

from noiselab.distributed import ProcessError, Processes

ROOT = Path(__file__).parent.parent


class Threads(Processes):
    """A thread in the place of a process; of several, one runs at a time, until it waits for the others."""

    def __init__(self, rank: int, world: int, post: dict[tuple[int, int], bytes], barrier: Any, turn: Any):
        super().__init__(rank, world)
        self.post, self.barrier, self.turn, self.round = post, barrier, turn, 0

    def _gather(self, message: bytes, minutes: float) -> list[bytes]:
        self.post[self.round, self.rank] = message
        self.turn.release()
        try:
            self.barrier.wait()
        except threading.BrokenBarrierError as error:
            raise ProcessError(f"process {self.rank} got no answer") from error
        finally:
            self.turn.acquire()
        self.round += 1
        return [self.post[self.round - 1, rank] for rank in range(self.world)]


def in_threads(world: int, work: Callable[[Processes], Any]) -> list[Any]:
    """The result of each process, or its error."""
    barrier, turn, found = threading.Barrier(world, timeout=60), threading.Lock(), [None] * world
    post: dict[tuple[int, int], bytes] = {}

    def run(rank: int) -> None:
        with turn:
            try:
                found[rank] = work(Threads(rank, world, post, barrier, turn))
            except Exception as error:
                found[rank] = error
                barrier.abort() if isinstance(error, Ended) else None

    threads = [threading.Thread(target=run, args=(rank,)) for rank in range(world)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return found


class Ended(Exception):
    """A process ends without a word to the others."""


def launch(world: int, *arguments: str, timeout: float = 240) -> "subprocess.CompletedProcess[str]":
    """Start a script, or `-m` a module, in processes of one thread each."""
    environment = {
        **os.environ,
        "OMP_NUM_THREADS": "1",
        "PYTHONPATH": os.pathsep.join(map(str, [ROOT, ROOT / "tests", ROOT / "tests" / "pipeline"])),
    }
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", str(world)]
    return subprocess.run([*command, *arguments], env=environment, capture_output=True, text=True, timeout=timeout)
