"""The interface of correctors, which resample tokens without changing their time."""

import abc
import functools
from collections.abc import Callable
from typing import Any, ClassVar

import torch
from jaxtyping import Bool
from torch import Tensor

from ..categorical import Randomness
from ..denoisers import Denoiser, as_leave_one_out
from ..denoisers.base import describe
from ..denoisers.checked import checked
from ..numerics import as_token_times, no_attribute, require_tokens
from ..process import NoiseProcess
from ..process.validation import require_kind
from ..samplers.shapes import TwoForms
from ..typing import Selection, Times, Tokens, Variants

TAKE_ANY_PROCESS = (
    "GibbsCorrector",
    "BalancedCorrector",
    "ForwardBackwardCorrector",
    "SelfCorrection",
)  # for a message


class Corrector(TwoForms, abc.ABC):
    """Resamples tokens at their current time; an exact one leaves their distribution at t invariant.

    A subclass implements `step`, and `extra_repr` for its settings. `PredictorCorrector` applies it between the steps
    of any sampler.

    **Arguments:**

    - `process`: the noise process; validated once (`validate`).
    - `denoiser`: a denoiser of any prediction type; `self.denoiser` predicts leave-one-out, and its logits are checked.

    **Raises:** `ValueError` if the process is not Markov or of a kind that the corrector does not support, or the
    denoiser does not declare its prediction type; in a step, if logits do not have the width of the process, or those of a
    token are NaN, inf, or all -inf.
    """

    process: NoiseProcess
    denoiser: Denoiser

    kind = "correct"
    """The kind of change in traces."""
    converges = False
    """Whether it leaves the distribution invariant, given the exact denoiser; the tests verify this claim."""
    takes: ClassVar[type] = NoiseProcess
    """The kind of process that it supports; others raise an error."""
    variants: ClassVar[Variants] = {}
    """Names -> keyword arguments for the bench, tests and tables; by default one variant with default arguments."""
    law = ""
    """Its effect on the distribution of noisy sequences in a few words, for tables; by default given by `converges`."""
    known_as = ""
    """The names of the method in the literature, for tables; its papers come from the docstring."""
    changes = "any of the selected tokens"
    """What one call changes in a few words, for tables."""

    def __init_subclass__(cls, **kwargs: Any):
        super().__init_subclass__(**kwargs)
        if "step" in vars(cls):
            cls.step = _entered(cls.step)  # type: ignore[method-assign]

    def __init__(self, process: NoiseProcess, denoiser: Denoiser):
        require_kind(process, self.takes, type(self).__name__, TAKE_ANY_PROCESS)
        process.validate(16)
        self.process = process
        self.denoiser = checked(as_leave_one_out(denoiser, process), process)

    @classmethod
    def for_process(cls, process: NoiseProcess, denoiser: Denoiser, **settings: Any) -> "Corrector":
        """Build the corrector from a process and a denoiser, independently of the signature of `__init__`."""
        return cls(process, denoiser, **settings)

    @abc.abstractmethod
    def step(self, z: Tokens, t: Times, *, rows: Selection | None = None, generator: Randomness = None) -> Tokens:
        """Tokens at the same times t.

        **Arguments:**

        - `z`: tokens at t.
        - `t`: their times, [batch] or [batch, length].
        - `rows`: the mask of tokens that may change; by default all.

        **Raises:** `ValueError` for times outside the domain or NaN, tokens outside the vocabulary, or shapes that do not
        match, for every corrector; values are checked on the CPU. A subclass need not check them.
        """

    def enter(self, z: Tokens, t: Times) -> None:
        """Check what a step is given; of a corrector without a process, only what needs none."""
        process = vars(self).get("process")
        if process is None:
            require_tokens("tokens", z)
            as_token_times(t, z)
        else:
            process.token_times(t, z)

    def __getattr__(self, name: str) -> Any:
        raise no_attribute(self, name, ("process", "denoiser"))

    def __repr__(self) -> str:
        return describe(self, self.process, self.denoiser, self.extra_repr())

    def extra_repr(self) -> str:
        """The settings, for `repr`."""
        return ""


def _entered(step: Callable[..., Tokens]) -> Callable[..., Tokens]:
    """The step of a corrector, after a check of its tokens, times and selection."""

    @functools.wraps(step)
    def checked_step(self: Corrector, z: Tokens, t: Times, *, rows: Selection | None = None, **options: Any) -> Tokens:
        self.enter(z, t)
        return step(self, z, t, rows=None if rows is None else as_selection(rows, z), **options)

    return checked_step


def as_selection(rows: Bool[Tensor, "..."] | None, z: Tokens) -> Selection:
    """The mask of tokens that may change as a tensor, even if `rows` is `None`.

    **Raises:** `ValueError` unless `rows` is Bool of the shape of z.
    """
    if rows is None:
        return torch.ones_like(z, dtype=torch.bool)
    if rows.dtype != torch.bool or rows.shape != z.shape:
        raise ValueError(f"rows must be Bool of shape {list(z.shape)}; got {rows.dtype} {list(rows.shape)}")
    return rows.to(z.device)
