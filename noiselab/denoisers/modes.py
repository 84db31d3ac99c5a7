"""What evaluations of a module need: evaluation mode, the device, and a count of the sequences it read."""

import contextlib
from collections.abc import Iterator
from typing import Any

import torch
from torch import nn

from ..distributed import reshard


@contextlib.contextmanager
def evaluating(module: nn.Module) -> Iterator[None]:
    """Evaluation mode within the block, the previous mode of each of its parts after it, without gathered weights."""
    before = [(part, part.training) for part in module.modules()]
    module.eval()
    try:
        yield
    finally:
        # One by one: a wrapper may be in training mode around a network that is not.
        for part, training in before:
            part.training = training
        reshard(module)


def device_of(*modules: nn.Module) -> torch.device:
    """Where the modules live, read off the first tensor they have."""
    for module in modules:
        for tensor in (*module.parameters(), *module.buffers()):
            return tensor.device
    return torch.device("cpu")


class SequenceCount:
    """How many sequences some modules have read, each call counted by its batch size."""

    def __init__(self) -> None:
        self.sequences, self._inside = 0, 0

    def enter(self, module: nn.Module, arguments: tuple[Any, ...]) -> None:
        """Count the sequences of a call, unless one of the modules made it; a forward pre-hook of `torch.nn.Module`."""
        self.sequences += 0 if self._inside else len(arguments[0])
        self._inside += 1

    def leave(self, module: nn.Module, arguments: tuple[Any, ...], output: Any) -> None:
        """The end of a call; a forward hook."""
        self._inside -= 1


@contextlib.contextmanager
def counting_sequences(*modules: nn.Module) -> Iterator[SequenceCount]:
    """Count the sequences that modules read within the block; those of a module given twice, or inside another, once."""
    count, hooks = SequenceCount(), []
    for module in {id(m): m for m in modules}.values():
        hooks.append(module.register_forward_pre_hook(count.enter))
        hooks.append(module.register_forward_hook(count.leave, always_call=True))
    try:
        yield count
    finally:
        for hook in hooks:
            hook.remove()
