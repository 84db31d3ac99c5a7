"""One process of a run that torchrun starts; with a rank, the process of this rank is killed in the first attempt."""

import json
import os
import signal
import sys
from pathlib import Path

import torch
from toy_training import Rows, digest, make

from noiselab.training import Callback


class Kill(Callback):
    """Kills a process after step 7 of the first attempt."""

    def on_step(self, trainer):
        if trainer.step == 7 and os.environ["TORCHELASTIC_RESTART_COUNT"] == "0":
            if os.environ["RANK"] == sys.argv[2]:
                os.kill(os.getpid(), signal.SIGKILL)


if __name__ == "__main__":
    torch.set_num_threads(1)
    root = Path(sys.argv[1])
    options = {"data": Rows(40), "steps": 12, "batch": 8, "micro_batch": 2, "save_every": 3, "log_every": 1}
    trainer = make(root / "run", callbacks=[Kill()] if len(sys.argv) > 2 else [], **options)
    trainer.train()
    if trainer.layout.first:
        found = {**digest(trainer), "resumed": trainer.resumed and trainer.resumed.name, "world": trainer.layout.world}
        (root / "end.json").write_text(json.dumps(found))
