"""The rule by which a pipeline corrects texts: by its name, or an object of the user."""

from collections.abc import Iterator
from typing import TYPE_CHECKING, Any, Protocol, TypeAlias, runtime_checkable

import torch
from torch import nn

from ..categorical import Randomness
from ..correctors import BalancedCorrector, Corrector, SelfCorrection
from ..denoisers import EarliestTime, Temperature, as_leave_one_out
from ..revisions import Reviser
from ..typing import Selection, Tokens

if TYPE_CHECKING:
    from .diffusion import DiffusionPipeline

STEPS = 128  # by default
RULES = ("gidd", "balanced")
"""The rules that have a name."""
GIDD = {"temperature": 0.1, "early_stopping": True, "early_stopping_patience": 32, "tokens_per_step": 1}
"""The settings that belong to GIDD's rule, and their defaults."""
BALANCED_TEMPERATURE = 0.7  # of the prediction: networks are less sharp than their data (docs/studies/how_much.md)


@runtime_checkable
class Correcting(Protocol):
    """What corrects finished sequences, such as `noiselab.correctors.BalancedCorrector`."""

    def correct(
        self, z: Tokens, *, steps: int = 128, rows: Selection | None = None, generator: Randomness = None
    ) -> Tokens:
        """The sequences after at most `steps` network evaluations; tokens outside `rows` stay."""
        ...


CorrectionMethod: TypeAlias = str | Correcting | Reviser
"""The name of a rule, "gidd" or "balanced", or an object that corrects."""


class _Revising:
    """A reviser as a rule: it has its own number of steps."""

    def __init__(self, reviser: Reviser):
        self.reviser = reviser

    def correct(
        self, z: Tokens, *, steps: int = STEPS, rows: Selection | None = None, generator: Randomness = None
    ) -> Tokens:
        """The sequences after the revision, which is checked."""
        if steps != STEPS:
            raise ValueError(
                f"num_inference_steps must be left at {STEPS} for a Reviser, which has its own number of steps, as in "
                f"CorrectorReviser(corrector, steps=8); got {steps}"
            )
        return self.reviser(z, rows=rows, generator=generator).tokens


def chosen_rule(pipe: "DiffusionPipeline", method: CorrectionMethod, *, t0: float | int, **settings: Any) -> Correcting:
    """The rule of a call of `self_correction`.

    **Arguments:**

    - `method`: as for `DiffusionPipeline.self_correction`.
    - `t0`: the earliest time at which the network is evaluated.
    - `settings`: those of GIDD's rule; `as_released`, whether padding is text.

    **Raises:** `ValueError` for a name that is none, an object that does not correct, or settings of GIDD's rule for
    another one.
    """
    if method == "gidd" and isinstance(method, str):
        return SelfCorrection(
            pipe.denoiser,
            time=t0,
            temperature=settings["temperature"],
            tokens_per_step=settings["tokens_per_step"],
            patience=settings["early_stopping_patience"],
            process=pipe.process,
            support=pipe.support,
        )
    if isinstance(method, Reviser):
        method = _Revising(method)
    if not (isinstance(method, str) and method in RULES) and (
        isinstance(method, str | type) or not isinstance(method, Correcting)
    ):
        raise ValueError(_no_method(method))
    defaults = GIDD | {"as_released": False} | ({} if isinstance(method, str) else {"t0": 0.01})
    given = settings | {"t0": t0}
    if wrong := [f"{name}={given[name]!r}" for name, value in defaults.items() if given[name] != value]:
        raise ValueError(
            f"{', '.join(defaults)} must be left at their defaults unless method is 'gidd'; got {', '.join(wrong)} "
            "(for other settings, pass an object such as noiselab.correctors.BalancedCorrector)"
        )
    if not isinstance(method, str):
        return method
    sharper = Temperature(as_leave_one_out(pipe.denoiser, pipe.process), BALANCED_TEMPERATURE)
    return BalancedCorrector(pipe.process, EarliestTime(sharper, t0))


def _no_method(method: Any) -> str:
    """What is said of an object that is no method."""
    hint = ""
    if isinstance(method, Corrector):
        hint = "; a corrector that does not stop by itself becomes a Reviser by CorrectorReviser(corrector, time=0.01, steps=8)"
    return (
        f"method must be one of {', '.join(map(repr, RULES))}, an object with a method `correct` (SelfCorrection, "
        f"BalancedCorrector), or a Reviser of noiselab.correctors; got {method!r}{hint}"
    )


def states_of(
    rule: Correcting, z: Tokens, *, steps: int, stop: bool, rows: Selection | None, generator: Randomness
) -> Iterator[Tokens]:
    """The states of sequences after each step of a rule, or once after all steps if it does not show them.

    **Arguments:** as for `SelfCorrection.walk`.

    **Raises:** `ValueError` for a rule that returns tokens of another shape, or changes tokens outside `rows`.
    """
    if isinstance(rule, SelfCorrection):
        yield from rule.walk(z, steps=steps, rows=rows, generator=generator, stop=stop)
        return
    if isinstance(rule, BalancedCorrector):
        yield from rule.walk(z, steps=steps, rows=rows, generator=generator)
        return
    found, name = rule.correct(z, steps=steps, rows=rows, generator=generator), type(rule).__name__
    if not isinstance(found, torch.Tensor) or found.shape != z.shape:
        came = list(found.shape) if isinstance(found, torch.Tensor) else type(found).__name__
        raise ValueError(f"{name}.correct must return tokens of shape {list(z.shape)}; got {came}")
    if rows is not None and (changed := int((~rows & (found != z)).sum())):
        raise ValueError(f"{name}.correct must change tokens in rows only; got {changed} changes outside")
    yield found


def network_of(rule: Correcting) -> nn.Module | None:
    """The denoiser of a rule, which an attention mask must reach; `None` if it has none."""
    denoiser = getattr(rule, "denoiser", None)
    return denoiser if isinstance(denoiser, nn.Module) else None
