"""Callbacks between optimizer steps: weight averaging, sealing of checkpoints, checks for non-finite losses, progress
bar.
"""

import logging
import math
import sys
import time
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, TypeAlias

from transformers import TrainerCallback, TrainerControl, TrainerState, TrainingArguments
from transformers.trainer_callback import ProgressCallback

if TYPE_CHECKING:
    from .trainer import Trainer

logger = logging.getLogger(__name__)
Callback: TypeAlias = TrainerCallback | type[TrainerCallback]


def is_there(callback: Callback, others: Sequence[Callback]) -> bool:
    """Whether a callback is one of the others: the same object, or a class of which there is an object or the class.

    Two objects of one class may have different settings, and are two callbacks. A warning is logged for one that is there.
    """
    kinds = [other if isinstance(other, type) else type(other) for other in others]
    if not (callback in kinds if isinstance(callback, type) else any(callback is other for other in others)):
        return False
    name = callback.__name__ if isinstance(callback, type) else type(callback).__name__
    logger.warning("the callback %s is there already; it is called once", name)
    return True


class TrainerHooks(TrainerCallback):
    """Calls the trainer at events for which `transformers.Trainer` has no overridable method."""

    def __init__(self, trainer: "Trainer") -> None:
        self.trainer = trainer

    def on_train_begin(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **_: Any) -> None:
        """Start or restore the average after the weights have been loaded."""
        self.trainer.begin()

    def on_step_end(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **_: Any) -> None:
        """Update the average and end a run that received SIGTERM; before logging, evaluation or saving, check the losses."""
        if self.trainer.average is not None:
            self.trainer.average.update()
        if self.trainer.must_stop(control):
            control.should_save = control.should_training_stop = True
            control.should_evaluate = False
        if control.should_log or control.should_save or control.should_evaluate or control.should_training_stop:
            self.trainer.check_finite()

    def on_save(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **_: Any) -> None:
        """Seal the checkpoint after its last file has been written."""
        self.trainer.end_save()


class Progress(ProgressCallback):
    """A progress bar with the loss and the speed, a line for each evaluation, and a summary at the end."""

    started = 0.0

    def on_train_begin(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **_: Any) -> None:
        """Open the bar at the step that the run resumes from."""
        super().on_train_begin(args, state, control)
        self.started, self.first = time.monotonic(), state.global_step
        self.shown: dict[str, str] = {}
        if self.training_bar is not None:
            self.training_bar.initial = state.global_step
            self.training_bar.update(state.global_step)
            self.current_step = state.global_step

    def on_log(
        self,
        args: TrainingArguments,
        state: TrainerState,
        control: TrainerControl,
        logs: dict[str, float] | None = None,
        **_: Any,
    ) -> None:
        """Show the latest loss in the bar, and each evaluation on a separate line."""
        if self.training_bar is None or not logs:
            return
        if "loss" in logs:
            self.shown = {"loss": f"{logs['loss']:.4f}", "tokens/s": f"{logs.get('tokens_per_second', math.nan):,.0f}"}
            self.training_bar.set_postfix(self.shown)
        evaluated = [f"{name} {value:.4f}" for name, value in logs.items() if name.startswith("eval_") and value < 1e6]
        if evaluated:
            self.training_bar.write(f"step {state.global_step}: {', '.join(evaluated)}", file=sys.stderr)

    def on_train_end(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **_: Any) -> None:
        """Close the bar and print a summary of the run."""
        if state.is_world_process_zero:
            super().on_train_end(args, state, control)
            steps, seconds = state.global_step - self.first, time.monotonic() - self.started
            shown = "".join(f", {name} {value}" for name, value in self.shown.items())
            print(f"trained {steps:,} steps to step {state.global_step:,} in {seconds:,.0f} s{shown}", file=sys.stderr)
