"""Runs in each of several processes, one of which ends in the given way; the others write what they learn of it."""

import os
import signal
import sys
import time
from pathlib import Path

import torch

from noiselab.distributed import ProcessError, join_processes


def main(how: str, folder: Path) -> None:
    processes = join_processes("cpu", minutes=0.05 if how == "hangs" else 5)
    last = processes.rank == processes.world - 1
    begun = time.monotonic()

    def work(numbers):
        for k in numbers:
            if not last and how == "works":
                time.sleep(60)
            if last and how in ("raises", "works"):
                raise OSError("the disk is full")
            if last and how == "killed":
                os.kill(os.getpid(), 9)
            if last and how == "hangs":
                time.sleep(12)
            yield [torch.tensor(k)]

    try:
        with processes.together():
            found = [int(k) for (k,) in processes.collect(work, 5)]
            (folder / f"{processes.rank}").write_text(str(found))
    except ProcessError as error:
        (folder / f"{processes.rank}").write_text(f"{time.monotonic() - begun:.1f} {error}")
    os._exit(0)


if __name__ == "__main__":
    signal.signal(signal.SIGTERM, signal.SIG_IGN)  # by which torchrun ends the others when one has failed
    main(sys.argv[1], Path(sys.argv[2]))
