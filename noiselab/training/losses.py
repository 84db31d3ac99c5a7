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
from jaxtyping import Float, Int
from torch import Tensor, nn

from ..data.rows import Batch, noised_tokens, predicted_tokens, real_tokens
from ..denoisers.attention import attending_to
from ..networks.outputs import logits_of
from ..networks.wrapped import bare
from ..objectives import Objective, elbo, objective_loss
from ..parametrization import Prediction
from ..process import InterpolatingProcess, NoiseProcess
from ..typing import PerSequence, Probs, Scalar, Selection, Tokens
from .noise import Place, row_generators, step_times

SELECTED_SHARE = 0.95
"""Logits are computed for the tokens with a loss alone if their share is at most this: selecting rows takes time, too."""


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


def call_network(model: nn.Module, z: Tokens, t: PerSequence, mask: Tensor | None) -> Probs:
    """Logits of a network with the signature of `noiselab.networks.dit.DiT`."""
    extra = {} if mask is None else {"attention_mask": mask}
    return logits_of(model(input_ids=z, timesteps=t.float(), **extra))


def call_denoiser(
    model: nn.Module, z: Tokens, t: PerSequence, mask: Tensor | None, rows: Selection | None = None
) -> Float[Tensor, "... state"]:
    """Logits of a `noiselab.Denoiser`, whose network attends to real tokens only if it takes an attention mask.

    With `rows`, only those of the selected tokens, [n, state], which are all that a `ProjectedDenoiser` computes.
    """
    with attending_to(model, None if mask is None else mask.bool()):
        return model(z, t) if rows is None else model(z, t, rows)


def noised_loss(
    model: nn.Module,
    batch: Batch,
    *,
    process: NoiseProcess,
    objective: Objective,
    place: Place,
    time_range: tuple[float, float] = (1e-4, 1 - 1e-4),
    tokens: Tensor | None = None,
    autocast: torch.dtype | None = None,
    call: Callable[[nn.Module, Tensor, Tensor, Tensor | None], Tensor] = call_network,
    predicts: Prediction = "leave_one_out",
) -> Scalar:
    r"""The diffusion loss of a batch: times, noise, network, weighted bound, mean over real tokens.

    Padding is neither noised nor scored, and is passed to the network as a mask. Real tokens that are not `scored` or have
    the label -100, for example a prompt, are not noised or scored either; their time is that of the sequence.

    **Arguments:**

    - `model`: the network, possibly wrapped for data-parallel training.
    - `batch`: see `Batch`; it is not modified.
    - `process`: the noise process; `objective`: the weight of each token, for example `noiselab.objectives.elbo`.
    - `place`: the position of the batch in the run, which determines all randomness. The global generator is not used.
    - `time_range`: the range of times, within (0, 1), sampled with stratification. The loss is the mean over this
      range; it is not scaled by the length of the range.
    - `tokens`: the number of `noised_tokens` in the optimizer step, over all micro-steps and processes. By default all
      batches of the step are assumed to have the same number as this one.
    - `autocast`: the dtype for the network, for example `torch.bfloat16`; the bound is computed in at least float32.
    - `call`: how to compute logits with the model: `call_network` or `call_denoiser`.
    - `predicts`: the quantity that the model predicts, which determines the reverse process of the bound
      (`objective_loss`).

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
    ids, noised, device = batch["input_ids"].long(), noised_tokens(batch), batch["input_ids"].device
    t = step_times(place, len(ids), *time_range, device)
    generators = row_generators(place, len(ids), device)
    # Other tokens may be outside the support of the process. They are replaced by one of the support, so that values and
    # gradients stay finite; their loss is dropped.
    x = torch.where(noised, ids, filler(process, device))
    with torch.no_grad():
        z = torch.where(noised, process.corrupt(x, t, generator=generators), x)
    mask, seen = batch.get("attention_mask"), torch.where(noised, z, ids)
    rows, weighted = (
        _scored_rows(process, objective, x, z, t, noised) if _takes_rows(model, call) else (None, objective)
    )
    with torch.autocast(device.type, dtype=autocast, enabled=autocast is not None):
        if rows is None:
            logits = call(model, seen, t, mask)
        else:
            logits = call_denoiser(model, seen, t, mask, rows)[None]
    if rows is None:
        losses = objective_loss(process, logits, x, z, t, objective, predicts=predicts)
        return normalize_loss(losses, noised, place, tokens)
    # The selected tokens as one sequence, each with its own time.
    times = t[:, None].expand(rows.shape)[rows][None]
    losses = objective_loss(process, logits, x[rows][None], z[rows][None], times, weighted, predicts=predicts)
    if tokens is None:
        tokens = noised.sum() * (place.accumulation * place.world)
    return normalize_loss(losses, torch.ones_like(losses, dtype=torch.bool), place, tokens)


def _takes_rows(model: nn.Module, call: Callable[..., Tensor]) -> bool:
    """Whether logits of some tokens alone can be computed; a compiled model is faster with shapes that do not change."""
    return call is call_denoiser and bare(model) is model


def _scored_rows(
    process: NoiseProcess, objective: Objective, x: Tokens, z: Tokens, t: PerSequence, noised: Selection
) -> tuple[Selection | None, Objective]:
    """The tokens with a loss, and the objective for these alone; `None` if nearly all have one.

    Visible tokens have none where noise is masks, because their weight is 0; their logits are not computed.
    """
    rows, weights = noised, None
    if isinstance(process, InterpolatingProcess):
        weights = objective(process, x, z, t)
        rows = noised & (weights != 0)
    if not rows.any() or rows.double().mean() > SELECTED_SHARE:
        return None, objective
    if weights is None or objective is elbo:
        return rows, objective
    chosen = weights[rows][None]
    return rows, lambda *_: chosen


def filler(process: NoiseProcess, device: torch.device) -> Int[Tensor, ""]:
    """A token of the support, found without a copy from the device."""
    if process.support is None:
        return torch.zeros((), dtype=torch.long, device=device)
    return process.support.to(torch.uint8).argmax()


def causal_loss(
    model: nn.Module, batch: Batch, *, place: Place, tokens: Tensor | None = None, autocast: torch.dtype | None = None
) -> Scalar:
    """The loss of an autoregressive model: the mean of -log p(token | previous tokens) over real tokens except the
    first.

    **Arguments:** as for `noised_loss`; the loss is deterministic. `tokens` counts `predicted_tokens`.

    **Returns:** a scalar in nats per token.
    """
    batch = _without_padding_of_all(batch)
    ids, counted = batch["input_ids"].long(), predicted_tokens(batch)
    extra = {"attention_mask": batch["attention_mask"]} if "attention_mask" in batch else {}
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
