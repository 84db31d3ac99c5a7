"""Files written and read by the trainer: sealed checkpoints, resumption, the finished model."""

import errno
import json
import math
import shutil
import sys
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
import transformers
from filelock import BaseFileLock
from torch import nn
from transformers.trainer import TRAINER_STATE_NAME, TRAINING_ARGS_NAME
from transformers.trainer_callback import TrainerState
from transformers.trainer_utils import TrainOutput

from ..files import as_path, new_folder, write_json
from ..networks.wrapped import bare
from .checkpoints import SETTINGS, check_settings, checkpoints, damage, last_intact, rotate, seal
from .checks import NonFiniteLoss
from .ema import EMA_FILE, Average
from .model_files import describe_network, load_weights, stored_network, write_model, write_weights
from .processes import barrier, broadcast
from .stopping import lock

if TYPE_CHECKING:
    Base = transformers.Trainer
else:
    Base = object


class Saving(Base):
    """The part of `Trainer` that reads and writes files."""

    average: Average | None
    decay: float | None
    settings: dict[str, Any]
    lock: BaseFileLock | None = None  # of the folder of the run, while it trains
    keep: int | None  # the number of checkpoints to keep, or None for all
    saving: Path | None = None  # the checkpoint being written
    sealed: Path | None = None  # the newest checkpoint known to be intact
    resumed: Path | None = None  # the checkpoint this run was resumed from

    @property
    def network(self) -> nn.Module:
        """The model as given, without the wrappers of data-parallel training and compilation."""
        return bare(self.accelerator.unwrap_model(self.model))

    def choose(self, wanted: str | Path | bool | None) -> Path | None:
        """Choose the checkpoint to resume from; the first process decides for all."""
        answer: dict[str, str | None] = {}
        if self.is_world_process_zero():
            try:
                self.lock = lock(Path(self.args.output_dir or "."))
                chosen = self._choose(wanted)
                answer = {"folder": None if chosen is None else str(chosen)}
            except (ValueError, OSError) as error:
                answer = {"error": str(error)}
        answer = broadcast(answer, self.args.device)
        if "error" in answer:
            raise ValueError(answer["error"])
        return None if answer["folder"] is None else Path(answer["folder"])

    def _choose(self, wanted: str | Path | bool | None) -> Path | None:
        run = Path(self.args.output_dir or ".")
        if wanted is None or wanted is False:
            if checkpoints(run):
                raise ValueError(
                    f"a new run must use an empty folder: {run} contains {checkpoints(run)[0].name}; resume that run, or "
                    "choose another output folder"
                )
            return None
        if wanted is True or wanted == "auto":
            folder = last_intact(run, set_aside=True)
        else:
            folder = Path(wanted)
            reason = damage(folder)
            if reason is not None:
                raise ValueError(f"a checkpoint must be intact to be resumed; {folder}: {reason}")
        if folder is not None:
            check_settings(folder, self.settings)
            self.print_status(f"resuming from {folder}")
        return folder

    def print_status(self, text: str) -> None:
        """Print a message, in the terminal of the progress bar."""
        if self.is_world_process_zero() and not self.args.disable_tqdm:
            print(text, file=sys.stderr)

    def save_model(self, output_dir: str | None = None, _internal_call: bool = False) -> None:
        """Write the network, the settings and the average: the first part of a checkpoint."""
        folder = Path(output_dir or self.args.output_dir or ".")
        if _internal_call:
            self.begin_save(folder)
        if self.is_fsdp_enabled:
            super().save_model(str(folder), _internal_call)  # gathers sharded weights
        elif self.args.should_save:
            write_weights(self.network, folder)
        if self.args.should_save:
            # Reading it requires unpickling; the settings contain the same in JSON.
            (folder / TRAINING_ARGS_NAME).unlink(missing_ok=True)
            write_json(folder / SETTINGS, self.settings)
            if self.average is not None:
                self.average.save(folder / EMA_FILE)

    def begin_save(self, folder: Path) -> None:
        """Check that the weights are finite, and remove an old folder of the same name."""
        finite = torch.stack([p.detach().isfinite().all() for p in self.network.parameters()])
        if not bool(finite.all()):
            name = [name for name, _ in self.network.named_parameters()][int(finite.int().argmin())]
            raise NonFiniteLoss(
                f"after optimizer step {self.state.global_step} the weight {name} is not finite; {self.last_good()}"
            )
        self.saving = folder
        if self.args.should_save:
            shutil.rmtree(folder, ignore_errors=True)
        barrier()

    def end_save(self) -> None:
        """Seal the checkpoint after all processes have written their part, then delete the oldest ones."""
        barrier()
        failed: list[Any] = []
        if self.saving is not None and self.is_world_process_zero():
            try:
                seal(self.saving)
                rotate(self.saving.parent, self.saving, self.keep)
            except OSError as error:
                failed = [error.errno, error.strerror or str(error)]
        failed = broadcast(failed, self.args.device)
        if failed:
            raise OSError(*failed)
        self.sealed, self.saving = self.saving, None

    def failed_save(self, error: Exception) -> OSError:
        """Remove the incomplete checkpoint and return an error that explains how to continue."""
        folder, self.saving = self.saving, None
        if folder is not None and self.is_world_process_zero():
            shutil.rmtree(folder, ignore_errors=True)
        return OSError(
            getattr(error, "errno", None) or errno.EIO,
            f"{folder} could not be written ({error}) and was removed; {self.last_good()}. Started again, the same run goes "
            "on from there",
        )

    def last_good(self) -> str:
        """Describe the checkpoint to continue from after a failure."""
        return "there is no checkpoint yet" if self.sealed is None else f"the last good checkpoint is {self.sealed}"

    def complete(self, folder: Path) -> bool:
        """Whether a checkpoint is from the last step."""
        state = TrainerState.load_from_json(str(folder / TRAINER_STATE_NAME))
        return state.global_step >= state.max_steps > 0

    def restore(self, folder: Path) -> TrainOutput:
        """Load the weights and the average of a finished run instead of training."""
        self.state = TrainerState.load_from_json(str(folder / TRAINER_STATE_NAME))
        model = self.network
        load_weights(model, folder)
        if self.decay is not None:
            self.average = Average(model, self.decay)
            self.average.load(folder / EMA_FILE)
        self.print_status(f"{folder} is from the last step: training is complete")
        losses = [entry["loss"] for entry in self.state.log_history if "loss" in entry]
        return TrainOutput(self.state.global_step, losses[-1] if losses else math.nan, {})

    def save_final(
        self,
        folder: str | Path,
        *,
        tokenizer: Any = None,
        parts: Iterable[Any] = (),
        settings: Mapping[str, Any] | None = None,
        merge: bool | None = None,
    ) -> None:
        """Write the finished model atomically, in the format that `from_pretrained` loads.

        The folder contains the trained weights, the tokenizer and `settings.json`; if there is an average, the
        subfolder `ema` contains the averaged weights in the same format. A network from `with_lora` is written merged. Of a
        `MaskedLanguageModel` the model of transformers inside is written, as transformers loads it; noiselab.json states how
        the denoiser calls it. Of a denoiser whose class is registered (`noiselab.processes.registered`), noiselab.json has the
        name and the arguments; of any other module, the weights alone are written. For `Pipeline.from_pretrained`, pass the
        noise as `ModelSettings` in `parts`.

        **Arguments:**

        - `folder`: the target. An earlier model in it is replaced; other files are kept.
        - `tokenizer`: any object with `save_pretrained`.
        - `parts`: further objects with `save_pretrained`, such as `noiselab.pipeline.ModelSettings`.
        - `settings`: further settings for `settings.json`, of JSON types.
        - `merge`: whether low-rank updates are merged into the weights. By default those of `adapt` are written alone, as peft
          does, with the name and a hash of the base in noiselab.json, and those of `with_lora` are merged.

        **Raises:** `ValueError` if `folder` is no path, or a file, or contains a config.json or settings.json of another
        program.
        """
        folder = as_path(folder)
        if self.is_world_process_zero():
            model = self.network
            stored = stored_network(model, merge)
            with new_folder(folder, subfolders=("ema",)) as temporary:
                write_model(model, temporary, stored)
                if self.average is not None:
                    with self.average.applied():
                        write_model(model, temporary / "ema", stored)
                for place in [temporary, temporary / "ema"]:
                    for part in (*([] if tokenizer is None else [tokenizer]), *parts):
                        if place.exists():
                            part.save_pretrained(place)
                    if place.exists():
                        describe_network(place, stored)
                content = {"step": self.state.global_step, **(settings or {}), "numbers": self.settings}
                write_json(temporary / SETTINGS, content)
        barrier()


def settings_of(folder: Path) -> dict[str, Any]:
    """The settings stored in a checkpoint or a finished model."""
    return json.loads((folder / SETTINGS).read_text(encoding="utf-8"))
