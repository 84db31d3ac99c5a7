"""The end of a run of several processes when one of them fails: the others end, too, and say why.

A process that fails leaves its error in the store through which the processes found each other, and ends. The others either
notice that a connection is closed, or a thread finds the error there, whatever they wait for.
"""

import contextlib
import itertools
import json
import os
import sys
import threading
import time
from collections.abc import Iterator
from datetime import timedelta
from typing import Any

import torch.distributed as dist

from .processes import ProcessError

GRACE = 10.0
"""Seconds that a process has to end by itself when another one has failed, before it is ended."""
SOON = 3.0
"""Seconds in which a process that fails leaves its error."""

_blocks = itertools.count()
_inside = False


@contextlib.contextmanager
def ending_together() -> Iterator[None]:
    """Context manager: an error of one process in the block is the end of all, also of those that wait for it.

    All processes that `torchrun` has started must enter the same blocks in the same order; a block inside another is part
    of it. An error that all processes have is raised in each, and they may go on.

    Without this a process that waits for another which caught its error would wait for half an hour, or for ever.

    **Raises:** `ProcessError`, which names the process that failed first and its error, where a process loses the connection
    to another. A process that waits for anything else is ended with this message after `GRACE` seconds.

    **Example:**

    ```python
    from noiselab.distributed import ending_together

    with ending_together():
        pass  # work of several processes
    ```
    """
    global _inside
    if _inside or int(os.environ.get("WORLD_SIZE", "1")) == 1:
        yield
        return
    _inside, board = True, _Board(next(_blocks))
    watch = _Watch(board)
    watch.start()
    try:
        yield
    except BaseException as error:
        if isinstance(error, ProcessError):
            raise
        failure = board.first_error(error)
        if failure is None:
            raise
        raise ProcessError(failure) from error
    finally:
        _inside = False
        watch.ended.set()


class _Board:
    """The place in the store where the first error of a block is left.

    **Arguments:**

    - `number`: the number of the block in this process.
    """

    def __init__(self, number: int):
        self.rank = int(os.environ.get("RANK", "0"))
        # A job that torchrun starts again finds the store as it was.
        self.key = f"noiselab/failed/{os.environ.get('TORCHELASTIC_RESTART_COUNT', '0')}/{number}"
        self._store: Any = None

    def read(self) -> str | None:
        """What is written there by another process; `None` if there is nothing, or no store."""
        with contextlib.suppress(RuntimeError, ValueError, KeyError):
            store = self._connected()
            if store.check([self.key]):
                found = json.loads(store.get(self.key))
                return None if found["rank"] == self.rank else str(found["text"])
        return None

    def write(self, text: str) -> None:
        """Write an error, unless there is one."""
        with contextlib.suppress(RuntimeError, KeyError):
            self._connected().compare_set(self.key, "", json.dumps({"rank": self.rank, "text": text[:4000]}))

    def first_error(self, error: BaseException) -> str | None:
        """Describe the error of another process that has caused this one; `None` if it is an error of this process."""
        if not _lost_connection(error):
            self.write(f"process {self.rank} failed with {type(error).__name__}: {error}")
            return None
        end = time.monotonic() + SOON
        while (found := self.read()) is None and time.monotonic() < end:
            time.sleep(0.05)
        if found is None:
            found = "another process has ended without an error of its own, killed by a signal or for lack of memory"
            self.write(f"process {self.rank} says that {found}")
        return found

    def _connected(self) -> Any:
        if self._store is None:
            address, port = os.environ["MASTER_ADDR"], int(os.environ["MASTER_PORT"])
            self._store = dist.TCPStore(address, port, wait_for_workers=False, timeout=timedelta(seconds=GRACE))
        return self._store


class _Watch(threading.Thread):
    """Ends this process some time after another one has failed, if it is still in the block.

    **Arguments:**

    - `board`: the block.
    """

    def __init__(self, board: _Board):
        super().__init__(name="failures of other processes", daemon=True)
        self.board, self.ended = _Board.__new__(_Board), threading.Event()
        self.board.rank, self.board.key, self.board._store = board.rank, board.key, None  # a connection of its own

    def run(self) -> None:
        """Look for an error each second."""
        while not self.ended.wait(1):
            failure = self.board.read()
            if failure is not None and not self.ended.wait(GRACE):
                print(f"process {self.board.rank} is ended: {failure}", file=sys.stderr, flush=True)
                os._exit(1)


def _lost_connection(error: BaseException) -> bool:
    """Whether an error is one of communication, as processes have it when another has ended."""
    text = str(error).lower()
    return isinstance(error, dist.DistError) or (
        isinstance(error, RuntimeError) and any(word in text for word in ("gloo", "nccl", "connection closed"))
    )
