"""The end of a run of several processes when one of them fails: the others end, too, and say why.

A process that fails leaves its error in the store through which the processes found each other. The others find it there when
they lose the connection to a process that has ended; a thread looks for it, too, and ends a process that waits in vain.
"""

import contextlib
import itertools
import json
import os
import socket
import sys
import threading
import time
import uuid
from collections.abc import Iterator
from datetime import timedelta
from typing import Any

import torch.distributed as dist

GRACE = 10.0
"""Seconds in which a process ends by itself when another one has failed; then it is ended."""
SOON = 3.0
"""Seconds in which a process that has failed leaves its error."""
LONGEST = 4000
"""Characters of an error that are passed on."""

_blocks = itertools.count()
_inside = False
_start, _meeting = uuid.uuid4().hex, ""
"""What distinguishes this process and this meeting of processes from earlier ones, whose errors are left in the same store."""


class ProcessError(RuntimeError):
    """Another process failed, has ended, or did not answer in time."""


def have_met(meeting: str) -> None:
    """Note at which meeting of processes this one was; their errors are kept apart from those of earlier meetings by it."""
    global _meeting
    _meeting = meeting


def is_inside() -> bool:
    """Whether this is in a block of `ending_together`, so that the others learn of an error that leaves it."""
    return _inside


@contextlib.contextmanager
def ending_together() -> Iterator[None]:
    """Context manager: an error of one process in the block ends all of them, also those that wait for it.

    The processes that `torchrun` has started must enter the same blocks in the same order; a block inside another is a part of
    it. An error that all processes have, each raises, and they may go on. Without several processes it does nothing.

    **Raises:** `ProcessError`, which names the process that failed first and its error, in a process that loses the connection
    to another. A process that still waits for something after `GRACE` seconds prints this message and exits with status 1.

    **Example:**

    ```python
    from noiselab.distributed import ending_together

    with ending_together():
        pass  # what several processes do together
    ```
    """
    global _inside
    if _inside or os.environ.get("WORLD_SIZE", "1") in ("", "1"):
        yield
        return
    _inside, number = True, next(_blocks)
    watch = _Watch(number)
    watch.start()
    try:
        yield
    except BaseException as error:
        failure = _Board(number).cause(error)
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
        self.rank, self.number = int(os.environ.get("RANK", "0")), number
        self.store: Any = None

    @property
    def key(self) -> str:
        """Where the error is left."""
        return f"noiselab/failed/{_meeting or 'before'}/{self.number}"

    def read(self) -> str | None:
        """The error of another process; `None` if there is none, or no store."""
        with contextlib.suppress(RuntimeError, ValueError, KeyError):
            left = self._left()
            if left and not self._is_old(found := json.loads(left)) and found["rank"] != self.rank:
                return str(found["text"])
        return None

    def write(self, text: str) -> None:
        """Leave an error, unless there is one."""
        with contextlib.suppress(RuntimeError, ValueError, KeyError):
            left = self._left()
            if not left or self._is_old(json.loads(left)):
                error = {"rank": self.rank, "start": _start, "text": text[:LONGEST]}
                self._connected().compare_set(self.key, left, json.dumps(error))

    def _left(self) -> str:
        """What is left there; empty if nothing is."""
        store = self._connected()
        return str(store.get(self.key).decode()) if store.check([self.key]) else ""

    def _is_old(self, error: dict[str, Any]) -> bool:
        """Whether an error is of a process in whose place another one has been started since."""
        store, place = self._connected(), f"noiselab/start/{error['rank']}"
        return not store.check([place]) or store.get(place).decode() != error["start"]

    def cause(self, error: BaseException) -> str | None:
        """Describe the failure of another process that has caused this error; `None`, and left, if it is an own one."""
        if not _lost_connection(error):
            if isinstance(error, ProcessError):
                return None
            self.write(f"process {self.rank} failed with {type(error).__name__}: {error}")
            return None
        names = isinstance(error, ProcessError) and "no answer from process" in str(error)
        end = time.monotonic() + (0 if names else SOON)  # what names the silent process comes before what does not
        while (found := self.read()) is None and time.monotonic() < end:
            time.sleep(0.05)
        if found is None and isinstance(error, ProcessError):
            found = str(error)
            self.write(found)
        if found is None:
            found = (
                f"process {self.rank} lost the connection to another, which has ended without an error (it was killed, ran out "
                "of memory, or did not make the same calls)"
            )
            self.write(found)
        return found

    def _connected(self) -> Any:
        if self.store is None:
            address, port = os.environ["MASTER_ADDR"], int(os.environ["MASTER_PORT"])
            if not answers(address, port):  # torch would try for a while, and say so each time
                raise RuntimeError(f"nobody answers at {address}:{port}")
            self.store = dist.TCPStore(address, port, wait_for_workers=False, timeout=timedelta(seconds=GRACE))
            self.store.set(f"noiselab/start/{self.rank}", _start)
        return self.store


class _Watch(threading.Thread):
    """Ends this process some time after another one has failed, if it is still in the block.

    **Arguments:**

    - `number`: the number of the block.
    """

    def __init__(self, number: int):
        super().__init__(name="failures of other processes", daemon=True)
        self.board, self.ended = _Board(number), threading.Event()

    def run(self) -> None:
        """Look for an error each second."""
        while not self.ended.wait(1):
            if self.board.read() is None or self.ended.wait(GRACE):
                continue
            # Read again: the process that left it may have been started anew, later than this one.
            if (failure := self.board.read()) is not None:
                print(f"process {self.board.rank} is ended: {failure}", file=sys.stderr, flush=True)
                os._exit(1)


def answers(address: str, port: int) -> bool:
    """Whether somebody is at the address where the processes meet."""
    try:
        with socket.create_connection((address, port), timeout=5):
            return True
    except OSError:
        return False


def _lost_connection(error: BaseException | None) -> bool:
    """Whether an error comes from communication, as of a process that waits for one that has ended."""
    while error is not None:
        text = str(error)
        if isinstance(error, dist.DistError) or "gloo/transport" in text or "NCCL" in text:
            return True
        error = error.__cause__ or error.__context__
    return False
