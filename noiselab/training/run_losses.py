"""The losses of a run, chosen from the arguments of the trainer: of a noise process, or of the user."""

import copy
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from ..denoisers.base import Denoiser
from ..networks.wrapped import innermost
from ..objectives import Objective, elbo
from .checks import check_noise
from .curriculum import Stage, staged_loss
from .identity import fingerprint, in_words
from .losses import (
    Batch,
    Loss,
    call_denoiser,
    call_network,
    causal_loss,
    noised_loss,
    noised_tokens,
    predicted_tokens,
    real_tokens,
)
from .noise import TimesOfStep
from .scoring import in_blocks


@dataclass(frozen=True)
class RunLosses:
    """How a run is trained and evaluated.

    **Arguments:**

    - `training`, `evaluation`: the losses.
    - `count`: the mask of tokens that they score.
    - `settings`: the settings of the noise, which a resumed run must share.
    """

    training: Loss
    evaluation: Loss
    count: Callable[[Batch], Tensor]
    settings: dict[str, Any]


def losses_of_user(loss: Loss, count: Callable[[Batch], Tensor] | None, autocast: torch.dtype | None) -> RunLosses:
    """The losses of a run that is trained without a process: one for training and evaluation."""
    own: Any = loss
    same = own if autocast is None else partial(own, autocast=autocast)
    return RunLosses(same, same, count or (predicted_tokens if loss is causal_loss else real_tokens), {})


def losses_of_noise(
    model: nn.Module,
    stages: Sequence[Stage],
    *,
    objective: Objective,
    time_range: tuple[float, float],
    times: TimesOfStep | None,
    blocks: int | None = None,
    count: Callable[[Batch], Tensor] | None,
    autocast: torch.dtype | None,
    device: torch.device,
) -> RunLosses:
    """The losses of clean rows that are noised; in evaluation, the bound of the last noise.

    **Arguments:**

    - `model`: the network, where it is now.
    - `stages`: the noises of the run in order. They are copied.
    - `objective`, `time_range`, `times`, `blocks`, `count`: as for `Trainer`.
    - `autocast`: the dtype of the network's arithmetic.
    - `device`: where the network will be.

    **Raises:** `ValueError` if a noise does not fit the network (see `check_noise`), or it cannot be trained in blocks.
    """
    for stage in stages:
        check_noise(stage.process, time_range, model)
    stages = [Stage(copy.deepcopy(stage.process).to(device), stage.steps) for stage in stages]
    noises = [{"process": in_words(noise), "process_tensors": fingerprint(noise.state_dict())} for noise, _ in stages]
    inner, last = innermost(model), stages[-1].process
    call = call_denoiser if isinstance(inner, Denoiser) else call_network
    own: dict[str, Any] = {"time_range": time_range, "autocast": autocast, "call": call}
    if isinstance(inner, Denoiser):
        own["predicts"] = inner.predicts
    if blocks is not None:
        in_blocks(model, blocks, last, "leave_one_out")  # fail early if the network cannot be trained in blocks
        own["blocks"] = blocks
    plain: Any = partial(noised_loss, process=last, **own)
    staged: Any = partial(staged_loss, stages=stages, **own) if len(stages) > 1 else plain
    earlier = [{**noise, "steps": steps} for noise, (_, steps) in zip(noises[:-1], stages, strict=False)]
    settings = {
        **noises[-1],
        **({"curriculum": earlier} if earlier else {}),
        "objective": in_words(objective),
        "time_range": time_range,
        **({} if times is None else {"times": in_words(times)}),
        **({} if blocks is None else {"blocks": blocks}),
    }
    training = partial(staged, objective=objective, times=times)
    return RunLosses(training, partial(plain, objective=elbo), count or noised_tokens, settings)
