"""Calls of the compiled sums: rows of logits on a CPU in float32, with noise whose parts are rows."""

import ctypes

import torch
from torch import Tensor

from ..tokens import NoiseOnData
from .building import library

STATES = 4096
"""The smallest vocabulary for which the compiled sums are used: with fewer tokens, a call costs more than the sums."""


def serves(logits: Tensor, noise: NoiseOnData | None) -> bool:
    """Whether the compiled sums can be used; what decides is the same for each row of a batch."""
    return (
        type(logits) in (Tensor, torch.nn.Parameter)  # of no subclass, which may have no memory of its own
        and logits.device.type == "cpu"
        and logits.dtype == torch.float32
        and logits.shape[-1] >= STATES
        and (noise is None or all(isinstance(part, Tensor) for part in noise.parts))
        and library() is not None
    )


class NativeRows:
    """The sums over the vocabulary of some rows, and what their gradient needs.

    **Arguments:**

    - `logits`: [n, state], of which the vocabulary is contiguous.
    - `a`: the signal of each row, positive, float64.
    - `noise`: prepared for float32; `None` if there is none.
    - `off`: the tokens outside the support, in increasing order.
    """

    def __init__(self, logits: Tensor, a: Tensor, noise: NoiseOnData | None, off: Tensor | None):
        self.a, self.off = a.contiguous(), None if off is None else off.contiguous()
        self.level = None if noise is None or noise.level is None else noise.level.contiguous()
        parts = () if noise is None else noise.parts
        self.parts = [part.contiguous() for part in parts if isinstance(part, Tensor)]
        self.weights = None if noise is None else noise.weights.contiguous()
        self.top, self.total, self.kl, self.spread = torch.empty(4, len(logits), dtype=torch.float64)
        out = map(_pointer, (self.top, self.total, self.kl, self.spread))
        _call("noiselab_sums", *self._given(_rows(logits)), *out)

    @property
    def lse(self) -> Tensor:
        """The logsumexp over the data."""
        return self.top + self.total.log()

    def write_gradient(self, logits: Tensor, signal: Tensor, noise: Tensor, out: Tensor) -> None:
        """Write signal u - noise b h to `out`, which may be the logits; both factors are float64, one for each row."""
        signal, noise = signal.contiguous(), noise.contiguous()
        given = map(_pointer, (self.top, self.total, signal, noise, out))
        _call("noiselab_gradient", *self._given(_rows(logits)), *given, ctypes.c_int64(out.stride(0)))

    def _given(self, logits: Tensor) -> list:
        n, states = logits.shape
        sizes = map(ctypes.c_int64, (n, logits.stride(0), states))
        rows = (ctypes.c_void_p * max(1, len(self.parts)))(*(part.data_ptr() for part in self.parts))
        offs = ctypes.c_int64(0 if self.off is None else len(self.off))
        noise = map(_pointer, (self.a, self.level, self.weights))
        return [_pointer(logits), *sizes, _pointer(self.off), offs, *noise, rows, ctypes.c_int64(len(self.parts))]


def _rows(logits: Tensor) -> Tensor:
    return logits if logits.stride(-1) == 1 else logits.contiguous()


def _pointer(tensor: Tensor | None) -> ctypes.c_void_p:
    return ctypes.c_void_p(None if tensor is None else tensor.data_ptr())


def _call(name: str, *given: object) -> None:
    found = library()
    assert found is not None
    getattr(found, name)(*given, ctypes.c_int64(torch.get_num_threads()))
