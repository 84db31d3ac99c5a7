"""The check of the logits that samplers and correctors draw from: the width of the process, and finite numbers."""

import contextlib
import threading
from collections.abc import Iterator

from jaxtyping import Bool, Float
from torch import Tensor

from ..numerics import mask_off_support
from ..process import NoiseProcess
from ..typing import Selection, Times, Tokens, TokenSet
from .base import Denoiser, WrappedDenoiser, in_a_line


class _Walks(threading.local):
    """The walk whose step is being computed in this thread, if there is one."""

    current: "LogitChecks | None" = None


_WALKS = _Walks()


class LogitChecks:
    """The checks of one walk. On an accelerator they add up to a flag on the device, which `read` reads once.

    On the CPU, and outside of `deferred`, a check raises its error at once.
    """

    def __init__(self) -> None:
        self._bad: Tensor | None = None
        self._name = ""

    @contextlib.contextmanager
    def deferred(self) -> Iterator[None]:
        """Within the block, checks on an accelerator belong to this walk."""
        before, _WALKS.current = _WALKS.current, self if _WALKS.current is None else _WALKS.current
        try:
            yield
        finally:
            _WALKS.current = before

    def add(self, bad: Bool[Tensor, ""], name: str) -> None:
        """Remember the result of one check, without waiting for it."""
        self._bad, self._name = bad if self._bad is None else self._bad | bad, name

    def read(self) -> None:
        """Raise `ValueError` if a check of the walk failed."""
        bad, self._bad = self._bad, None
        if bad is not None and bool(bad):
            raise ValueError(_message("NaN, inf, or -inf at every token", self._name))


def _message(came: str, name: str) -> str:
    return (
        f"logits must be finite numbers, or -inf for some of the tokens that data may contain; got {came} from {name} (are all "
        "weights finite? float16 overflows above 65504, bfloat16 does not)"
    )


def require_logits(logits: Float[Tensor, "... width"], support: TokenSet | None, states: int | None, name: str) -> None:
    """Check the logits that tokens are drawn from.

    **Arguments:**

    - `support`: the tokens that may be drawn, Bool [state]; logits of others are not checked.
    - `states`: the number of tokens; `None` if it is not known.
    - `name`: what returned them, for the message.

    **Raises:** `ValueError` for another width, or if a row has NaN, inf, or -inf only. Within `LogitChecks.deferred` on an
    accelerator the latter is raised by `LogitChecks.read`.
    """
    if states is not None and logits.shape[-1] != states:
        raise ValueError(f"logits must have the width of the process, {states}; got {logits.shape[-1]} from {name}")
    # The largest of a row is NaN if one is, inf if one is, and -inf if all are.
    top = mask_off_support(logits.detach(), support).amax(-1)
    bad = ~top.isfinite().all()
    if logits.device.type != "cpu" and (walk := _WALKS.current) is not None:
        walk.add(bad, name)
    elif bool(bad):
        came = "NaN" if top.isnan().any() else "inf" if top.isposinf().any() else "-inf at every token"
        raise ValueError(_message(came, name))


class Checked(WrappedDenoiser):
    """The denoiser of a sampler or corrector, whose logits are checked by `require_logits`; it prints as the inner one."""

    def __init__(self, inner: Denoiser, process: NoiseProcess):
        super().__init__(inner)
        self.process, self.training = process, inner.training

    def forward(self, z: Tokens, t: Times, rows: Selection | None = None) -> Float[Tensor, "... state"]:
        """The inner denoiser's logits."""
        logits = self.inner(z, t, rows)
        require_logits(logits, self.process.support, self.process.vocab_size, type(self.inner).__name__)
        return logits

    def __repr__(self) -> str:
        return in_a_line(self.inner)


def checked(denoiser: Denoiser, process: NoiseProcess) -> Denoiser:
    """The denoiser with its logits checked; one that is checked already stays as it is."""
    return denoiser if isinstance(denoiser, Checked) and denoiser.process is process else Checked(denoiser, process)
