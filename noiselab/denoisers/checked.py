"""The check of the logits that tokens are drawn from: their width, and whether they are numbers.

Samplers and correctors put `Checked` around their denoiser. On the CPU a check raises its error at once. On an accelerator
that would stall the device in every step; there the checks of a walk remain on the device until the walk ends (`LogitChecks`).
"""

import math
import threading
from collections.abc import Sequence
from types import TracebackType
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn.functional import pad

from ..categorical import padded_width
from ..numerics import mask_off_support
from ..process import NoiseProcess
from ..typing import Selection, Times, Tokens, TokenSet
from .base import Denoiser, WrappedDenoiser, in_a_line

MAX_SPANS = 8  # of a support whose largest logit is found span by span, without a copy of the logits


class _Current(threading.local):
    """The walk whose step is being computed in this thread, if there is one."""

    walk: "LogitChecks | None" = None


_CURRENT = _Current()


class LogitChecks:
    """The checks of one walk: those made within the context on an accelerator, which `read` reads at once.

    Within the context of another walk, checks belong to the outer one.
    """

    def __init__(self) -> None:
        self._found: list[tuple[Tensor, Tensor | None, nn.Module]] = []
        self._before: list[LogitChecks | None] = []

    def __enter__(self) -> "LogitChecks":
        self._before.append(_CURRENT.walk)
        _CURRENT.walk = _CURRENT.walk or self
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        _CURRENT.walk = self._before.pop()

    def add(self, tops: Float[Tensor, "..."], t: Times | None, denoiser: nn.Module) -> None:
        """Keep the largest logits of one check, without reading them."""
        self._found.append((tops, t, denoiser))

    def read(self) -> None:
        """Raise `ValueError` if a check of the walk failed."""
        found, self._found = self._found, []
        alike: dict[object, list[tuple[Tensor, Tensor | None, nn.Module]]] = {}
        for one in found:
            alike.setdefault((one[0].shape, one[0].dtype, one[0].device), []).append(one)
        for some in alike.values():
            ends = torch.stack(torch.aminmax(torch.stack([tops for tops, _, _ in some]).flatten(1), dim=1), -1)
            for numbers, (_, t, denoiser) in zip(ends.tolist(), some, strict=True):
                _refuse(numbers, t, denoiser)


def walking() -> bool:
    """Whether a walk is under way, whose times and tokens were checked at its start."""
    return _CURRENT.walk is not None


def _refuse(ends: Sequence[float], t: Tensor | None, denoiser: nn.Module) -> None:
    """Raise `ValueError` unless the smallest and the largest of the rows' largest logits are finite."""
    least, most = ends
    if math.isfinite(least) and math.isfinite(most):
        return
    first, last = (math.nan, math.nan) if t is None else (end.item() for end in torch.aminmax(t.detach()))
    came = "NaN" if math.isnan(most) else "inf" if most == math.inf else "-inf at all of these tokens"
    time = (
        "" if math.isnan(first) else f" at t = {first:g}" if first == last else f" at times from {first:g} to {last:g}"
    )
    raise ValueError(
        f"logits must be finite, or -inf at some of the tokens that data may contain; got {came} from {in_a_line(denoiser)}"
        f"{time} (are all weights finite? float16 overflows above 65504)"
    )


class LogitCheck:
    """What logits must be: of the width of the vocabulary, and numbers at tokens of the support.

    **Arguments:**

    - `states`: the number of tokens; by default any.
    - `support`: the tokens that may be drawn, whose logits are checked; by default all.
    """

    def __init__(self, states: int | None = None, support: TokenSet | None = None) -> None:
        self.states, self.support = states, support
        self.spans = None if support is None else _spans(support)

    def __call__(
        self, logits: Float[Tensor, "... width"], t: Times | None, denoiser: nn.Module, rows: Selection | None = None
    ) -> Float[Tensor, "... width"]:
        """The logits, checked; -inf at some tokens is valid.

        **Arguments:**

        - `t`: the times of the tokens, for the message; none by `None`.
        - `denoiser`: what predicted the logits.
        - `rows`: the mask of the tokens whose logits these are.

        **Raises:** `ValueError` for logits of another width, dtype or number, or a row that has NaN, inf, or -inf only; on an
        accelerator, within `LogitChecks`, the latter is raised by `LogitChecks.read`.
        """
        self.require_form(logits, denoiser)
        if not logits.numel() or torch.compiler.is_compiling():
            return logits
        here = logits.device.type == "cpu"
        if here and rows is not None and len(logits) != (count := int(rows.sum())):
            raise ValueError(
                f"there must be a row of logits for each of {count} tokens; got {len(logits)} from {in_a_line(denoiser)}"
            )
        # The largest of a row is NaN if one is, inf if one is, and -inf if all are.
        self.keep(torch.stack(torch.aminmax(self._largest(logits.detach()))), t, denoiser)
        return logits

    def require_form(self, logits: Float[Tensor, "... width"], denoiser: nn.Module) -> None:
        """Raise `ValueError` unless logits have the width of the vocabulary and a floating dtype."""
        if self.states is not None and logits.shape[-1] != self.states:
            raise ValueError(
                f"logits must have the width of the process, {self.states}; got {logits.shape[-1]} from "
                f"{in_a_line(denoiser)}"
            )
        if not logits.is_floating_point():
            raise ValueError(f"logits must be floating-point numbers; got {logits.dtype} from {in_a_line(denoiser)}")

    def keep(self, tops: Float[Tensor, "..."], t: Times | None, denoiser: nn.Module) -> None:
        """Check the largest logits of rows.

        **Raises:** `ValueError` unless they are finite; on an accelerator, within `LogitChecks`, by `LogitChecks.read`.
        """
        if not tops.numel():
            return
        if tops.device.type == "cpu" or _CURRENT.walk is None:
            _refuse(torch.stack(torch.aminmax(tops)).tolist(), t, denoiser)
        else:
            _CURRENT.walk.add(tops, t, denoiser)

    def cover(self, logits: Float[Tensor, "... state"]) -> Float[Tensor, "... width"]:
        """A copy of at least float32, with -inf off the support, as wide as `choose` takes it with the fewest operations."""
        states, logits = logits.shape[-1], logits.to(torch.promote_types(logits.dtype, torch.float32))
        more = padded_width(states) - states
        if self.spans is not None and len(self.spans) == 1:
            start, stop = self.spans[0]
            return pad(logits[..., start:stop], (start, states + more - stop), value=-torch.inf)
        return pad(mask_off_support(logits, self.support), (0, more), value=-torch.inf)

    def narrow(self, logits: Float[Tensor, "rows state"]) -> Float[Tensor, "rows width"]:
        """Logits of at least float32 that are -inf off the support or end before it: a view where that is possible."""
        logits = logits.to(torch.promote_types(logits.dtype, torch.float32))
        if self.spans is not None and len(self.spans) == 1 and self.spans[0][0] == 0:
            return logits[..., : self.spans[0][1]]
        return mask_off_support(logits, self.support)

    def _largest(self, logits: Tensor) -> Tensor:
        if self.support is None or self.spans is None:
            return logits.amax(-1)
        if len(self.spans) > MAX_SPANS:
            return mask_off_support(logits, self.support).amax(-1)
        tops = [logits[..., start:stop].amax(-1) for start, stop in self.spans]
        # `maximum`, as `amax`, is NaN if one is.
        return tops[0] if len(tops) == 1 else torch.stack(tops).amax(0)


def _spans(support: TokenSet) -> list[tuple[int, int]]:
    """The first and one past the last token of each run of the support, which is read once."""
    change = torch.nn.functional.pad(support.long().cpu(), (1, 1)).diff().nonzero()[:, 0].tolist()
    return list(zip(change[::2], change[1::2], strict=True))


def check_of(process: NoiseProcess) -> LogitCheck:
    """The check of logits for a process."""
    return LogitCheck(process.vocab_size, None if process.support is None else process.host_support())


class Checked(WrappedDenoiser):
    """The denoiser of a sampler or corrector, whose logits are checked (`LogitCheck`); it prints as the inner denoiser.

    **Arguments:**

    - `inner`: the denoiser, which predicts leave-one-out.
    - `process`: the noise process, whose vocabulary and support the logits must have.
    """

    def __init__(self, inner: Denoiser, process: NoiseProcess):
        super().__init__(inner)
        self.check = check_of(process)

    def forward(self, z: Tokens, t: Times, rows: Selection | None = None) -> Float[Tensor, "... state"]:
        """The inner denoiser's logits."""
        return self.check(self.inner(z, t, rows), t, self.inner, rows)

    def everywhere(self, z: Tokens, t: Times) -> Float[Tensor, "batch length width"]:
        """The logits of all positions, as `LogitCheck.cover` makes them; that they are numbers is for the caller to check
        (`LogitCheck.keep`), where it needs them.
        """
        logits = self.inner(z, t)
        self.check.require_form(logits, self.inner)
        return self.check.cover(logits)

    def __getattr__(self, name: str) -> Any:
        """Other attributes are those of the inner denoiser, such as the `log_prob` of a `MarkovOracle`."""
        try:
            return super().__getattr__(name)
        except AttributeError:
            if name.startswith("__") or name == "inner":
                raise
            return getattr(self.inner, name)

    def __repr__(self) -> str:
        return in_a_line(self.inner)


def checked(denoiser: Denoiser, process: NoiseProcess) -> Checked:
    """The denoiser with its logits checked for the process; one that is, stays as it is."""
    if isinstance(denoiser, Checked) and denoiser.check.states == process.vocab_size:
        return denoiser
    return Checked(denoiser, process)
