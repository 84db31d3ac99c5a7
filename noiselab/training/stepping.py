"""One optimizer step of the trainer: its passes, the loss that is noted, the new weights."""

import contextlib
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from ..distributed import total
from .checks import NonFiniteLoss, check_padding
from .ema import Average
from .feeding import Share
from .layout import summed_later
from .losses import Batch
from .noise import Place, derive_seed
from .optimizers import learning_rate, set_learning_rate
from .options import Optimization


class Stepping:
    """The part of `Trainer` that makes a step."""

    network: nn.Module
    module: nn.Module  # what is called: the network with its losses, over all processes
    optimization: Optimization
    optimizer: torch.optim.Optimizer
    average: Average | None
    device: torch.device
    share: Share
    count: Callable[[Batch], Tensor]
    feed: Any
    step: int
    tokens: int  # since the last log, over all processes
    logged: int  # steps since the last log
    losses: Tensor  # their sum, in this process
    step_loss: Tensor
    norm: Any
    bad_step: Tensor
    checks_each_step: bool
    padding_checked: bool
    finish_saving: Callable[[], None]
    last_good: Callable[[], str]

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
        set_learning_rate(self.optimizer, learning_rate(self.optimization, self.step))
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
