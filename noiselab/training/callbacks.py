"""What is called during a run: progress, loggers, and callbacks of one's own."""

import logging
import math
import sys
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tqdm.auto import tqdm

if TYPE_CHECKING:
    from .trainer import Trainer

logger = logging.getLogger(__name__)


class Callback:
    """What a trainer calls; a subclass implements some of these methods, all of which do nothing here.

    They are called in every process (`trainer.layout.first` is True in one of them). `trainer.step` is the number of
    completed steps; `trainer.stop()` ends the run after the step, with a checkpoint.

    **Example:**

    ```python
    from noiselab.training import Callback

    class Losses(Callback):
        def on_log(self, trainer, values):
            print(trainer.step, values["loss"])
    ```
    """

    def on_begin(self, trainer: "Trainer") -> None:
        """Before the first step, with the weights of the checkpoint if there is one."""

    def on_step(self, trainer: "Trainer") -> None:
        """After each step."""

    def on_log(self, trainer: "Trainer", values: Mapping[str, float]) -> None:
        """With each logged loss, and with each evaluation."""

    def on_save(self, trainer: "Trainer", folder: Path) -> None:
        """When a checkpoint is begun; it is written in the background."""

    def on_end(self, trainer: "Trainer") -> None:
        """After the last step, or when a run stops early."""


def without_doubles(callbacks: Sequence[Callback]) -> list[Callback]:
    """Callbacks without objects that are given twice, which are called once; a warning names them.

    **Raises:** `ValueError` for what is no callback.
    """
    kept: list[Callback] = []
    for callback in callbacks:
        if not isinstance(callback, Callback):
            raise ValueError(f"callbacks must be objects of noiselab.training.Callback; got {callback!r}")
        if any(callback is other for other in kept):
            logger.warning("the callback %s is there already; it is called once", type(callback).__name__)
        else:
            kept.append(callback)
    return kept


class Progress(Callback):
    """A progress bar with the loss and the speed, a line for each evaluation, and a summary at the end."""

    def on_begin(self, trainer: "Trainer") -> None:
        """Open the bar at the step that the run resumes from."""
        self.started, self.first, self.shown = time.monotonic(), trainer.step, dict[str, str]()
        hidden = not trainer.layout.first
        self.bar = tqdm(total=trainer.optimization.steps, initial=trainer.step, disable=hidden, dynamic_ncols=True)

    def on_step(self, trainer: "Trainer") -> None:
        """Move the bar."""
        self.bar.update(trainer.step - self.bar.n)

    def on_log(self, trainer: "Trainer", values: Mapping[str, float]) -> None:
        """Show the latest loss in the bar, and each evaluation on a separate line."""
        if "loss" in values:
            speed = values.get("tokens_per_second", math.nan)
            self.shown = {"loss": f"{values['loss']:.4f}", "tokens/s": f"{speed:,.0f}"}
            self.bar.set_postfix(self.shown)
        evaluated = [
            f"{name} {value:.4f}" for name, value in values.items() if name.startswith("eval_") and value < 1e6
        ]
        if evaluated:
            self.bar.write(f"step {trainer.step}: {', '.join(evaluated)}", file=sys.stderr)

    def on_end(self, trainer: "Trainer") -> None:
        """Close the bar and print a summary of the run."""
        self.bar.close()
        if trainer.layout.first:
            steps, seconds = trainer.step - self.first, time.monotonic() - self.started
            shown = "".join(f", {name} {value}" for name, value in self.shown.items())
            print(f"trained {steps:,} steps to step {trainer.step:,} in {seconds:,.0f} s{shown}", file=sys.stderr)


class TensorBoard(Callback):
    """Writes logged values for TensorBoard to the folder `logs` of the run.

    **Raises:** `ImportError` when a run begins, if tensorboard is not installed.
    """

    def on_begin(self, trainer: "Trainer") -> None:
        """Open the log."""
        self.writer: Any = None
        if trainer.layout.first:
            from torch.utils.tensorboard import SummaryWriter

            self.writer = SummaryWriter(trainer.run.folder / "logs", purge_step=trainer.step + 1)

    def on_log(self, trainer: "Trainer", values: Mapping[str, float]) -> None:
        """Write the values of this step."""
        if self.writer is not None:
            for name, value in values.items():
                self.writer.add_scalar(name, value, trainer.step)
            self.writer.flush()

    def on_end(self, trainer: "Trainer") -> None:
        """Close the log."""
        if self.writer is not None:
            self.writer.close()


class WeightsAndBiases(Callback):
    """Logs values to Weights & Biases, in one run for each output folder, with the settings of the run.

    **Raises:** `ImportError` when a run begins, if wandb is not installed.
    """

    def on_begin(self, trainer: "Trainer") -> None:
        """Open the run, or continue that of the same folder."""
        self.tracked: Any = None
        if trainer.layout.first:
            import wandb

            folder = trainer.run.folder.absolute()
            self.tracked = wandb.init(
                name=folder.name,
                id=trainer.identity(),
                dir=str(folder),
                resume="allow",
                config=trainer.settings,
            )

    def on_log(self, trainer: "Trainer", values: Mapping[str, float]) -> None:
        """Log the values of this step."""
        if self.tracked is not None:
            self.tracked.log(dict(values), step=trainer.step)

    def on_end(self, trainer: "Trainer") -> None:
        """Close the run."""
        if self.tracked is not None:
            self.tracked.finish()


LOGGERS: dict[str, type[Callback]] = {"tensorboard": TensorBoard, "wandb": WeightsAndBiases}
