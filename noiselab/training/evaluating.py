"""Evaluation by the trainer: the same number for any batch size and any number of processes."""

import contextlib
import math
import time
from collections.abc import Callable, Iterator
from typing import Any, TypeVar

import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader, IterableDataset

from ..distributed import ending_together, reshard, total
from ..distributed.processes import deal
from ..distributed.sharded import is_shard
from .batches import Collate
from .checks import check_evaluation
from .ema import Average
from .feeding import Share
from .losses import Batch
from .noise import Place, derive_seed
from .options import Optimization, Run
from .stopping import shielded

Result = TypeVar("Result")


class Evaluating:
    """The part of `Trainer` that evaluates."""

    average: Average | None
    module: nn.Module
    network: nn.Module
    collate: Collate
    share: Share
    run: Run
    optimization: Optimization
    device: torch.device
    eval_dataset: Any
    count: Callable[[Batch], Tensor]
    clock: float
    note_padding: Callable[[Batch], None]
    log: Callable[[dict[str, float]], None]

    @ending_together()
    def evaluate(self, dataset: Any = None, *, name: str = "eval") -> dict[str, float]:
        """The mean loss over all scored tokens of a data set, with the averaged weights if there are any.

        For a process this is the ELBO over `time_range`, in nats per token. The time and the noise of a row depend on the
        seed and its index in the data set only: they are the same at each evaluation, for any batch size and any number of
        processes. Evaluation does not affect training.

        **Arguments:**

        - `dataset`: a finite data set, or a dict of several; by default those given to the trainer.
        - `name`: how the values are logged.

        **Returns:** `{name}_loss` and `{name}_perplexity`; of several data sets `{name}_{key}_loss`, ...

        **Raises:** `ValueError` if there are no evaluation data, or no scored tokens.
        """
        chosen: Any = self.eval_dataset if dataset is None else dataset
        if isinstance(chosen, dict):
            parts = [self.evaluate(part, name=f"{name}_{key}") for key, part in chosen.items()]
            return {key: value for part in parts for key, value in part.items()}
        if chosen is None:
            raise ValueError("evaluation data must be given to the trainer or to evaluate; got none")
        check_evaluation(chosen, self.collate)
        started, device, training = time.monotonic(), self.device, self.module.training
        losses = torch.zeros((), dtype=torch.float64, device=device)
        tokens = torch.zeros((), dtype=torch.long, device=device)
        one = torch.ones((), device=device)
        seed = derive_seed("evaluation", self.optimization.seed)
        applied = contextlib.nullcontext() if self.average is None else self.average.applied()
        with torch.no_grad(), applied, torch.random.fork_rng(devices=[]):  # data loaders draw from the global generator
            self.module.eval()
            for first, rows, counts, batch in self._evaluation_batches(chosen):
                self.note_padding(batch)
                place = Place(0, seed=seed, row=first, rows=rows)
                loss = self.module(batch, place, one)
                losses += loss.double() * counts  # normalized as if the step had one token, so this is a sum
                tokens += self.count(batch).sum() * counts
        reshard(self.module)
        self.module.train(training)
        losses, tokens = total(losses), total(tokens)
        if not int(tokens):
            raise ValueError("evaluation data must hold at least one scored token; got none")
        mean = float(losses) / int(tokens)
        self.clock += time.monotonic() - started  # evaluation does not count towards the training speed
        metrics = {
            f"{name}_loss": mean,
            f"{name}_perplexity": math.exp(mean) if mean < 700 else math.inf,
        }
        self.log(metrics)
        return metrics

    @ending_together()
    def measure(self, work: Callable[[nn.Module], Result]) -> Result:
        """What a function of the network returns: any measure other than the loss, with the averaged weights if there are any.

        With sharded weights all processes must call this, and `work` must call the network equally often in each of them,
        as `noiselab.evaluation.validation_bound` does with `processes`. It does not affect training.

        **Arguments:**

        - `work`: called with the network in evaluation mode, without gradients.

        **Example:**

        ```python
        import tempfile

        import torch
        import noiselab as nl
        from noiselab.data import TokenBlocks
        from noiselab.evaluation import validation_bound
        from noiselab.networks.dit import DiT, DiTConfig
        from noiselab.networks.huggingface import TransformersDenoiser
        from noiselab.training import Optimization, Run, Trainer

        blocks = TokenBlocks(torch.randint(8, (32, 4)), torch.full((32,), 4), vocab_size=9)
        model = DiT(DiTConfig(vocab_size=9, max_seq_len=4, hidden_size=8, num_hidden_layers=1, num_attention_heads=2))
        process = nl.masked(vocab_size=9, mask_id=8)
        with tempfile.TemporaryDirectory() as folder:
            run = Run(folder, cpu=True, progress=False)
            trainer = Trainer(model, Optimization(steps=2, batch=8), run, train_dataset=blocks, process=process)
            trainer.train()
            bound = trainer.measure(lambda network: validation_bound(process, TransformersDenoiser(network), blocks))
        assert bound.nelbo > 0
        ```

        With several processes, in a callback: give `validation_bound` the `processes` of `noiselab.distributed.join_processes`.
        """

        def inside(network: nn.Module, batch: Batch, **place: Any) -> Result:
            return work(network)

        started, training = time.monotonic(), self.module.training
        applied = contextlib.nullcontext() if self.average is None else self.average.applied()
        with torch.no_grad(), applied, torch.random.fork_rng(devices=[]):
            self.module.eval()
            try:
                # Weights that belong to the whole pass are there within its call only.
                found = self.module({}, Place(0), None, inside) if is_shard(self.module) else work(self.network)
            finally:
                reshard(self.module)
                self.module.train(training)
        self.clock += time.monotonic() - started
        return found

    def _evaluation_batches(self, dataset: Any) -> Iterator[tuple[int, int, bool, dict[str, Tensor]]]:
        """The batches of this process: the index of the first row, the number of rows, whether the batch counts, the batch.

        All processes get the same number of batches, as sharded networks need; those that are left over do not count.
        """
        rows: Any = list(dataset) if isinstance(dataset, IterableDataset) else dataset
        size, world = self.share.micro, self.share.world
        firsts = list(range(0, len(rows), size))
        mine = deal(len(firsts), self.share.rank, world, same_calls=True)
        loader = DataLoader(
            rows,
            batch_sampler=[
                list(range(firsts[k % len(firsts)], min(firsts[k % len(firsts)] + size, len(rows)))) for k in mine
            ],
            collate_fn=self.collate,
            num_workers=self.run.workers,
            pin_memory=self.device.type == "cuda",
        )
        for k, batch in zip(mine, shielded(loader), strict=True):
            there = {name: part.to(self.device, non_blocking=True) for name, part in batch.items()}
            yield firsts[k % len(firsts)], len(rows), k < len(firsts), there
