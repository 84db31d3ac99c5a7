"""Kills training runs with SIGKILL at awkward moments, resumes them, and prints what came out as JSON.

Everything is imported once; each run is a fork of this process.
"""

import gc
import json
import os
import signal
import sys
import traceback
from pathlib import Path

import torch
from torch.distributed.checkpoint import HuggingFaceStorageWriter
from toy_training import Rows, Stream, digest, flip, make

from noiselab.training import Callback, checkpoints, saving

STEP = 8  # of the checkpoint that is hit; there is one before it, at 4


def die():
    os.kill(os.getpid(), signal.SIGKILL)


def die_at_step(step):
    class Die(Callback):
        def on_step(self, trainer):
            if trainer.step == step:
                die()

    return Die()


def die_before(owner, name):
    original = getattr(owner, name)

    def write(path, *args, **kwargs):
        if f"checkpoint-{STEP}" in str(path):
            die()
        return original(path, *args, **kwargs)

    setattr(owner, name, write)


def die_while_writing(part):
    """Die in the thread that writes, with the state written up to this part: 0, half of it or all."""
    original = HuggingFaceStorageWriter.write_data

    def write(self, plan, planner):
        if f"checkpoint-{STEP}" not in str(self.path):
            return original(self, plan, planner)
        if part:
            original(self, plan, planner).wait()
            for file in Path(self.path).rglob("*.safetensors"):
                file.write_bytes(file.read_bytes()[: int(part * file.stat().st_size)])
        die()

    HuggingFaceStorageWriter.write_data = write


KILLS = {
    "after step 6": (4, lambda: None, {"callbacks": [die_at_step(6)]}),
    "within a later pass": (8, lambda: None, {"callbacks": [die_at_step(11)]}),
    "before the first checkpoint": (None, lambda: None, {"callbacks": [die_at_step(2)]}),
    "within a stream": (8, lambda: None, {"callbacks": [die_at_step(11)], "data": Stream(Rows(24))}),
    "in the settings": (4, lambda: die_before(saving, "write_json"), {}),
    "before the state": (4, lambda: die_while_writing(0), {}),
    "in the state": (4, lambda: die_while_writing(0.5), {}),
    "after the state": (4, lambda: die_while_writing(1), {}),
    "before the manifest": (4, lambda: die_before(saving, "seal"), {}),
    "within the manifest": (4, lambda: die_before(checkpoints, "write_json"), {}),
}


def state(folder):
    return next((folder / "state").iterdir())


HURTS = {
    "flipped bit in the state": lambda f: flip(state(f)),
    "truncated state": lambda f: state(f).write_bytes(b"12"),
    "missing state": lambda f: state(f).unlink(),
    "missing position in the data": lambda f: (f / "data-0.json").unlink(),
    "missing step": lambda f: (f / "progress.json").unlink(),
    "missing settings": lambda f: (f / "settings.json").unlink(),
}


def forked(work):
    """The wait status of a fork of this process that does `work`."""
    sys.stdout.flush()
    pid = os.fork()
    if not pid:
        try:
            work()
        except BaseException:
            traceback.print_exc()
            os._exit(1)
        os._exit(0)
    return os.waitpid(pid, 0)[1]


def main(root):
    results = {}
    clean = {"plain": {}, "stream": {"data": Stream(Rows(24))}}
    runs = [(name, None, lambda: None, options, None) for name, options in clean.items()]
    runs += [(name, *kill, None) for name, kill in KILLS.items()]
    runs += [(name, 4, lambda: None, {"callbacks": [die_at_step(10)]}, hurt) for name, hurt in HURTS.items()]
    for name, start, prepare, options, hurt in runs:
        folder = root / name.replace(" ", "_")
        log = root / f"{folder.name}.losses"

        def first():
            prepare()  # noqa: B023
            make(folder, file=log, **options).train()  # noqa: B023

        def second():
            trainer = make(folder, file=log, **{**options, "callbacks": []})  # noqa: B023
            trainer.train()
            step = None if trainer.resumed is None else int(trainer.resumed.name.split("-")[1])
            (root / f"{folder.name}.json").write_text(json.dumps({**digest(trainer), "resumed": step}))  # noqa: B023

        killed = None
        if name not in clean:
            killed = os.WTERMSIG(forked(first))
        if hurt is not None:
            hurt(folder / f"checkpoint-{STEP}")
        assert forked(second) == 0, name
        result = json.loads((root / f"{folder.name}.json").read_text())
        losses = [line.split() for line in log.read_text().splitlines()]
        results[name] = {**result, "killed": killed, "expected": start, "losses": losses}
    print(json.dumps(results))


if __name__ == "__main__":
    torch.set_num_threads(1)
    os.fsync = lambda descriptor: None  # a killed process loses nothing that was written; only a power cut would
    make(Path(sys.argv[1]) / "unused")  # loads what all forks need, once
    gc.freeze()  # or each fork looks through all of it
    main(Path(sys.argv[1]))
