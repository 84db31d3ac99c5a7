"""One run in a folder at a time, and the end of a run that receives a signal to stop."""

import contextlib
import logging
import signal
import threading
import time
import uuid
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from filelock import BaseFileLock, FileLock, Timeout
from torch.utils.data import DataLoader

from ..distributed import barrier, broadcast, total
from .layout import Layout

logger = logging.getLogger(__name__)

LOCK = ".lock"
SEEN = 10.0
"""Seconds after which a file that one process has written must be there for the others."""
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


def check_shared(run: Path, layout: Layout) -> None:
    """Check that all processes see the same folder: each writes its part of a checkpoint, which only a whole one can resume.

    **Raises:** `ValueError`, in all processes.
    """
    name = broadcast(f".shared-{uuid.uuid4().hex}")
    file, missing = run / name, torch.zeros(layout.world, dtype=torch.long)
    if layout.first:
        with contextlib.suppress(OSError):  # the others miss it
            file.touch()
    barrier()
    end = time.monotonic() + SEEN  # file systems of networks may be late
    while not file.exists() and time.monotonic() < end:
        time.sleep(0.1)
    missing[layout.rank] = not file.exists()
    absent = [str(rank) for rank, count in enumerate(total(missing).tolist()) if count]
    if layout.first:
        file.unlink(missing_ok=True)
    if absent:
        raise ValueError(
            f"all processes must see the same output folder; what process 0 has written in {run} is not there for process "
            f"{', '.join(absent[:8])}{' ...' if len(absent) > 8 else ''} (choose a folder that all machines share, by the same "
            "path, or save_every=0 for no checkpoints)"
        )


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
