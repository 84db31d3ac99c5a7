"""Kills a run of two processes with SIGKILL at random moments, resumes it each time, and prints what came out as JSON.

Everything is imported once; the processes of each run are forks of this one.
"""

import contextlib
import gc
import json
import os
import random
import signal
import socket
import sys
import threading
import time
import traceback
from pathlib import Path

import torch
from toy_training import Rows, digest, make

from noiselab.training import Callback

KILLS, STEPS = 20, 40


def free_port():
    with contextlib.closing(socket.socket()) as server:
        server.bind(("localhost", 0))
        return str(server.getsockname()[1])


class Noting(Callback):
    """Notes the time of the first step, and the losses of all, by the first process."""

    def __init__(self, folder):
        self.log = folder.with_suffix(".losses")

    def on_step(self, trainer):
        if trainer.layout.first:
            with self.log.open("a") as file:
                file.write(f"{trainer.step} {float(trainer.step_loss).hex()}\n")


def run(folder, shards, end):
    """One process of a run; writes a hash of the weights at the end."""
    trainer = make(
        folder,
        data=Rows(40),
        steps=STEPS,
        batch=8,
        micro_batch=2,
        save_every=3,
        shards=shards,
        callbacks=[Noting(folder)],
    )
    trainer.train()
    if shards == 1 and trainer.layout.first:
        end.write_text(json.dumps(digest(trainer)))
    elif shards != 1:
        trainer.save_final(folder / "final")


def pair(work, seconds=None):
    """Two processes that do `work`; both are killed after some time. Returns whether they had ended by themselves."""
    port, children = free_port(), []
    sys.stdout.flush()
    for rank in range(2):
        pid = os.fork()
        if not pid:
            os.environ |= {"RANK": str(rank), "LOCAL_RANK": str(rank), "WORLD_SIZE": "2"}
            os.environ |= {"MASTER_ADDR": "localhost", "MASTER_PORT": port}
            try:
                work()
            except BaseException:
                traceback.print_exc()
                os._exit(1)
            os._exit(0)
        children.append(pid)

    def kill():
        for child in children:
            with contextlib.suppress(ProcessLookupError):
                os.kill(child, signal.SIGKILL)

    timer = threading.Timer(seconds or 1e6, kill)
    timer.daemon = True
    timer.start()
    codes = [os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) for child in children]
    timer.cancel()
    assert all(code in (0, -signal.SIGKILL) for code in codes), codes
    return codes == [0, 0]


def main(root):
    chance, results = random.Random(0), {}
    begun = time.monotonic()
    assert pair(lambda: run(root / "whole", 1, root / "whole.json"))
    seconds, kills, tries = time.monotonic() - begun, 0, 0
    while kills < KILLS:
        tries += 1
        folder = root / f"killed_{tries}"
        # Killed again and again until it is finished, each time somewhere in its first second or two.
        while not pair(lambda: run(folder, 1, root / f"{folder.name}.json"), chance.uniform(0.2, 0.5) * seconds):  # noqa: B023
            kills += 1
        results[folder.name] = json.loads((root / f"{folder.name}.json").read_text())
    losses = {
        file.stem: [line.split() for line in file.read_text().splitlines()] for file in sorted(root.glob("*.losses"))
    }
    whole = json.loads((root / "whole.json").read_text())
    print(json.dumps({"whole": whole, "killed": results, "kills": kills, "losses": losses}))


if __name__ == "__main__":
    torch.set_num_threads(1)
    os.fsync = lambda descriptor: None  # a killed process loses nothing that was written; only a power cut would
    make(Path(sys.argv[1]) / "unused")  # loads what all forks need, once
    gc.freeze()  # or each fork looks through all of it
    main(Path(sys.argv[1]))
