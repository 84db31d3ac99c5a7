"""What evaluations of a module need: evaluation mode, the device, and a count of the sequences it read."""

import contextlib
from collections.abc import Iterator
from typing import Any

import torch
from torch import nn


@contextlib.contextmanager
def evaluating(module: nn.Module) -> Iterator[None]:
    """Evaluation mode within the block, the previous mode after it."""
    training = module.training
    module.eval()
    try:
        yield
    finally:
        module.train(training)


def device_of(*modules: nn.Module) -> torch.device:
    """Where the modules live, read off the first tensor they have."""
    for module in modules:
        for tensor in (*module.parameters(), *module.buffers()):
            return tensor.device
    return torch.device("cpu")


class SequenceCount:
    """How many sequences some modules have read, each call counted by its batch size."""

    def __init__(self) -> None:
        self.sequences = 0

    def add(self, module: nn.Module, arguments: tuple[Any, ...]) -> None:
        """Count the sequences of one call; a forward pre-hook of `torch.nn.Module`."""
        self.sequences += len(arguments[0])


@contextlib.contextmanager
def counting_sequences(*modules: nn.Module) -> Iterator[SequenceCount]:
    """Count the sequences that modules read within the block; one that is given twice counts once."""
    count = SequenceCount()
    hooks = [module.register_forward_pre_hook(count.add) for module in {id(m): m for m in modules}.values()]
    try:
        yield count
    finally:
        for hook in hooks:
            hook.remove()
