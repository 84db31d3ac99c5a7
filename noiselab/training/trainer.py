"""The trainer: one engine for one process and for many, with this library's loss, noise, averaging and checkpoints."""

import time
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Any, cast

import torch
from torch import Tensor, nn

from ..distributed import ending_together, reshard
from ..networks.wrapped import plain_names
from ..objectives import Objective, elbo
from ..process import NoiseProcess
from .batches import Collate
from .callbacks import LOGGERS, Callback, Progress, without_doubles
from .checks import (
    causal_check,
    check_causal,
    check_data,
    check_evaluation,
    check_model,
    check_optimization,
    check_sharding,
    enable_checkpointing,
    takes_padding,
)
from .curriculum import Stage
from .documents import check_documents, separates
from .edits import EditLoss
from .ema import Average, check_averaged
from .forward import LossModule
from .identity import fingerprint, settings_of_run
from .initial import FirstWeights, Weights, is_empty
from .layout import blocks_of, distribute, hollow, start_processes
from .loop import Loop
from .losses import Batch, Loss, causal_loss
from .noise import Place, TimesOfStep
from .optimizers import build_optimizer
from .options import Optimization, Run, autocast_of
from .run_losses import losses_of_noise, losses_of_user
from .state import StateWriter
from .stopping import Termination

TIMES = (1e-4, 1 - 1e-4)
"""The range of times in training and evaluation, by default."""


class Trainer(Loop):
    """Trains a network on a noise process, or on any other loss of the same form, on one device or many.

    A run that is killed at any moment resumes bit for bit. The mean over tokens, the times, the noise and the order of the
    data do not depend on the number of processes, micro-batches or loader workers.

    **Arguments:**

    - `model`: a network with the signature of `DiT`, a `Denoiser`, or any model that `loss` can call; not compiled or wrapped
      for distributed training, which the trainer does by itself. Built under `torch.device("meta")`, it gets its first weights
      here, and no process ever holds all of those that are sharded (`Run.shards`).
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
    - `blocks`: the number of tokens in a block, for block diffusion: each block is learned, and evaluated, given the clean
      blocks before it, all in one pass. See `noised_loss`. The weights are those of `model`, which is sampled in blocks
      (`noiselab.denoisers.BlockDenoiser`).
    - `loss`: any `Loss`, for example `causal_loss`, in place of `process` and of all arguments that belong to its noise.
    - `count`: the mask of tokens that `loss` scores: by default `noised_tokens` for a process, `predicted_tokens` for
      `causal_loss`, and `real_tokens` for any other loss.
    - `weights`: for a model on the device "meta", the folder of safetensors from which its first weights are read, under their
      names in the model; by default they are drawn from `Optimization.seed`. Or a function that is called with each module
      when they have been drawn, as by `torch.nn.Module.apply`, and may change them.
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

    @ending_together()
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
        time_range: tuple[float, float] = TIMES,
        times: TimesOfStep | None = None,
        blocks: int | None = None,
        loss: Loss | None = None,
        count: Callable[[Batch], Tensor] | None = None,
        weights: Weights | None = None,
        settings: Mapping[str, Any] | None = None,
        callbacks: Sequence[Callback] = (),
    ) -> None:
        if (process is None) == (loss is None):
            raise ValueError(f"either a process or a loss must be given; got process={process!r}, loss={loss!r}")
        if process is None:
            noise: dict[str, Any] = {"blocks": blocks, "times": times, "curriculum": curriculum or None}
            noise["objective"] = None if objective is elbo else objective
            noise["time_range"] = None if time_range == TIMES else time_range
            for name, value in noise.items():
                if value is not None:
                    raise ValueError(f"{name} can be given with a process only, not with a loss; got {value!r}")
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
        check_sharding(self.layout, optimization, model)
        first = self._first_weights(model, weights)
        if causal and first is None:
            check_causal(model, self.collate.states)
        if (process is not None or loss is causal_loss) and separates(train_dataset):
            check_documents(model, causal)
        if optimization.ema is not None:
            check_averaged(plain_names(model), optimization.ema)
        if optimization.checkpointing:
            enable_checkpointing(model)
        self.train_dataset, self.eval_dataset = train_dataset, eval_dataset
        # Weights that will be sharded go to the device block by block, so that it never holds all of them.
        self.network, autocast = model if first else model.to(self._start_device()), autocast_of(optimization)
        if process is None:
            chosen = losses_of_user(cast(Loss, loss), count, autocast)
        else:
            stages = [Stage(p, steps) for p, steps in (*curriculum, (process, optimization.steps))]
            how: Any = {
                "objective": objective,
                "time_range": time_range,
                "times": times,
                "blocks": blocks,
                "count": count,
            }
            chosen = losses_of_noise(model, stages, autocast=autocast, device=self.device, **how)
        # A network that accepts no attention mask is reported at the first padded batch.
        self.padding_checked = process is None or takes_padding(model)
        self.count = chosen.count
        given = [
            *([Progress()] if run.progress else []),
            *(LOGGERS[name]() for name in [run.report_to] if name != "none"),
        ]
        self.callbacks = without_doubles([*given, *callbacks])
        self.hollow = hollow(self.network) if self.layout.shards > 1 else None
        self.loss, self.evaluation_loss = chosen.training, chosen.evaluation
        self._prepare(LossModule(self.network, self.loss, self.evaluation_loss), autocast, first)
        if causal and first is not None:
            self.module({}, Place(0), None, partial(causal_check, states=self.collate.states))
            reshard(self.module)
        self.settings = settings_of_run(model, optimization, train_dataset, chosen.settings, settings or {})
        self.start = fingerprint(dict(self.network.named_parameters()))

    def _start_device(self) -> torch.device:
        """Where the weights are before they are distributed."""
        return self.device if self.layout.shards == 1 else torch.device("cpu")

    def _first_weights(self, model: nn.Module, weights: Weights | None) -> FirstWeights | None:
        """What fills a model without memory, if it is filled part by part; another is filled now."""
        if not is_empty(model):
            if weights is not None:
                raise ValueError('weights must be given for a model on the device "meta" only; this one has its own')
            return None
        first = FirstWeights(model, self.optimization.seed, weights)
        if self.layout.shards > 1:
            return first
        first.fill(model)
        return None

    def _prepare(self, module: LossModule, autocast: torch.dtype | None, first: FirstWeights | None) -> None:
        """Compile and distribute the network, and build what trains it."""
        if self.optimization.compile:
            for block in blocks_of(self.network) or [self.network]:
                block.compile()
        self.module = distribute(module, self.network, self.layout, precision=autocast, first=first)
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
