"""Modules whose numbers must not be rounded when a model around them is moved to another precision."""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn


class Exact(nn.Module):
    """A module whose own float64 buffers follow it to another device, but not to another dtype.

    The probabilities of 50,000 tokens do not survive bfloat16, and a network that holds its process is often moved
    there as a whole.
    """

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> Any:
        exact = {name: b for name, b in self._buffers.items() if b is not None and b.dtype == torch.float64}
        result = super()._apply(fn, recurse)
        for name, before in exact.items():
            after = self._buffers[name]
            if after is not None and after.dtype != torch.float64:
                self._buffers[name] = before.to(after.device)
        return result
