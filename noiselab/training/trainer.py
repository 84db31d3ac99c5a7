"""The trainer: one engine for one process and for many, with this library's loss, noise, averaging and checkpoints."""

import contextlib
import copy
import json
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from ..denoisers.base import Denoiser
from ..networks.wrapped import innermost
from ..objectives import Objective, elbo
from ..process import NoiseProcess
from .batches import Collate
from .callbacks import LOGGERS, Callback, Progress, without_doubles
from .checks import (
    NonFiniteLoss,
    check_causal,
    check_data,
    check_evaluation,
    check_model,
    check_noise,
    check_optimization,
    check_padding,
    check_sharding,
    data_settings,
    enable_checkpointing,
    fingerprint,
    takes_padding,
)
from .curriculum import Stage, staged_loss
from .edits import EditLoss
from .ema import Average
from .evaluating import Evaluating
from .feeding import Loading, feed
from .forward import LossModule
from .layout import blocks_of, distribute, full_tensor, hollow, start_processes, summed_later
from .losses import (
    Batch,
    Loss,
    call_denoiser,
    call_network,
    causal_loss,
    noised_loss,
    noised_tokens,
    predicted_tokens,
    real_tokens,
)
from .noise import Place, TimesOfStep, derive_seed
from .optimizers import build_optimizer, learning_rate
from .options import Optimization, Run, autocast_of
from .processes import total
from .saving import Saving, sums_of
from .state import StateWriter
from .stopping import STOPPED, Termination


class Trained(NamedTuple):
    """The result of a run.

    **Arguments:**

    - `step`: the number of completed steps.
    - `loss`: the last logged loss, in nats per token; NaN if none was logged.
    """

    step: int
    loss: float


class Trainer(Saving, Evaluating):
    """Trains a network on a noise process, or on any other loss of the same form, on one device or many.

    A run that is killed at any moment resumes bit for bit. The mean over tokens, the times, the noise and the order of the
    data do not depend on the number of processes, micro-batches or loader workers.

    **Arguments:**

    - `model`: a network with the signature of `DiT`, a `Denoiser`, or any model that `loss` can call; not compiled or wrapped
      for distributed training, which the trainer does by itself.
    - `optimization`: how the weights are trained.
    - `run`: the folder of the run, what is logged and saved, and how weights are sharded.
    - `train_dataset`: items are dicts of `input_ids` and optionally, of the same shape, `attention_mask` (1 for real tokens)
      and `scored` (1 for tokens to be learned) or `labels` (-100 for tokens that are not learned; see `noised_loss`).
      Values may be tensors or lists, as in `datasets.Dataset`; lengths must not differ within a batch. A stream must be
      infinite and have an attribute `endless = True` (not needed for `TokenStream`). A resumed run must have the same data:
      all rows are read at the start and compared, or, if there is one, the attribute `key`, a string that changes whenever
      the data do. A stream is compared only if it has a `key`.
    - `eval_dataset`: a finite data set with the same items, or a dict of several.
    - `process`: the noise process, for the diffusion loss. It is copied.
    - `curriculum`: earlier noises, each for a number of optimizer steps (`Stage`); after them, and in evaluation, `process`.
    - `objective`: the weight of each token in training; the ELBO by default. Evaluation always uses the ELBO.
    - `time_range`: the range of times in training and evaluation, within (0, 1).
    - `times`: the times of a training step, one for each sequence or each token; by default stratified. See `noised_loss`.
    - `loss`: any `Loss`, for example `causal_loss`, in place of `process`.
    - `count`: the mask of tokens that `loss` scores: by default `noised_tokens` for a process, `predicted_tokens` for
      `causal_loss`, and `real_tokens` for any other loss.
    - `settings`: additional settings, of JSON types, that a resumed run must share.
    - `callbacks`: objects of `Callback`; one that is given twice is called once.

    **Raises:** `ValueError` if the process is not Markov; the logits do not match the vocabulary size of the process; the
    model is wrapped, or of the wrong kind for the loss; rows are no dicts of numbers, are too long, or hold ids that the model
    does not know or, for a process, tokens outside its support, such as the mask; or a setting is out of range.

    **Example:**

    ```python
    import tempfile

    import torch
    import noiselab as nl
    from noiselab.data import TokenBlocks
    from noiselab.networks.dit import DiT, DiTConfig
    from noiselab.training import Optimization, Run, Trainer

    blocks = TokenBlocks(torch.randint(8, (32, 4)), torch.full((32,), 4), vocab_size=9)
    model = DiT(DiTConfig(vocab_size=9, max_seq_len=4, hidden_size=8, num_hidden_layers=1, num_attention_heads=2))
    with tempfile.TemporaryDirectory() as folder:
        optimization, run = Optimization(steps=2, batch=8, ema=0.9), Run(folder, cpu=True, progress=False)
        process = nl.masked(vocab_size=9, mask_id=8)
        trainer = Trainer(model, optimization, run, train_dataset=blocks, process=process)
        trainer.train()
    ```
    """

    def __init__(
        self,
        model: nn.Module,
        optimization: Optimization,
        run: Run,
        *,
        train_dataset: Any,
        eval_dataset: Any = None,
        process: NoiseProcess | None = None,
        curriculum: Sequence[Stage] = (),
        objective: Objective = elbo,
        time_range: tuple[float, float] = (1e-4, 1 - 1e-4),
        times: TimesOfStep | None = None,
        loss: Loss | None = None,
        count: Callable[[Batch], Tensor] | None = None,
        settings: Mapping[str, Any] | None = None,
        callbacks: Sequence[Callback] = (),
    ) -> None:
        if (process is None) == (loss is None):
            raise ValueError(f"either a process or a loss must be given; got process={process!r}, loss={loss!r}")
        check_model(model)
        self.layout = start_processes(cpu=run.cpu, shards=run.shards)
        self.device = self.layout.device
        self.share = check_optimization(optimization, run, self.layout)
        self.optimization, self.run = optimization, run
        causal = loss is causal_loss or isinstance(loss, EditLoss)
        earlier = [stage.process for stage in curriculum]
        self.collate = Collate(model, process, earlier=earlier, known=process is not None or causal)
        check_data(train_dataset, self.collate, self.share, run.workers)
        check_evaluation(eval_dataset, self.collate)
        if causal:
            check_causal(model, self.collate.states)
        if optimization.ema is not None:
            Average(model, optimization.ema)  # fail early if the model cannot be averaged
        check_sharding(self.layout, optimization)
        if optimization.checkpointing:
            enable_checkpointing(model)
        self.train_dataset, self.eval_dataset = train_dataset, eval_dataset
        # Weights that will be sharded go to the device block by block, so that it never holds all of them.
        self.network, autocast = model.to(self._start_device()), autocast_of(optimization)
        noise: dict[str, Any] = {}
        if process is not None:
            stages = [Stage(p, steps) for p, steps in (*curriculum, (process, optimization.steps))]
            training, evaluation, noise = self._losses(model, stages, objective, time_range, times, autocast)
            count = count or noised_tokens
        else:
            count = count or (predicted_tokens if loss is causal_loss else real_tokens)
            own: Any = loss
            training = evaluation = own if autocast is None else partial(own, autocast=autocast)
        # A network that accepts no attention mask is reported at the first padded batch.
        self.padding_checked = process is None or takes_padding(model)
        self.count: Callable[[Batch], Tensor] = count
        self.settings, self.start = self._numbers(noise, settings or {}), sums_of(self.network)
        given = [
            *([Progress()] if run.progress else []),
            *(LOGGERS[name]() for name in [run.report_to] if name != "none"),
        ]
        self.callbacks = without_doubles([*given, *callbacks])
        # Settings and fingerprints are those of whole weights; from here on these may be sharded.
        self.hollow = hollow(self.network) if self.layout.shards > 1 else None
        self.loss, self.evaluation_loss = training, evaluation
        self._prepare(LossModule(self.network, training, evaluation), autocast)

    def _losses(
        self,
        model: nn.Module,
        stages: Sequence[Stage],
        objective: Objective,
        time_range: tuple[float, float],
        times: TimesOfStep | None,
        autocast: torch.dtype | None,
    ) -> tuple[Loss, Loss, dict[str, Any]]:
        """Losses of clean rows that are noised, in training and evaluation (the bound of the last noise); their settings."""
        for stage in stages:
            check_noise(stage.process, time_range, model, self._start_device())
        stages = [Stage(copy.deepcopy(stage.process).to(self.device), stage.steps) for stage in stages]
        noises = [{"process": repr(noise), "process_tensors": fingerprint(noise.state_dict())} for noise, _ in stages]
        inner, last = innermost(model), stages[-1].process
        call = call_denoiser if isinstance(inner, Denoiser) else call_network
        own: dict[str, Any] = {"time_range": time_range, "autocast": autocast, "call": call}
        if isinstance(inner, Denoiser):
            own["predicts"] = inner.predicts
        plain: Any = partial(noised_loss, process=last, **own)
        staged: Any = partial(staged_loss, stages=stages, **own) if len(stages) > 1 else plain
        earlier = [{**noise, "steps": steps} for noise, (_, steps) in zip(noises[:-1], stages, strict=False)]
        settings = {
            **noises[-1],
            **({"curriculum": earlier} if earlier else {}),
            "objective": getattr(objective, "__name__", repr(objective)),
            "time_range": time_range,
            **({} if times is None else {"times": getattr(times, "__name__", repr(times))}),
        }
        return partial(staged, objective=objective, times=times), partial(plain, objective=elbo), settings

    def _start_device(self) -> torch.device:
        """Where the weights are before they are distributed."""
        return self.device if self.layout.shards == 1 else torch.device("cpu")

    def _numbers(self, noise: Mapping[str, Any], more: Mapping[str, Any]) -> dict[str, Any]:
        """The settings that a resumed run must share, of JSON types."""
        numbers = asdict(self.optimization)
        del numbers["micro_batch"]
        frozen = {name: p for name, p in self.network.named_parameters() if not p.requires_grad}
        settings = {
            "optimization": numbers,
            **noise,
            "weights": {name: list(p.shape) for name, p in self.network.named_parameters()},
            **({"frozen": fingerprint(frozen)} if frozen else {}),
            "data": data_settings(self.train_dataset),
            **more,
        }
        return json.loads(json.dumps(settings))

    def _prepare(self, module: LossModule, autocast: torch.dtype | None) -> None:
        """Compile and distribute the network, and build what trains it."""
        if self.optimization.compile:
            for block in blocks_of(self.network) or [self.network]:
                block.compile()
        self.module = distribute(module, self.network, self.layout, precision=autocast)
        self.optimizer = build_optimizer(self.network, self.optimization)
        self.average: Average | None = None
        self.writer = StateWriter(self.layout)
        self.termination, self.asked, self.stopped = Termination(), False, False
        self.step, self.history = 0, list[dict[str, float]]()
        self.losses = torch.zeros((), device=self.device)  # of the steps since the last log, in this process
        self.norm: Any = torch.zeros(())
        self.tokens, self.logged, self.clock = 0, 0, time.monotonic()
        self.bad_step = torch.zeros((), dtype=torch.long, device=self.device)
        self.step_loss = torch.zeros((), device=self.device)
        # Reading a value from a GPU waits for all queued work, so losses are checked only when the run logs or saves.
        self.checks_each_step = self.device.type == "cpu"

    # One optimizer step.

    def take_step(self, batches: Sequence[Mapping[str, Tensor]]) -> None:
        """One optimizer step from the micro-batches of this process.

        **Raises:** `NonFiniteLoss` if the loss is not finite: on the CPU before the weights change, on a GPU before
        anything is logged, evaluated or saved.
        """
        counted = sum(int(self.count(batch).sum()) for batch in batches)  # on the CPU, where the batches are made
        tokens = int(total(torch.tensor(counted)))
        self.module.train()
        self.step_loss = torch.zeros((), device=self.device)
        scored = torch.tensor(tokens, device=self.device)
        for micro, batch in enumerate(batches):
            there = {name: part.to(self.device, non_blocking=True) for name, part in batch.items()}
            self.note_padding(there)
            place = self.place(micro)
            # Dropout is drawn anew from the place, so that there is no state of random numbers to keep.
            torch.manual_seed(derive_seed("dropout", place.seed, place.step, micro, place.rank))
            with summed_later(self.module, micro + 1 < len(batches)):
                loss = self.module(there, place, scored)
                loss.backward()
            self.step_loss += loss.detach()
        self._note_loss()
        rate = learning_rate(self.optimization, self.step)
        for group in self.optimizer.param_groups:
            group["lr"] = rate
        self.norm = nn.utils.clip_grad_norm_(self.network.parameters(), self.optimization.clip)
        self.optimizer.step()
        self.optimizer.zero_grad()
        if self.average is not None:
            self.average.update()
        self.step += 1
        self.tokens += tokens

    def _note_loss(self) -> None:
        """Add the loss of a step to those to be logged, and note the first that is not finite."""
        self.losses += self.step_loss
        self.logged += 1
        # All processes see the same sum, so that all stop at the same step. A GPU is not waited for.
        bad = ~total(self.step_loss).isfinite() & (self.bad_step == 0)
        self.bad_step += bad * (self.step + 1)
        if self.checks_each_step:
            self.check_finite()

    def check_finite(self) -> None:
        """Raise `NonFiniteLoss` if a loss since the start of this run was not finite."""
        step = int(self.bad_step)
        if step:
            with contextlib.suppress(OSError):
                self.finish_saving()  # the message names the last good checkpoint
            raise NonFiniteLoss(f"the loss of optimizer step {step} is not finite; {self.last_good()}")

    def note_padding(self, batch: Batch) -> None:
        """Check at the first padded batch that the network accepts an attention mask."""
        if not self.padding_checked and "attention_mask" in batch:
            self.padding_checked = True
            check_padding(self.network)

    def place(self, micro: int) -> Place:
        """The position of a micro-batch of the current step in the run."""
        share, seed = self.share, self.optimization.seed
        place = Place(self.step, micro, share.accumulation, share.rank, share.world, seed)
        return place._replace(contiguous=self.feed.contiguous)

    # Between steps.

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
        rate = self.optimizer.param_groups[0]["lr"]
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

    # The whole run; see `Saving` for its files.

    def train(self, resume: str | Path | bool | None = None) -> Trained:
        """Train until the last step.

        **Arguments:**

        - `resume`: `"auto"` or `True`: resume from the newest intact checkpoint in the output folder, or start a new run
          if there is none; a folder: resume from that checkpoint; `"never"` or `False`: start a new run. By default that of
          `Run`, "auto".

        After SIGTERM the step is finished, a checkpoint is written and `SystemExit` is raised, with status 143.

        **Raises:** `ValueError` if the settings differ from those of the checkpoint, if the given checkpoint is not
        intact, if a new run would write into the folder of an old one, or if another run is using the folder;
        `NonFiniteLoss` if a loss is not finite; `OSError` if a checkpoint could not be written.
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
        except Exception as error:
            self.abandon_save(error)
            raise
        finally:
            with contextlib.suppress(Exception):
                self.writer.wait()  # also after an interruption: the folder is free when nothing is written any more
            if self.lock is not None:
                self.lock.release()
