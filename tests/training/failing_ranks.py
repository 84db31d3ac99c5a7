"""Runs of two processes of which the second fails in several ways; prints how both ended as JSON."""

import contextlib
import errno
import gc
import json
import os
import signal
import sys
import time
from pathlib import Path

import torch
import torch.distributed as dist
from forked import run
from torch.distributed.checkpoint import HuggingFaceStorageWriter
from toy_training import Rows, digest, make

from noiselab.distributed import failures
from noiselab.training import Callback, saving

STEP = 7  # in which it fails; there are checkpoints at 3 and 6
OPTIONS = {"data": Rows(40), "steps": 12, "batch": 8, "micro_batch": 2, "save_every": 3}


def second():
    return dist.is_initialized() and dist.get_rank() == 1


class Unreadable(Rows):
    """Rows of which one cannot be read by the second process, late in the run."""

    reads = 0

    def __getitem__(self, i):
        self.reads += 1
        if second() and self.reads > len(self) + 4 * STEP:  # all rows are read once at the start
            raise OSError(errno.EIO, "row 7 cannot be read")
        return super().__getitem__(i)


class Act(Callback):
    """Does something in the second process after a step."""

    def __init__(self, work, step=STEP):
        self.work, self.step = work, step

    def on_step(self, trainer):
        if trainer.step == self.step and second():
            self.work()


def full_disk(*_):
    raise OSError(errno.ENOSPC, "No space left on device")


def fill_disk(owner, name, word):
    """Let the second process find a full disk in the checkpoint of step 6."""
    original = getattr(owner, name)

    def write(first, *arguments):
        if second() and "checkpoint-6" in str(getattr(first, "path", first)) and word in str(first):
            full_disk()
        return original(first, *arguments)

    setattr(owner, name, write)


def kill():
    os.kill(os.getpid(), signal.SIGKILL)


def fail():
    raise KeyError("a column")


WAYS = {
    "data": {"data": Unreadable(40)},
    "callback": {"callbacks": [Act(fail)]},
    "sharded": {"callbacks": [Act(fail)], "shards": 0},
    "killed": {"callbacks": [Act(kill)]},
    "killed, sharded": {"callbacks": [Act(kill)], "shards": 0},
    "disk": {"prepare": lambda: fill_disk(saving, "write_json", "data-1")},
    "disk in the background": {"prepare": lambda: fill_disk(HuggingFaceStorageWriter, "write_data", "")},
    "caught": {"callbacks": [Act(fail)], "caught": True},
}


def attempt(folder, *, prepare=lambda: None, caught=False, **options):
    """One process of a run that fails."""
    failures.GRACE = 1.0 if caught else failures.GRACE
    prepare()
    try:
        make(folder, **{**OPTIONS, **options}).train()
    except KeyError:
        if not caught:
            raise
        print("goes on", file=sys.stderr, flush=True)
        time.sleep(6)


def whole(folder, end, shards=1):
    """One process of a run that does not."""
    trainer = make(folder, shards=shards, **OPTIONS)
    trainer.train()
    if shards == 1 and trainer.layout.first:
        end.write_text(json.dumps({**digest(trainer), "resumed": trainer.resumed and trainer.resumed.name}))


def main(root):
    results = {}
    clean = run(lambda: whole(root / "clean", root / "clean.json"), root / "log")
    assert [ended.status for ended in clean] == [0, 0], clean
    for name, options in WAYS.items():
        folder, end = root / name, root / f"{name}.json"
        found = run(lambda: attempt(folder, **options), root / "log", seconds=45)  # noqa: B023
        kept = sorted(path.name for path in folder.glob("checkpoint-*"))
        again = run(lambda: whole(folder, end, options.get("shards", 1)), root / "log")  # noqa: B023
        results[name] = {"ended": found, "kept": kept, "again": [ended.status for ended in again]}
        with contextlib.suppress(FileNotFoundError):
            results[name]["digest"] = json.loads(end.read_text())
    results["clean"] = {"digest": json.loads((root / "clean.json").read_text())}
    print(json.dumps(results))


if __name__ == "__main__":
    torch.set_num_threads(1)
    os.fsync = lambda descriptor: None  # a killed process loses nothing that was written; only a power cut would
    make(Path(sys.argv[1]) / "unused")  # loads what all forks need, once
    gc.freeze()  # or each fork looks through all of it
    main(Path(sys.argv[1]))
