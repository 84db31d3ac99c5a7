"""Losses of a batch as plain functions: noise, network, bound, mean over real tokens.

They take all inputs as arguments and have no state, so that they can be used with the `Trainer` of this package or in
any other training loop.

A loss is a sum over this batch's tokens divided by the number of tokens of the *whole* optimizer step, times the number
of processes, because data-parallel training averages gradients over processes.  Summed over micro-steps this is the
mean over all real tokens, however they are spread over processes and micro-steps.
"""

from collections.abc import Callable
from typing import Protocol, runtime_checkable

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ..data.rows import Batch, predicted_tokens, real_tokens
from ..data.rows import noised_tokens as noised_tokens
from ..networks.outputs import logits_of
from ..networks.wrapped import bare
from ..objectives import Objective
from ..parametrization import Prediction
from ..process import NoiseProcess
from ..typing import Scalar
from .clocks import TimesPerBlock
from .documents import causal_arguments
from .noise import Place, TimesOfStep
from .noised import draw_noise
from .scoring import call_denoiser as call_denoiser
from .scoring import call_network, in_blocks, noisy_loss, row_share

ROWS_MULTIPLE = 128
"""To a multiple of this the number of tokens with a loss is rounded up for a compiled network, which needs few shapes."""


@runtime_checkable
class Loss(Protocol):
    """A loss function for the trainer: the loss of a micro-batch, given its place and the number of tokens in its step."""

    def __call__(self, model: nn.Module, batch: Batch, *, place: Place, tokens: Tensor | None = None) -> Tensor:
        """A scalar to call `backward` on."""
        ...


def normalize_loss(losses: Tensor, counted: Tensor, place: Place, tokens: Tensor | None) -> Scalar:
    """The contribution of this batch to the mean over the counted tokens of its optimizer step."""
    if tokens is None:  # assume the same number of tokens in all batches of the step
        tokens = counted.sum() * (place.accumulation * place.world)
    return torch.where(counted, losses, 0).sum() * (place.world / tokens.clamp(min=1))  # 0 if nothing is scored


def noised_loss(
    model: nn.Module,
    batch: Batch,
    *,
    process: NoiseProcess,
    objective: Objective,
    place: Place,
    time_range: tuple[float, float] = (1e-4, 1 - 1e-4),
    times: TimesOfStep | None = None,
    tokens: Tensor | None = None,
    autocast: torch.dtype | None = None,
    call: Callable[[nn.Module, Tensor, Tensor, Tensor | None], Tensor] = call_network,
    predicts: Prediction = "leave_one_out",
    rows: int | None = None,
    blocks: int | None = None,
) -> Scalar:
    r"""The diffusion loss of a batch: times, noise, network, weighted bound, mean over real tokens.

    Padding is neither noised nor scored, and is passed to the network as a mask. Real tokens that are not `scored` or have
    the label -100, for example a prompt, are not noised or scored either; their time is that of the sequence. Tokens of rows
    with `documents` attend to their own document alone, in which positions begin at 0. Only tokens
    whose loss has a weight are projected onto the vocabulary; where the projection is linear, the loss is fused with it, so
    that the logits are never stored (`noiselab.elbo.nelbo_fused`).

    **Arguments:**

    - `model`: the network, possibly wrapped for data-parallel training. The loss is fused with a network that is not
      wrapped: to wrap both, put this function into the `forward` of a module.
    - `batch`: see `Batch`; it is not modified.
    - `process`: the noise process; `objective`: the weight of each token, for example `noiselab.objectives.elbo`.
    - `place`: the position of the batch in the run, which determines all randomness. The global generator is not used.
    - `time_range`: the range of times, within (0, 1), sampled with stratification. The loss is the mean over this
      range; it is not scaled by the length of the range.
    - `times`: draws the times of a whole optimizer step in place of it, [batch] or [batch, length], for example
      `lambda n, length, generator: noiselab.times.block_times(n, length, 16, low=1e-4, high=1 - 1e-4,
      generator=generator)`. If it returns weights, too, as this does, the loss of each token is multiplied by its own.
    - `tokens`: the number of `noised_tokens` in the optimizer step, over all micro-steps and processes. By default all
      batches of the step are assumed to have the same number as this one.
    - `autocast`: the dtype for the network, for example `torch.bfloat16`; the bound is computed in at least float32.
    - `call`: how to compute logits with the model: `call_network` or `call_denoiser`.
    - `predicts`: the quantity that the model predicts, which determines the reverse process of the bound
      (`objective_loss`).
    - `rows`: the number of tokens whose logits are computed at once, by default one that suits the device
      (`noiselab.elbo.nelbo_fused`).
    - `blocks`: the number of tokens in a block, for block diffusion: each block is learned given the *clean* blocks before it,
      all of them in one pass (`noiselab.denoisers.BlockDenoiser`), at times of their own within `time_range`
      (`TimesPerBlock`) unless `times` are given. The mean over times is the block bound.

    **Returns:** a scalar in nats per token; its sum over the micro-steps, averaged over processes, is the mean of the step.

    **Example:**

    ```python
    import torch
    import noiselab as nl
    from noiselab.networks.dit import DiT, DiTConfig
    from noiselab.objectives import elbo
    from noiselab.training import Place, noised_loss

    process = nl.masked(vocab_size=9, mask_id=8)
    model = DiT(DiTConfig(vocab_size=9, max_seq_len=4, hidden_size=8, num_hidden_layers=1, num_attention_heads=2))
    batch = {"input_ids": torch.randint(8, (2, 4))}
    loss = noised_loss(model, batch, process=process, objective=elbo, place=Place(step=0, seed=1))
    loss.backward()
    ```
    """
    multiple = 1 if bare(model) is model else ROWS_MULTIPLE
    if blocks is not None:
        model, call = in_blocks(model, blocks, process, predicts), call_denoiser
        times = TimesPerBlock(blocks, *time_range) if times is None else times
    noisy = draw_noise(
        batch,
        process=process,
        objective=objective,
        place=place,
        time_range=time_range,
        times=times,
        tokens=tokens,
        select=row_share(model, call),
        multiple=multiple,
    )
    return noisy_loss(model, noisy, process=process, autocast=autocast, call=call, predicts=predicts, rows=rows)


def causal_loss(
    model: nn.Module, batch: Batch, *, place: Place, tokens: Tensor | None = None, autocast: torch.dtype | None = None
) -> Scalar:
    """The loss of an autoregressive model: the mean of -log p(token | previous tokens) over real tokens except the
    first.

    Tokens of rows with `documents` attend to their own document alone, and the first of each is not scored.

    **Arguments:** as for `noised_loss`; the loss is deterministic. `tokens` counts `predicted_tokens`.

    **Returns:** a scalar in nats per token.
    """
    batch = _without_padding_of_all(batch)
    ids, counted = batch["input_ids"].long(), predicted_tokens(batch)
    extra = causal_arguments(model, batch)
    with torch.autocast(ids.device.type, dtype=autocast, enabled=autocast is not None):
        logits = logits_of(model(input_ids=ids, **extra))[:, :-1]
    losses = F.cross_entropy(logits.flatten(0, 1).float(), ids[:, 1:].flatten(), reduction="none")
    return normalize_loss(losses.view(counted.shape), counted, place, tokens)


def _without_padding_of_all(batch: Batch) -> Batch:
    """Truncate a batch after the last real token of its longest row."""
    if "attention_mask" not in batch:
        return batch
    used = real_tokens(batch).any(0).nonzero()
    width = int(used[-1]) + 1 if len(used) else 1
    return {name: part[:, :width] for name, part in batch.items()}
