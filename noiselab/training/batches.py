"""Batches of training data: stacked from rows and checked on the CPU, before anything reaches the network."""

from collections.abc import Sequence
from typing import Any

from torch import Tensor, nn

from ..data.rows import stack_rows
from ..networks.lengths import context_length
from ..networks.wrapped import innermost
from ..process import NoiseProcess
from ..typing import Selection
from .losses import noised_tokens


class Collate:
    """Stacks rows into a batch and checks it, on the CPU; called by the workers of a loader.

    **Arguments:**

    - `model`: the network; its configuration, if it has one, limits the length and the ids.
    - `process`: the process of a diffusion loss, to whose support clean data must belong; `None` for other losses.
    - `earlier`: processes of earlier steps of the same run, to whose support they must belong, too.
    - `known`: whether the loss is one of this library, which passes all ids to the network and takes `labels`; another loss
      may do what it wants with them.

    **Raises:** `ValueError` for processes with unlike numbers of tokens; when called, as `stack_rows`, and for sequences that
    are too long, ids that the model does not know, labels that are not the tokens, and clean data with tokens outside the
    support, such as masks.
    """

    def __init__(
        self,
        model: nn.Module,
        process: NoiseProcess | None = None,
        *,
        earlier: Sequence[NoiseProcess] = (),
        known: bool = True,
    ) -> None:
        self.longest, self.known = context_length(with_config(model)), known
        self.support = None if process is None else process.host_support().clone()
        for other in earlier:
            support = other.host_support()
            if self.support is None or len(support) != len(self.support):
                states = None if process is None else process.vocab_size
                raise ValueError(
                    f"earlier noises must have the number of tokens of the last, {states}; got {other.vocab_size}"
                )
            self.support = self.support & support
        self.states = known_tokens(model)
        if self.states is None and process is not None:
            self.states = process.vocab_size

    def __call__(self, rows: list[Any]) -> dict[str, Tensor]:
        """The batch; ids are int64."""
        batch = stack_rows(rows)
        ids = batch["input_ids"] = batch["input_ids"].long()
        if self.longest is not None and ids.shape[1] > self.longest:
            raise ValueError(
                f"sequences must have at most the model's {self.longest} tokens; got one of {ids.shape[1]}"
            )
        if not self.known:
            return batch
        strange = ids < 0 if self.states is None else (ids < 0) | (ids >= self.states)
        if strange.any():
            most = "the size of the vocabulary" if self.states is None else self.states - 1
            refuse(f"token ids must lie between 0 and {most}, also at padding (-100 is for labels)", ids, strange)
        check_labels(batch)
        if self.support is not None:
            clean = self.support[ids.clamp(max=len(self.support) - 1)] & (ids < len(self.support))
            strange = noised_tokens(batch) & ~clean
            if strange.any():
                refuse(
                    "clean data must hold tokens of the process's support only, not its mask token (the trainer adds the "
                    "noise; attention_mask marks padding, labels of -100 mark tokens that are neither noised nor learned)",
                    ids,
                    strange,
                )
        return batch


def check_labels(batch: dict[str, Tensor]) -> None:
    """Check that labels are the tokens themselves, or -100 at tokens that are not learned.

    **Raises:** `ValueError`.
    """
    labels, ids = batch.get("labels"), batch["input_ids"]
    for name in ("labels", "scored"):
        if name in batch and batch[name].shape != ids.shape:
            raise ValueError(
                f"{name} must have the shape of input_ids, {list(ids.shape)}; got {list(batch[name].shape)}"
            )
    if labels is not None:
        strange = (labels != -100) & (labels != ids)
        if strange.any():
            refuse(
                "labels must be the token of input_ids at the same place (the loss shifts or noises them), or -100 for tokens "
                "that are not learned",
                labels,
                strange,
            )


def refuse(rule: str, tokens: Tensor, strange: Selection) -> None:
    """Raise `ValueError` that states the rule and the first token that breaks it."""
    row, place = strange.nonzero()[0].tolist()
    raise ValueError(f"{rule}; got {int(tokens[row, place])} at position {place} of row {row} of a batch")


def known_tokens(model: nn.Module) -> int | None:
    """The number of tokens that the model can embed, or `None` if its configuration does not specify it."""
    size = getattr(getattr(with_config(model), "config", None), "vocab_size", None)
    return size if isinstance(size, int) else None


def with_config(model: nn.Module) -> nn.Module:
    """The network inside wrappers and a denoiser, which has the configuration."""
    found = innermost(model)
    if not hasattr(found, "config") and isinstance(getattr(found, "model", None), nn.Module):
        found = innermost(found.model)  # inside a denoiser
    return found
