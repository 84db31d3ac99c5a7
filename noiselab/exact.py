"""Modules that keep float64 when the model around them is moved to another precision."""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn


class Exact(nn.Module):
    """A module whose own float64 buffers and parameters move to another device, but never to another dtype.

    bfloat16 cannot represent the probabilities of 50,000 tokens, and a network that holds its process is often cast to
    it as a whole.
    """

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> Any:
        buffers = {name: b for name, b in self._buffers.items() if b is not None and b.dtype == torch.float64}
        # `.data`, because parameters are changed in place.
        parameters = {
            name: (p.data, None if p.grad is None else p.grad.data)
            for name, p in self._parameters.items()
            if p is not None and p.dtype == torch.float64
        }
        result = super()._apply(fn, recurse)
        for name, before in buffers.items():
            after = self._buffers[name]
            if after is not None and after.dtype != torch.float64:
                self._buffers[name] = before.to(after.device)
        for name, (exact, grad) in parameters.items():
            parameter = self._parameters[name]
            if parameter is not None and parameter.dtype != torch.float64:
                # Keep the parameter object: an optimizer may hold it.
                parameter.grad = None
                parameter.data = exact.to(parameter.device)
                parameter.grad = None if grad is None else grad.to(parameter.device)
        return result
