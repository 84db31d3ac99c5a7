"""A curriculum: training on one noise after another, for example masks first and then masks with random tokens."""

import itertools
from collections.abc import Sequence
from typing import Any, NamedTuple

from torch import nn

from ..data.rows import Batch
from ..process import NoiseProcess
from ..typing import Scalar
from .losses import noised_loss
from .noise import Place


class Stage(NamedTuple):
    """A part of a training run.

    **Arguments:**

    - `process`: its noise.
    - `steps`: the number of its optimizer steps.
    """

    process: NoiseProcess
    steps: int


def process_at(stages: Sequence[Stage], step: int) -> NoiseProcess:
    """The noise of an optimizer step; after the last stage, that of the last.

    **Arguments:**

    - `stages`: the stages in order, at least one.
    - `step`: the number of completed optimizer steps.

    **Raises:** `ValueError` if there is no stage.
    """
    if not stages:
        raise ValueError("a curriculum must have at least one stage; got none")
    ends = itertools.accumulate(stage.steps for stage in stages)
    return next((stage.process for stage, end in zip(stages, ends, strict=True) if step < end), stages[-1].process)


def staged_loss(model: nn.Module, batch: Batch, *, stages: Sequence[Stage], place: Place, **options: Any) -> Scalar:
    """The diffusion loss of a batch with the noise of its step (`noised_loss`).

    **Arguments:**

    - `model`, `batch`, `place`: as for `noised_loss`; `place.step` selects the stage.
    - `stages`: the stages in order. All have the same number of tokens.
    - `options`: the other arguments of `noised_loss`, except the process.

    **Example:**

    ```python
    import torch
    import noiselab as nl
    from noiselab.networks.dit import DiT, DiTConfig
    from noiselab.objectives import elbo
    from noiselab.training import Place, Stage, staged_loss

    masks = nl.masked(vocab_size=9, mask_id=8)
    hybrid = nl.gidd(vocab_size=9, mask_id=8, p_uniform=0.2)
    model = DiT(DiTConfig(vocab_size=9, max_seq_len=4, hidden_size=8, num_hidden_layers=1, num_attention_heads=2))
    batch = {"input_ids": torch.randint(8, (2, 4))}
    stages = [Stage(masks, 100), Stage(hybrid, 50)]
    loss = staged_loss(model, batch, stages=stages, objective=elbo, place=Place(step=120))  # of hybrid noise
    ```
    """
    return noised_loss(model, batch, process=process_at(stages, place.step), place=place, **options)
