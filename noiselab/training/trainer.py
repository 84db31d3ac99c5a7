"""The trainer: transformers' Trainer with this library's loss, noise, averaging and checkpoints.

Only methods and callbacks that transformers documents for this purpose are overridden; the loop, accumulation,
clipping, schedules, data-parallel training, compilation and loggers are those of transformers.
"""

import copy
import json
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any, Literal

import torch
import transformers
from torch import Tensor, nn
from torch.utils.data import DataLoader
from transformers.integrations import get_reporting_integration_callbacks
from transformers.trainer import DEFAULT_CALLBACKS
from transformers.trainer_callback import ProgressCallback
from transformers.trainer_utils import TrainOutput

from ..denoisers.base import Denoiser
from ..networks.wrapped import innermost
from ..objectives import Objective, elbo
from ..process import NoiseProcess
from .arguments import check_arguments, numbers
from .batches import Collate
from .callbacks import Callback, Progress, TrainerHooks, is_there
from .checks import (
    NonFiniteLoss,
    check_causal,
    check_data,
    check_evaluation,
    check_model,
    check_noise,
    check_padding,
    check_sharding,
    data_settings,
    enable_checkpointing,
    fingerprint,
    takes_padding,
)
from .curriculum import Stage, staged_loss
from .edits import EditLoss
from .ema import EMA_FILE, Average
from .evaluating import Evaluating
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
from .muon import MuonWithAdamW, block_matrices
from .noise import Place, derive_seed
from .processes import parallel, total
from .saving import Saving
from .stopping import STOPPED, Termination, shielded


class Trainer(Saving, Evaluating, transformers.Trainer):
    """Trains a network on a noise process, or on any other loss of the same form.

    A run that is killed at any moment resumes bit for bit. The mean over tokens, the times and the noise do not depend
    on the number of processes or micro-steps.

    **Arguments:**

    - `model`: a network with the signature of `DiT`, a `Denoiser`, or any model that `loss` can call; not compiled or wrapped
      for data-parallel training, which the trainer does by itself.
    - `args`: from `training_arguments`, or transformers' own arguments that pass `check_arguments`.
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
    - `loss`: any `Loss`, for example `causal_loss`, in place of `process`.
    - `count`: the mask of tokens that `loss` scores: by default `noised_tokens` for a process, `predicted_tokens` for
      `causal_loss`, and `real_tokens` for any other loss.
    - `autocast`: the dtype of the network's arithmetic. Unlike `bf16=True`, it makes no float32 copy of the logits.
    - `ema`: the decay of the averaged weights, or `None` for no averaging. Evaluation uses the average.
    - `optimizer`: "adamw" (or the one in `args.optim`), or "muon", which uses orthogonalized steps for the matrices of
      the blocks.
    - `decay_all`: whether weight decay applies to all weights; by default not to biases and norms, as in transformers.
    - `settings`: additional settings, of JSON types, that a resumed run must share.
    - `callbacks`: as for transformers' Trainer, but the same object or class that is given twice, here or to `add_callback`,
      is called once. Two objects of one class are two callbacks.

    **Raises:** `ValueError` if the process is not Markov; the logits do not match the vocabulary size of the process; the
    model is wrapped, or of the wrong kind for the loss; rows are no dicts of numbers, are too long, or hold ids that the model
    does not know or, for a process, tokens outside its support, such as the mask; or an argument would break exact resumption.

    **Example:**

    ```python
    import tempfile

    import torch
    import noiselab as nl
    from noiselab.data import TokenBlocks
    from noiselab.networks.dit import DiT, DiTConfig
    from noiselab.training import Trainer, training_arguments

    blocks = TokenBlocks(torch.randint(8, (32, 4)), torch.full((32,), 4), vocab_size=9)
    model = DiT(DiTConfig(vocab_size=9, max_seq_len=4, hidden_size=8, num_hidden_layers=1, num_attention_heads=2))
    with tempfile.TemporaryDirectory() as folder:
        args = training_arguments(folder, max_steps=2, disable_tqdm=True, use_cpu=True)
        trainer = Trainer(model, args, train_dataset=blocks, process=nl.masked(vocab_size=9, mask_id=8), ema=0.9)
        trainer.train()
    ```
    """

    def __init__(
        self,
        model: nn.Module,
        args: transformers.TrainingArguments,
        *,
        train_dataset: Any,
        eval_dataset: Any = None,
        process: NoiseProcess | None = None,
        curriculum: Sequence[Stage] = (),
        objective: Objective = elbo,
        time_range: tuple[float, float] = (1e-4, 1 - 1e-4),
        loss: Loss | None = None,
        count: Callable[[Batch], Tensor] | None = None,
        autocast: torch.dtype | None = None,
        ema: float | None = None,
        optimizer: Literal["adamw", "muon"] = "adamw",
        decay_all: bool = False,
        settings: Mapping[str, Any] | None = None,
        callbacks: Sequence[Callback] | None = None,
    ) -> None:
        if (process is None) == (loss is None):
            raise ValueError(f"either a process or a loss must be given; got process={process!r}, loss={loss!r}")
        check_arguments(args)
        check_model(model)
        causal = loss is causal_loss or isinstance(loss, EditLoss)
        earlier = [stage.process for stage in curriculum]
        collate = Collate(model, process, earlier=earlier, known=process is not None or causal)
        check_data(train_dataset, collate, args)
        check_evaluation(eval_dataset, collate)
        if causal:
            check_causal(model, collate.states)
        if ema is not None:
            Average(model, ema)  # fail early if the model cannot be averaged
        # transformers would delete the oldest by modification time, which a clock that is set back turns into the newest.
        self.termination, self.stopped = Termination(), False
        given, args = args, copy.copy(args)
        self.keep, args.save_total_limit = args.save_total_limit, None
        if args.activation_checkpointing:
            options: Any = args.activation_checkpointing_kwargs
            enable_checkpointing(model, options)
            args.activation_checkpointing = False  # transformers would look for it in the model itself
        super().__init__(
            model, args, collate, train_dataset, eval_dataset, callbacks=self._callbacks(args, callbacks or [])
        )
        if args.fsdp:
            check_sharding(args, ema, optimizer, enabled=self.is_fsdp_enabled)
        if not args.disable_tqdm:
            self._show_progress()
        noise: dict[str, Any] = {}
        self.loss: Loss
        self.evaluation_loss: Loss
        if process is not None:
            stages = [Stage(p, steps) for p, steps in (*curriculum, (process, args.max_steps))]
            noise = self._train_on_noise(model, stages, objective, time_range=time_range, autocast=autocast)
            count = count or noised_tokens
        elif loss is not None:
            count = count or (predicted_tokens if loss is causal_loss else real_tokens)
            self.loss = self.evaluation_loss = loss if autocast is None else partial(loss, autocast=autocast)  # type: ignore[call-arg]
        # A network that accepts no attention mask is reported at the first padded batch.
        self.padding_checked = process is None or takes_padding(model)
        self.count: Callable[[Batch], Tensor] = count or real_tokens
        self.decay, self.decay_all, self.muon = ema, decay_all, optimizer == "muon"
        self.settings = {
            "training": numbers(given),
            "processes": args.world_size,
            **noise,
            "autocast": str(autocast),
            "ema": ema,
            "decay_all": decay_all,
            "optimizer": optimizer,
            "weights": {name: list(p.shape) for name, p in self.network.named_parameters()},
            "data": data_settings(train_dataset, args),
            **(settings or {}),
        }
        self.settings = json.loads(json.dumps(self.settings))
        self.loss_is_scaled_for_ga = True  # losses are already divided by the number of tokens in the step
        self._start_counting(args.device)

    def _callbacks(self, args: transformers.TrainingArguments, given: Sequence[Callback]) -> list[Any]:
        """The trainer's own callback and the given ones, without those that are given twice or that transformers adds."""
        others = [*DEFAULT_CALLBACKS, *get_reporting_integration_callbacks(args.report_to)]
        kept: list[Callback] = [TrainerHooks(self)]
        for callback in given:
            if not is_there(callback, [*others, *kept]):
                kept.append(callback)
        return kept

    def add_callback(self, callback: Callback) -> None:
        """Add a callback, as for transformers' Trainer; one that is there already is not added again."""
        if not is_there(callback, self.callback_handler.callbacks):
            super().add_callback(callback)

    def _show_progress(self) -> None:
        """Replace the bars of transformers by one `Progress`."""
        for callback in [
            callback for callback in self.callback_handler.callbacks if type(callback) is ProgressCallback
        ]:
            self.remove_callback(callback)
        if not any(isinstance(callback, ProgressCallback) for callback in self.callback_handler.callbacks):
            self.add_callback(Progress())

    def _start_counting(self, device: torch.device) -> None:
        self.average: Average | None = None
        self.micro, self.accumulation = 0, 1
        self.step_loss = torch.zeros(())
        # Reading a value from a GPU waits for all queued work, so losses are checked only when the run logs or saves.
        self.check_each_step = device.type == "cpu"
        self.bad_step = torch.zeros((), dtype=torch.long, device=device)
        self.tokens = torch.zeros((), dtype=torch.long, device=device)
        self.clock = time.monotonic()

    def _train_on_noise(
        self,
        model: nn.Module,
        stages: Sequence[Stage],
        objective: Objective,
        *,
        time_range: tuple[float, float],
        autocast: torch.dtype | None,
    ) -> dict[str, Any]:
        """Losses of clean rows that are noised; evaluation uses the bound of the last noise. Returns their settings."""
        device = self.args.device
        for stage in stages:
            check_noise(stage.process, time_range, model, device)
        stages = [Stage(copy.deepcopy(stage.process).to(device), stage.steps) for stage in stages]
        noises = [{"process": repr(noise), "process_tensors": fingerprint(noise.state_dict())} for noise, _ in stages]
        last = stages[-1].process
        inner = innermost(model)
        call = call_denoiser if isinstance(inner, Denoiser) else call_network
        own: dict[str, Any] = {"time_range": time_range, "autocast": autocast, "call": call}
        if isinstance(inner, Denoiser):
            own["predicts"] = inner.predicts
        plain: Any = partial(noised_loss, process=last, **own)
        staged: Any = partial(staged_loss, stages=stages, **own) if len(stages) > 1 else plain
        self.loss, self.evaluation_loss = partial(staged, objective=objective), partial(plain, objective=elbo)
        earlier = [{**noise, "steps": steps} for noise, (_, steps) in zip(noises[:-1], stages, strict=False)]
        return {
            **noises[-1],
            **({"curriculum": earlier} if earlier else {}),
            "objective": getattr(objective, "__name__", repr(objective)),
            "time_range": time_range,
        }

    # One optimizer step.

    def get_batch_samples(
        self, epoch_iterator: Iterator[Any], num_batches: int, device: torch.device
    ) -> tuple[list[Any], Tensor | int | None]:
        """The batches of one optimizer step, and the number of their scored tokens over all processes."""
        batches, _ = super().get_batch_samples(epoch_iterator, num_batches, device)
        self.micro, self.accumulation = 0, len(batches)
        if not batches:
            return batches, None
        tokens = total(torch.stack([self.count(batch).sum() for batch in batches]).sum().to(device))
        self.tokens += tokens
        return batches, tokens

    def compute_loss(
        self,
        model: nn.Module,
        inputs: dict[str, Any],
        return_outputs: bool = False,
        num_items_in_batch: Tensor | int | None = None,
    ) -> Any:
        """The loss of one micro-batch; network outputs are not kept and returned as an empty dict."""
        self.note_padding(inputs)
        tokens = None if num_items_in_batch is None else torch.as_tensor(num_items_in_batch)
        loss = self.loss(model, inputs, place=self.place(), tokens=tokens)
        return (loss, {}) if return_outputs else loss

    def note_padding(self, batch: Batch) -> None:
        """Check at the first padded batch that the network accepts an attention mask."""
        if not self.padding_checked and "attention_mask" in batch:
            self.padding_checked = True
            check_padding(self.network)

    def place(self) -> Place:
        """The position of the current micro-batch in the run."""
        args = self.args
        step, rank, world = self.state.global_step, args.process_index, args.world_size
        # transformers' data loaders give each process consecutive rows.
        return Place(step, self.micro, self.accumulation, rank, world, args.seed, contiguous=True)

    def training_step(
        self, model: nn.Module, inputs: dict[str, Any], num_items_in_batch: Tensor | int | None = None
    ) -> Tensor:
        """Forward and backward of one micro-batch.

        **Raises:** `NonFiniteLoss` if the loss of the step is not finite: on the CPU before the weights change, on
        a GPU before anything is logged, evaluated or saved.
        """
        loss = super().training_step(model, inputs, num_items_in_batch)
        self.step_loss = loss if self.micro == 0 else self.step_loss + loss
        self.micro += 1
        if self.micro == self.accumulation:
            # All processes see the same sum, so that all stop at the same step.
            bad = ~total(self.step_loss).isfinite() & (self.bad_step == 0)
            self.bad_step += bad * (self.state.global_step + 1)
            if self.check_each_step:
                self.check_finite()
        return loss

    def check_finite(self) -> None:
        """Raise `NonFiniteLoss` if a loss since the start of this run was not finite."""
        step = int(self.bad_step)
        if step:
            raise NonFiniteLoss(f"the loss of optimizer step {step} is not finite; {self.last_good()}")

    def get_decay_parameter_names(self, model: nn.Module) -> list[str]:
        """The names of weights with weight decay."""
        return (
            [name for name, _ in model.named_parameters()]
            if self.decay_all
            else super().get_decay_parameter_names(model)
        )

    def create_optimizer(self, model: nn.Module | None = None) -> torch.optim.Optimizer:
        """The optimizer: transformers' choice, or Muon."""
        if not self.muon or self.optimizer is not None:
            return super().create_optimizer(model)
        args, network = self.args, self.network if model is None else model
        matrices, decayed = set(block_matrices(network)), set(self.get_decay_parameter_names(network))
        groups: dict[tuple[bool, bool], list[nn.Parameter]] = {}
        for name, p in network.named_parameters():
            if p.requires_grad:
                groups.setdefault((name in matrices, name in decayed), []).append(p)
        self.optimizer = MuonWithAdamW(
            [
                {"params": weights, "orthogonal": orthogonal, "weight_decay": args.weight_decay if decay else 0.0}
                for (orthogonal, decay), weights in groups.items()
            ],
            lr=args.learning_rate,
            betas=(args.adam_beta1, args.adam_beta2),
            eps=args.adam_epsilon,
        )
        return self.optimizer

    # Between steps.

    def get_train_dataloader(self) -> DataLoader[Any]:
        """The loader of the training data; its workers ignore SIGTERM, so that the step can be finished."""
        return shielded(super().get_train_dataloader())

    def get_eval_dataloader(self, eval_dataset: Any = None) -> DataLoader[Any]:
        """The loader of the evaluation data, with workers of the same kind."""
        return shielded(super().get_eval_dataloader(eval_dataset))

    def must_stop(self, control: transformers.TrainerControl) -> bool:
        """Whether a process of the run has received SIGTERM; all processes get the same answer."""
        asked = self.termination.asked
        if parallel():
            # Reading a value from a GPU waits for all queued work, so processes agree only when the run waits anyway.
            if self.args.device.type != "cpu" and not (
                control.should_log or control.should_evaluate or control.should_save
            ):
                return False
            asked = bool(total(torch.tensor(int(asked), device=self.args.device)))
        self.stopped = self.stopped or asked
        return self.stopped

    def begin(self) -> None:
        """Start or restore the average; called after the weights are loaded, before the first step."""
        if self.decay is not None:
            self.average = Average(self.network, self.decay)
            if self.resumed is not None:
                self.average.load(self.resumed / EMA_FILE)
        if self.args.world_size > 1 and self.resumed is None:
            # transformers gives all processes the same seed, which would correlate their dropout.
            torch.manual_seed(derive_seed("dropout", self.args.seed, self.args.process_index))
        self.tokens.zero_()
        self.clock = time.monotonic()

    def log(self, logs: dict[str, float], start_time: float | None = None) -> None:
        """Log values together with the training speed since the last log."""
        if "loss" in logs:
            now = time.monotonic()
            logs = {**logs, "tokens_per_second": int(self.tokens) / max(now - self.clock, 1e-9)}
            self.tokens.zero_()
            self.clock = now
        super().log(logs, start_time)

    # The whole run; see `Saving` for its files.

    def train(  # type: ignore[override]
        self, resume_from_checkpoint: str | Path | bool | None = "auto", **kwargs: Any
    ) -> TrainOutput:
        """Train until the last step.

        **Arguments:**

        - `resume_from_checkpoint`: `"auto"` or `True`: resume from the newest intact checkpoint in the output folder,
          or start a new run if there is none; a folder: resume from that checkpoint; `None` or `False`: start a new
          run.

        After SIGTERM the step is finished, a checkpoint is written and `SystemExit` is raised, with status 143.

        **Raises:** `ValueError` if the settings differ from those of the checkpoint, if the given checkpoint is not
        intact, if a new run would write into the folder of an old one, or if another run is using the folder;
        `NonFiniteLoss` if a loss is not finite; `OSError` if a checkpoint could not be written.
        """
        try:
            with self.termination.noted():
                folder = self.resumed = self.sealed = self.choose(resume_from_checkpoint)
                self.bad_step.zero_()
                self.stopped = False
                if folder is not None and self.complete(folder):
                    return self.restore(folder)
                output = super().train(resume_from_checkpoint=None if folder is None else str(folder), **kwargs)
        except Exception as error:
            if self.saving is None or isinstance(error, NonFiniteLoss):
                raise
            raise self.failed_save(error) from error
        finally:
            if self.lock is not None:
                self.lock.release()
        if self.stopped:
            if self.is_world_process_zero():
                print(f"stopped by SIGTERM; started again, the same run continues from {self.sealed}", file=sys.stderr)
            raise SystemExit(STOPPED)
        return output
