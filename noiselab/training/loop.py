"""The loop of the trainer: it begins or resumes a run, makes its steps, and logs, evaluates and saves between them."""

import contextlib
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import torch

from ..distributed import ending_together, total
from .batches import Collate
from .callbacks import Callback
from .ema import Average
from .evaluating import Evaluating
from .feeding import Loading, feed
from .layout import full_tensor
from .optimizers import build_optimizer, learning_rate
from .saving import Saving
from .stepping import Stepping
from .stopping import STOPPED, Termination


class Trained(NamedTuple):
    """The result of a run.

    **Arguments:**

    - `step`: the number of completed steps.
    - `loss`: the last logged loss, in nats per token; NaN if none was logged.
    """

    step: int
    loss: float


class Loop(Stepping, Saving, Evaluating):
    """The part of `Trainer` that runs; see `Stepping` for a step, `Saving` for files."""

    train_dataset: Any
    collate: Collate
    callbacks: Sequence[Callback]
    termination: Termination
    asked: bool  # to stop, by `stop`
    stopped: bool

    def stop(self) -> None:
        """End the run after this step, with a checkpoint, as after SIGTERM but without an error."""
        self.asked = True

    def log(self, values: Mapping[str, float]) -> None:
        """Keep values in `history` and pass them to the callbacks."""
        self.history.append({"step": self.step, **values})
        self.call("on_log", values)

    def call(self, event: str, *arguments: Any) -> None:
        """Call a method of all callbacks."""
        for callback in self.callbacks:
            getattr(callback, event)(self, *arguments)

    def log_losses(self) -> None:
        """Log the mean loss of the steps since the last log, with the speed."""
        mean = float(total(self.losses)) / (self.share.world * max(1, self.logged))
        now = time.monotonic()
        speed, norm = self.tokens / max(now - self.clock, 1e-9), float(full_tensor(self.norm))
        rate = learning_rate(self.optimization, max(0, self.step - 1))  # of the last step, without factors of groups
        self.losses.zero_()
        self.tokens, self.logged, self.clock = 0, 0, now
        self.log({"loss": mean, "grad_norm": norm, "learning_rate": rate, "tokens_per_second": speed})

    def _begin(self, folder: Path | None) -> None:
        """Start, or restore a checkpoint: weights, optimizer, average, position in the data."""
        o, run = self.optimization, self.run
        loading = Loading(self.collate, run.workers, pin=self.device.type == "cuda")
        self.feed = feed(self.train_dataset, self.share, loading, seed=o.seed)
        if self.step:  # a second run of this object, from the weights of the first
            self.step, self.history = 0, []
            self.optimizer = build_optimizer(self.network, o)
        self.average = None if o.ema is None else Average(self.network, o.ema)
        if folder is not None:
            self._restore(folder)
        self.tokens, self.logged, self.clock = 0, 0, time.monotonic()
        self.call("on_begin")

    @ending_together()
    def train(self, resume: str | Path | bool | None = None) -> Trained:
        """Train until the last step.

        **Arguments:**

        - `resume`: `"auto"` or `True`: resume from the newest intact checkpoint in the output folder, or start a new run
          if there is none; a folder: resume from that checkpoint; `"never"` or `False`: start a new run. By default that of
          `Run`, "auto".

        After SIGTERM the step is finished, a checkpoint is written and `SystemExit` is raised, with status 143.

        **Raises:** `ValueError` if the settings differ from those of the checkpoint, if the given checkpoint is not
        intact, if a new run would write into the folder of an old one, or if another run is using the folder;
        `NonFiniteLoss` if a loss is not finite; `OSError` if a checkpoint could not be written; `ProcessError` of
        `noiselab.distributed`, with its error, if another process has failed.
        """
        kind, index = self.device.type, self.device.index or 0
        own: dict[str, Any] = {"devices": []} if kind == "cpu" else {"devices": [index], "device_type": kind}
        resume = self.run.resume if resume is None else resume
        with self._running(), torch.random.fork_rng(**own):
            folder = self.resumed = self.sealed = self.choose(resume)
            self.bad_step.zero_()
            self.stopped = self.asked = False
            if folder is not None and self._complete(folder):
                self._begin_finished(folder)
            else:
                self._begin(folder)
                left = range(self.step, self.optimization.steps)
                for _, batches in zip(left, self.feed.steps(self.step), strict=False):
                    self.take_step(batches)
                    self._after_step()
                    if self.stopped:
                        break
                self.finish_saving()
                self.call("on_end")
        if self.stopped and self.termination.asked:
            if self.layout.first:
                how = (
                    f"the same run continues from {self.sealed}"
                    if self.run.save_every
                    else "it begins anew (save_every=0)"
                )
                print(f"stopped by SIGTERM; started again, {how}", file=sys.stderr)
            raise SystemExit(STOPPED)
        losses = [entry["loss"] for entry in self.history if "loss" in entry]
        return Trained(self.step, losses[-1] if losses else float("nan"))

    def _after_step(self) -> None:
        """Log, evaluate and save where it is time, or the run ends."""
        self.call("on_step")
        # All processes get the same answer; it travels between CPUs, so that no device is waited for.
        self.stopped = bool(total(torch.tensor(int(self.termination.asked or self.asked))))
        run, last = self.run, self.step >= self.optimization.steps
        logs = last or self.step % run.log_every == 0
        evaluates = bool(run.evaluate_every) and self.step % run.evaluate_every == 0 and not self.stopped
        saves = run.save_every and (last or self.stopped or self.step % run.save_every == 0)
        if logs or evaluates or saves or self.stopped:
            self.check_finite()
        if logs:
            self.log_losses()
        if evaluates and self.eval_dataset is not None:
            self.evaluate()
        if saves:
            self.save()

    @contextlib.contextmanager
    def _running(self) -> Iterator[None]:
        """Context manager: SIGTERM is noted, an unfinished checkpoint is removed after an error, and the lock is freed."""
        try:
            with self.termination.noted():
                yield
        except Exception:
            self.abandon_save()
            raise
        finally:
            with contextlib.suppress(Exception):
                self.writer.wait()  # also after an interruption: the folder is free when nothing is written any more
            if self.lock is not None:
                self.lock.release()
