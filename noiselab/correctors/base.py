"""What revises tokens without moving in time."""

import abc
from typing import Any, ClassVar

import torch
from jaxtyping import Bool
from torch import Tensor

from ..categorical import Randomness
from ..denoisers import Denoiser, as_leave_one_out
from ..denoisers.base import describe
from ..process import NoiseProcess
from ..process.validation import require_kind
from ..typing import Selection, Times, Tokens, Variants

TAKE_ANY_PROCESS = ("GibbsCorrector", "ForwardBackwardCorrector", "SelfCorrection")  # for a message


class Corrector(abc.ABC):
    """Draws tokens anew at their own time: one that is exact leaves the law of noisy sequences at t as it is.

    A subclass writes `step`, and `extra_repr` for its settings. `PredictorCorrector` puts it between the steps of any
    sampler.

    **Arguments:**

    - `process`: the noise; checked once (`validate`).
    - `denoiser`: of any parametrisation; `self.denoiser` predicts leave-one-out.

    **Raises:** `ValueError` if the process is no Markov process or of another kind than the corrector needs, or the
    denoiser does not say what it predicts.
    """

    process: NoiseProcess

    kind = "correct"
    """What a trace calls the changes of this corrector."""
    converges = False
    """Whether it claims to leave the law at its time unchanged, given the exact denoiser."""
    takes: ClassVar[type[NoiseProcess]] = NoiseProcess
    """The kind of process that it needs; others are refused, in words."""
    variants: ClassVar[Variants] = {}
    """Names -> keyword arguments, for the bench, the tests and the tables; by default one, with the defaults."""
    law = ""
    """Whether it leaves the law of noisy sequences unchanged, in a few words, for the table; by default by `converges`."""

    def __init__(self, process: NoiseProcess, denoiser: Denoiser):
        require_kind(process, self.takes, type(self).__name__, TAKE_ANY_PROCESS)
        process.validate(16)
        self.process = process
        self.denoiser = as_leave_one_out(denoiser, process)

    @classmethod
    def for_process(cls, process: NoiseProcess, denoiser: Denoiser, **settings: Any) -> "Corrector":
        """The corrector of a process and a denoiser, whatever the order of its own arguments."""
        return cls(process, denoiser, **settings)

    @abc.abstractmethod
    def step(self, z: Tokens, t: Times, *, rows: Selection | None = None, generator: Randomness = None) -> Tokens:
        """Tokens at the same times t.

        **Arguments:**

        - `z`: tokens at t.
        - `t`: their times, [batch] or [batch, length].
        - `rows`: the tokens that may change; all by default.
        """

    def __repr__(self) -> str:
        return describe(self, self.process, self.denoiser, self.extra_repr())

    def extra_repr(self) -> str:
        """What it is set to."""
        return ""


def as_selection(rows: Bool[Tensor, "..."] | None, z: Tokens) -> Selection:
    """The tokens that may change, as a tensor, also where `rows` is `None`.

    **Raises:** `ValueError` unless `rows` is Bool of the shape of z.
    """
    if rows is None:
        return torch.ones_like(z, dtype=torch.bool)
    if rows.dtype != torch.bool or rows.shape != z.shape:
        raise ValueError(f"rows must be Bool of shape {list(z.shape)}; got {rows.dtype} {list(rows.shape)}")
    return rows.to(z.device)
