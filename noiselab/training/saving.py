"""Files written and read by the trainer: sealed checkpoints, resumption, the finished model."""

import contextlib
import errno
import hashlib
import json
import shutil
import sys
import tempfile
import warnings
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import torch
from filelock import BaseFileLock
from torch import nn
from torch.distributed.tensor import DTensor

from ..distributed import barrier, broadcast, ending_together, total
from ..files import as_path, new_folder, write_json
from .checkpoints import MANIFEST, PROGRESS, SETTINGS, check_settings, checkpoints, damage, last_intact, rotate, seal
from .checks import NonFiniteLoss
from .ema import Average
from .layout import Layout, gathered, hollow
from .model_files import describe_network, stored_network, write_model
from .options import Optimization, Run
from .state import StateWriter, read_state, tensors_of
from .stopping import check_shared, lock


class Saving:
    """The part of `Trainer` that reads and writes files."""

    network: nn.Module
    hollow: nn.Module | None  # the network without weights, where those of `network` are sharded
    optimization: Optimization
    run: Run
    layout: Layout
    optimizer: torch.optim.Optimizer
    average: Average | None
    writer: StateWriter
    feed: Any
    settings: dict[str, Any]
    start: str  # identifies the weights that were given
    step: int
    history: list[dict[str, float]]
    call: Any
    lock: BaseFileLock | None = None  # of the folder of the run, while it trains
    saving: Path | None = None  # the checkpoint being written
    sealed: Path | None = None  # the newest checkpoint known to be intact
    resumed: Path | None = None  # the checkpoint this run was resumed from

    def choose(self, wanted: str | Path | bool) -> Path | None:
        """Choose the checkpoint to resume from; the first process decides for all."""
        answer: dict[str, str | None] = {}
        if self.layout.first:
            try:
                self.lock = lock(self.run.folder)
                chosen = self._choose(wanted)
                answer = {"folder": None if chosen is None else str(chosen)}
            except (ValueError, OSError) as error:
                answer = {"error": str(error)}
        answer = broadcast(answer)
        if "error" in answer:
            raise ValueError(answer["error"])
        if self.run.save_every and self.layout.world > 1:
            check_shared(self.run.folder, self.layout)
        return None if answer["folder"] is None else Path(answer["folder"])

    def _choose(self, wanted: str | Path | bool) -> Path | None:
        run = self.run.folder
        if wanted in (False, "never"):
            if checkpoints(run):
                raise ValueError(
                    f"a new run must use an empty folder: {run} contains {checkpoints(run)[0].name}; resume that run, or "
                    "choose another output folder"
                )
            return None
        if wanted in (True, "auto"):
            folder = last_intact(run, set_aside=True)
        else:
            folder = Path(str(wanted))
            reason = damage(folder)
            if reason is not None:
                raise ValueError(f"a checkpoint must be intact to be resumed; {folder}: {reason}")
        if folder is not None:
            check_settings(folder, self.settings)
            self.print_status(f"resuming from {folder}")
        return folder

    def print_status(self, text: str) -> None:
        """Print a message, in the terminal of the progress bar."""
        if self.layout.first and self.run.progress:
            print(text, file=sys.stderr)

    def identity(self) -> str:
        """A short name of the run for loggers, the same whenever it is resumed: a hash of its folder."""
        return hashlib.sha256(str(self.run.folder.absolute()).encode()).hexdigest()[:16]

    def save(self) -> None:
        """Begin a checkpoint of the current step: tensors are copied and written in the background, then it is sealed.

        **Raises:** `NonFiniteLoss` if a weight is not finite; `OSError` if this or an earlier checkpoint could not be written.
        """
        self.finish_saving()
        self._check_weights()
        folder = self.saving = self.run.folder / f"checkpoint-{self.step}"
        try:
            self._begin_saving(folder)
        except OSError as error:
            raise self._removed(error.errno or errno.EIO, str(error)) from error
        self.call("on_save", folder)

    def _begin_saving(self, folder: Path) -> None:
        if self.layout.first:
            shutil.rmtree(folder, ignore_errors=True)
            folder.mkdir(parents=True)
            write_json(folder / SETTINGS, self.settings)
            progress = {"step": self.step, "processes": self.layout.world, "start": self.start, "history": self.history}
            write_json(folder / PROGRESS, progress)
        barrier()
        write_json(folder / f"data-{self.layout.rank}.json", {"readers": self.feed.position()})
        tensors, _ = tensors_of(self.network, self.optimizer, self.average)

        def finish() -> None:
            if self.layout.first:
                seal(folder)
                rotate(self.run.folder, folder, self.run.keep)

        self.writer.write(folder, tensors, finish)

    def finish_saving(self) -> None:
        """Wait until the checkpoint in progress is sealed.

        **Raises:** `OSError` in all processes if it could not be written; the folder is removed.
        """
        if self.saving is None:
            return
        failed: list[Any] = []
        try:
            self.writer.wait()
        except Exception as error:
            failed = [getattr(error, "errno", None) or errno.EIO, str(error)]
        failed = broadcast(failed)
        if failed:
            raise self._removed(*failed)
        self.sealed, self.saving = self.saving, None

    def abandon_save(self) -> None:
        """Wait for the checkpoint in progress after an error of this process, and remove it if it is not whole."""
        if self.saving is None:
            return
        with contextlib.suppress(Exception):
            self.writer.wait()
        if (self.saving / MANIFEST).exists():
            self.sealed, self.saving = self.saving, None
        else:
            self._remove()

    def _removed(self, number: int, reason: str) -> OSError:
        """Remove the checkpoint in progress; the error says how to go on."""
        folder = self._remove()
        return OSError(
            number,
            f"{folder} could not be written ({reason}) and was removed; {self.last_good()}. Started again, the same run goes "
            "on from there",
        )

    def _remove(self) -> Path | None:
        folder, self.saving = self.saving, None
        if folder is not None and self.layout.first:
            shutil.rmtree(folder, ignore_errors=True)
        return folder

    def last_good(self) -> str:
        """Describe the checkpoint to continue from after a failure."""
        return "there is no checkpoint yet" if self.sealed is None else f"the last good checkpoint is {self.sealed}"

    def _check_weights(self) -> None:
        local = [p.to_local() if isinstance(p, DTensor) else p for p in self.network.parameters()]
        finite = torch.stack([p.detach().isfinite().all() for p in local])
        if total((~finite).sum()):
            names = [name for name, _ in self.network.named_parameters()]
            worst = f"the weight {names[int(finite.int().argmin())]}" if not bool(finite.all()) else "a weight"
            raise NonFiniteLoss(f"after optimizer step {self.step} {worst} is not finite; {self.last_good()}")

    def _complete(self, folder: Path) -> bool:
        """Whether a checkpoint is from the last step."""
        return int(progress_of(folder)["step"]) >= self.optimization.steps

    def _restore(self, folder: Path) -> None:
        """Restore a checkpoint, written by any number of processes."""
        progress = self._progress(folder)
        parts = [
            json.loads((folder / f"data-{rank}.json").read_text(encoding="utf-8"))["readers"]
            for rank in range(int(progress["processes"]))
        ]
        self.feed.resume(parts)
        read_state(folder, self.network, self.optimizer, self.average)

    def _progress(self, folder: Path) -> dict[str, Any]:
        """The progress of a checkpoint, restored; another start of the run is not hidden."""
        progress = progress_of(folder)
        self.step, self.history = int(progress["step"]), list(progress["history"])
        if self.layout.first and progress.get("start") != self.start:
            warnings.warn(
                f"the model was given with other weights than those with which the run in {folder.parent} began; the weights "
                f"of {folder.name} are used (to start from the given ones, choose another output folder)",
                UserWarning,
                stacklevel=5,
            )
        self.start = progress.get("start", self.start)
        return progress

    def _begin_finished(self, folder: Path) -> None:
        """Load the weights and the average of a finished run instead of training."""
        self._progress(folder)
        if self.optimization.ema is not None:
            self.average = Average(self.network, self.optimization.ema)
        read_state(folder, self.network, None, self.average)
        self.print_status(f"{folder} is from the last step: training is complete")

    @ending_together()
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
        noise as `ModelSettings` in `parts`. Sharded weights are gathered one by one, in files beside the
        target that are mapped into memory.

        **Arguments:**

        - `folder`: the target. An earlier model in it is replaced; other files are kept.
        - `tokenizer`: any object with `save_pretrained`.
        - `parts`: further objects with `save_pretrained`, such as `noiselab.pipeline.ModelSettings`, with the `block_size` of a
          model that is trained in blocks.
        - `settings`: further settings for `settings.json`, of JSON types.
        - `merge`: whether low-rank updates are merged into the weights. By default those of `adapt` are written alone, as peft
          does, with the name and a hash of the base in noiselab.json, and those of `with_lora` are merged.

        **Raises:** `ValueError` if `folder` is no path, or a file, or contains a config.json or settings.json of another
        program, or `parts` have another `block_size` than that of training.
        """
        folder, parts = as_path(folder), list(parts)
        self._check_blocks(parts)
        with contextlib.ExitStack() as opened:
            temporary = self._new_folder(opened, folder)
            more = [*([] if tokenizer is None else [tokenizer]), *parts]
            stored = stored_network(self.network, merge)
            self._write_whole(temporary, more, stored)
            if self.average is not None:
                with self.average.applied():
                    self._write_whole(None if temporary is None else temporary / "ema", more, stored)
            if temporary is not None:
                content = {"step": self.step, **(settings or {}), "numbers": self.settings}
                write_json(temporary / SETTINGS, content)
        barrier()

    def _check_blocks(self, parts: Iterable[Any]) -> None:
        """Check that settings of the model say in which blocks it was trained, without which it would be sampled wrongly."""
        blocks = self.settings.get("blocks")
        for part in parts:
            found = getattr(part, "block_size", blocks)
            if found != blocks:
                raise ValueError(
                    f"block_size of the settings must be that of training, {blocks}; got {found} (ModelSettings(noise, "
                    f"block_size={blocks}))"
                )

    def _new_folder(self, opened: contextlib.ExitStack, folder: Path) -> Path | None:
        """The folder in which the first process writes; an error there is one of all processes."""
        temporary, failed = None, ""
        if self.layout.first:
            try:
                temporary = opened.enter_context(new_folder(folder, subfolders=("ema",)))
            except ValueError as error:
                failed = str(error)
        failed = broadcast(failed)
        if failed:
            raise ValueError(failed)
        return temporary

    def _write_whole(self, folder: Path | None, parts: Iterable[Any], stored: Mapping[str, Any]) -> None:
        """Write the model with its current weights, in the first process; the others give it their shards."""
        with contextlib.ExitStack() as opened:
            model = self.network
            if self.hollow is not None:
                place = folder and opened.enter_context(tempfile.TemporaryDirectory(dir=folder.parent))
                whole = gathered(model, None if place is None else Path(place))
                model = self.hollow
                model.load_state_dict(whole, strict=False, assign=True)
            if folder is None:
                return
            write_model(model, folder, stored)
            for part in parts:
                part.save_pretrained(folder)
            describe_network(folder, stored)
            if self.hollow is not None:
                self.hollow = hollow(model)


def progress_of(folder: Path) -> dict[str, Any]:
    """The step, the number of processes and the logged values of a checkpoint."""
    content: dict[str, Any] = json.loads((folder / PROGRESS).read_text(encoding="utf-8"))
    return content


def settings_of(folder: Path) -> dict[str, Any]:
    """The settings stored in a checkpoint or a finished model."""
    return json.loads((folder / SETTINGS).read_text(encoding="utf-8"))
