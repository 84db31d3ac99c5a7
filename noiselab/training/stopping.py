"""One run in a folder at a time, and the end of a run that receives a signal to stop."""

import logging
import signal
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from filelock import BaseFileLock, FileLock, Timeout
from torch.utils.data import DataLoader

logger = logging.getLogger(__name__)

LOCK = ".lock"
STOPPED = 128 + signal.SIGTERM  # the exit status that shells give a process that SIGTERM ended


def lock(run: Path) -> BaseFileLock | None:
    """Take the lock of a run's folder; the system frees it when the process ends, however it ends.

    **Arguments:**

    - `run`: the folder; it is created if it does not exist.

    **Returns:** the lock, to be released, or `None` on a file system that has no locks.

    **Raises:** `ValueError` if another run has the lock.
    """
    run.mkdir(parents=True, exist_ok=True)
    held = FileLock(run / LOCK, timeout=0)
    try:
        held.acquire()
    except Timeout as error:
        raise ValueError(
            f"a folder must be used by one run at a time; another run is using {run}: wait for its end, stop it, or choose "
            "another output folder"
        ) from error
    except NotImplementedError:
        logger.warning("%s is on a file system without locks: make sure that only one run uses it", run)
        return None
    return held


class Termination:
    """Notes SIGTERM, which clusters send some time before they kill a process, so that a run can save before it ends."""

    asked = False

    @contextmanager
    def noted(self) -> Iterator[None]:
        """Note the signal instead of ending the process, unless it is ignored or this is not the main thread.

        A handler that the program has already set is called as well.
        """
        self.asked = False
        before = signal.getsignal(signal.SIGTERM)
        if threading.current_thread() is not threading.main_thread() or before in (signal.SIG_IGN, None):
            yield
            return

        def note(number: int, frame: Any) -> None:
            self.asked = True
            if callable(before):
                before(number, frame)

        signal.signal(signal.SIGTERM, note)
        try:
            yield
        finally:
            signal.signal(signal.SIGTERM, before)


class Shielded:
    """The function that starts a loader's worker, made to ignore SIGTERM.

    Clusters send the signal to all processes of a job; without its workers a run could not finish its step.

    **Arguments:**

    - `start`: called first with the worker's number, unless it is `None`.
    """

    def __init__(self, start: Callable[[int], None] | None) -> None:
        self.start = start

    def __call__(self, worker: int) -> None:
        """Start the worker."""
        signal.signal(signal.SIGTERM, signal.SIG_IGN)
        if self.start is not None:
            self.start(worker)


def shielded(loader: DataLoader[Any]) -> DataLoader[Any]:
    """Make the workers of a loader ignore SIGTERM.

    **Arguments:**

    - `loader`: changed in place.

    **Returns:** the same loader.
    """
    if loader.num_workers and not isinstance(loader.worker_init_fn, Shielded):
        loader.worker_init_fn = Shielded(loader.worker_init_fn)
    return loader
