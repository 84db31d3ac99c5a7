"""Several processes that are forks of this one: what is imported once is there in all."""

import os
import signal
import socket
import sys
import threading
import time
import traceback
from contextlib import closing, suppress
from typing import NamedTuple


class Ended(NamedTuple):
    """How a process ended: its status, what it wrote to stderr, and after how many seconds."""

    status: int
    errors: str
    seconds: float


def free_port():
    with closing(socket.socket()) as server:
        server.bind(("localhost", 0))
        return str(server.getsockname()[1])


def run(work, folder, world=2, *, seconds=60):
    """Call `work` in each of several processes, which are killed after some time; how each ended."""
    folder.mkdir(parents=True, exist_ok=True)
    port, children, begun = free_port(), [], time.monotonic()
    sys.stdout.flush()
    sys.stderr.flush()
    for rank in range(world):
        child = os.fork()
        if not child:
            os.environ |= {"RANK": str(rank), "LOCAL_RANK": str(rank), "WORLD_SIZE": str(world)}
            os.environ |= {"MASTER_ADDR": "localhost", "MASTER_PORT": port}
            os.dup2(os.open(folder / f"errors-{rank}", os.O_WRONLY | os.O_CREAT | os.O_TRUNC), 2)
            try:
                work()
            except BaseException:
                traceback.print_exc()
                sys.stderr.flush()
                os._exit(1)
            sys.stderr.flush()
            os._exit(0)
        children.append(child)

    def kill():
        for child in children:
            with suppress(ProcessLookupError):
                os.kill(child, signal.SIGKILL)

    timer = threading.Timer(seconds, kill)
    timer.daemon = True
    timer.start()
    found = {}
    while len(found) < world:
        child, status = os.wait()
        if child in children:
            code, rank = os.waitstatus_to_exitcode(status), children.index(child)
            found[rank] = Ended(code, (folder / f"errors-{rank}").read_text(), time.monotonic() - begun)
    timer.cancel()
    return [found[rank] for rank in range(world)]
