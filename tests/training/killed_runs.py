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
import transformers
from toy_training import Rows, Stream, digest, flip, make

from noiselab.training import Average, checkpoints, saving

STEP = 8  # of the checkpoint that is hit; there is one before it, at 4


def die():
    os.kill(os.getpid(), signal.SIGKILL)


def die_at_step(step):
    class Die(transformers.TrainerCallback):
        def on_step_end(self, args, state, control, **_):
            if state.global_step == step:
                die()

    return Die()


def die_in(owner, name, path_argument, file):
    """Replace `owner.name`, so that it writes half of `checkpoint-8/<file>` and dies."""
    original = getattr(owner, name)

    def write(*args, **kwargs):
        path = Path(str(args[path_argument]))
        if path.parent.name == f"checkpoint-{STEP}" and path.name == file:
            original(*args, **kwargs)
            path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
            die()
        return original(*args, **kwargs)

    setattr(owner, name, write)


def die_before(owner, name):
    original = getattr(owner, name)

    def write(path, *args, **kwargs):
        if f"checkpoint-{STEP}" in str(path):
            die()
        return original(path, *args, **kwargs)

    setattr(owner, name, write)


def save_weights_and_die():
    import transformers.modeling_utils as owner

    original = owner.safe_save_file

    def write(tensors, path, *args, **kwargs):
        original(tensors, path, *args, **kwargs)
        if f"checkpoint-{STEP}" in str(path):
            Path(path).write_bytes(Path(path).read_bytes()[:1000])
            die()

    owner.safe_save_file = write


KILLS = {
    "after step 6": (4, lambda: None, {"callbacks": [die_at_step(6)]}),
    "within a later pass": (8, lambda: None, {"callbacks": [die_at_step(11)]}),
    "before the first checkpoint": (None, lambda: None, {"callbacks": [die_at_step(2)]}),
    "within a stream": (8, lambda: None, {"callbacks": [die_at_step(11)], "data": Stream(Rows(24))}),
    "in the weights": (4, save_weights_and_die, {}),
    "in the settings": (4, lambda: die_before(saving, "write_json"), {}),
    "in the average": (4, lambda: die_in(Average, "save", 1, "ema.safetensors"), {}),
    "in optimizer.pt": (4, lambda: die_in(torch, "save", 1, "optimizer.pt"), {}),
    "in scheduler.pt": (4, lambda: die_in(torch, "save", 1, "scheduler.pt"), {}),
    "in rng_state.pth": (4, lambda: die_in(torch, "save", 1, "rng_state.pth"), {}),
    "in trainer_state.json": (
        4,
        lambda: die_in(transformers.TrainerState, "save_to_json", 1, "trainer_state.json"),
        {},
    ),
    "before the manifest": (4, lambda: die_before(saving, "seal"), {}),
    "within the manifest": (4, lambda: die_before(checkpoints, "write_json"), {}),
}
HURTS = {
    "flipped bit in the weights": lambda f: flip(f / "model.safetensors"),
    "flipped bit in the average": lambda f: flip(f / "ema.safetensors"),
    "truncated optimizer.pt": lambda f: (f / "optimizer.pt").write_bytes(b"12"),
    "missing optimizer.pt": lambda f: (f / "optimizer.pt").unlink(),
    "missing rng_state.pth": lambda f: (f / "rng_state.pth").unlink(),
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
