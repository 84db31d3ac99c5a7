"""Evaluation by the trainer: the same number for any batch size and any number of processes."""

import contextlib
import math
import time
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, Any

import torch
import transformers
from torch import Tensor
from torch.utils.data import DataLoader, IterableDataset

from ..networks.wrapped import bare
from .checks import check_evaluation
from .ema import Average
from .losses import Batch, Loss
from .noise import Place, derive_seed
from .processes import total
from .stopping import shielded

if TYPE_CHECKING:
    Base = transformers.Trainer
else:
    Base = object


class Evaluating(Base):
    """The part of `Trainer` that evaluates."""

    average: Average | None
    evaluation_loss: Loss
    count: Callable[[Batch], Tensor]
    clock: float
    note_padding: Callable[[Batch], None]

    def evaluate(
        self, eval_dataset: Any = None, ignore_keys: list[str] | None = None, metric_key_prefix: str = "eval"
    ) -> dict[str, float]:
        """The mean loss over all scored tokens of a data set, with the averaged weights if there are any.

        For a process this is the ELBO over `time_range`, in nats per token. The time and the noise of a row depend on the
        seed and its index in the data set only: they are the same at each evaluation, for any batch size and any number of
        processes. Evaluation does not affect training.

        **Returns:** `{prefix}_loss` and `{prefix}_perplexity`.

        **Raises:** `ValueError` if there are no evaluation data, or no scored tokens.
        """
        chosen: Any = self.eval_dataset if eval_dataset is None else eval_dataset
        if isinstance(chosen, dict):
            parts = [self.evaluate(v, ignore_keys, f"{metric_key_prefix}_{name}") for name, v in chosen.items()]
            return {name: value for part in parts for name, value in part.items()}
        if chosen is None:
            raise ValueError("evaluation data must be given to the trainer or to evaluate; got none")
        check_evaluation(chosen, self.data_collator)  # type: ignore[arg-type]
        args, started, network = self.args, time.monotonic(), bare(self.accelerator.unwrap_model(self.model))
        losses = torch.zeros((), dtype=torch.float64, device=args.device)
        tokens = torch.zeros((), dtype=torch.long, device=args.device)
        one = torch.ones((), device=args.device)
        seed = derive_seed("evaluation", args.seed)
        applied = contextlib.nullcontext() if self.average is None else self.average.applied()
        with torch.no_grad(), applied, torch.random.fork_rng(devices=[]):  # data loaders draw from the global generator
            network.eval()
            for first, rows, counts, batch in self._evaluation_batches(chosen):
                self.note_padding(batch)
                place = Place(0, seed=seed, row=first, rows=rows)
                loss = self.evaluation_loss(network, batch, place=place, tokens=one)
                losses += loss.double() * counts  # normalized as if the step had one token, so this is a sum
                tokens += self.count(batch).sum() * counts
        losses, tokens = total(losses), total(tokens)
        if not int(tokens):
            raise ValueError("evaluation data must hold at least one scored token; got none")
        mean = float(losses) / int(tokens)
        self.clock += time.monotonic() - started  # evaluation does not count towards the training speed
        metrics = {
            f"{metric_key_prefix}_loss": mean,
            f"{metric_key_prefix}_perplexity": math.exp(mean) if mean < 700 else math.inf,
        }
        self.log(dict(metrics))  # adds the speed
        self.control = self.callback_handler.on_evaluate(args, self.state, self.control, metrics)
        return metrics

    def _evaluation_batches(self, dataset: Any) -> Iterator[tuple[int, int, bool, dict[str, Tensor]]]:
        """The batches of this process: the index of the first row, the number of rows, whether the batch counts, the batch.

        All processes get the same number of batches, as sharded networks need; those that are left over do not count.
        """
        args = self.args
        rows: Any = list(dataset) if isinstance(dataset, IterableDataset) else dataset
        size, world = args.per_device_eval_batch_size, args.world_size
        firsts = list(range(0, len(rows), size))
        rounds = -(-len(firsts) // world)
        mine = [k * world + args.process_index for k in range(rounds)]
        loader = DataLoader(
            rows,
            batch_sampler=[
                list(range(firsts[k % len(firsts)], min(firsts[k % len(firsts)] + size, len(rows)))) for k in mine
            ],
            collate_fn=self.data_collator,
            num_workers=args.dataloader_num_workers,
            pin_memory=args.dataloader_pin_memory and args.device.type != "cpu",
        )
        for k, batch in zip(mine, shielded(loader), strict=True):
            there = {name: part.to(args.device, non_blocking=True) for name, part in batch.items()}
            yield firsts[k % len(firsts)], len(rows), k < len(firsts), there
