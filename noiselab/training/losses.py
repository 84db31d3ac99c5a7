"""Losses of a batch as plain functions: noise, network, bound, mean over real tokens.

They take everything as arguments and keep nothing, so the same functions serve the `Trainer` of this package and any
other loop.

A loss is a sum over this batch's tokens divided by the number of tokens of the *whole* optimizer step, times the number
of processes, because data-parallel training averages gradients over processes.  Summed over micro-steps this is the
mean over all real tokens, however they are spread over processes and micro-steps.
"""

from collections.abc import Callable, Mapping
from typing import Protocol, runtime_checkable

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Int
from torch import Tensor, nn

from ..networks.outputs import logits_of
from ..objectives import Objective, objective_loss
from ..parametrization import Prediction
from ..process import NoiseProcess
from ..typing import PerSequence, Probs, Scalar, Selection, Tokens
from .noise import Place, row_generators, step_times

Batch = Mapping[str, Tensor]
"""`input_ids` [batch, length]; of that shape `attention_mask` (1 for real tokens), if not all tokens are real, and `scored`
(1 for tokens that the model is to learn), if not all real ones are: the others are given."""


@runtime_checkable
class Loss(Protocol):
    """What the trainer calls: the loss of one micro-batch, given its place and the number of tokens in its step."""

    def __call__(self, model: nn.Module, batch: Batch, *, place: Place, tokens: Tensor | None = None) -> Tensor:
        """A scalar to call `backward` on."""
        ...


def real_tokens(batch: Batch) -> Selection:
    """Where the tokens are real: all of them, or those with attention mask 1."""
    mask = batch.get("attention_mask")
    return torch.ones_like(batch["input_ids"], dtype=torch.bool) if mask is None else mask.bool()


def noised_tokens(batch: Batch) -> Selection:
    """Where a diffusion model is scored: real tokens that are `scored`. The others stay as they are."""
    real = real_tokens(batch)
    return real & batch["scored"].bool() if "scored" in batch else real


def predicted_tokens(batch: Batch) -> Bool[Tensor, "batch scored"]:
    """Where a causal model is scored: real tokens that follow a real token (so the first one is not), and are `scored`."""
    mask = real_tokens(batch)
    counted = mask[:, 1:] & mask[:, :-1]
    return counted & batch["scored"][:, 1:].bool() if "scored" in batch else counted


def share(losses: Tensor, counted: Tensor, place: Place, tokens: Tensor | None) -> Scalar:
    """This batch's share in the mean over the counted tokens of its optimizer step."""
    if tokens is None:  # all batches of the step are taken to be alike
        tokens = counted.sum() * (place.accumulation * place.world)
    return torch.where(counted, losses, 0).sum() * (place.world / tokens)


def call_network(model: nn.Module, z: Tokens, t: PerSequence, mask: Tensor | None) -> Probs:
    """Logits of a network with the signature of `noiselab.networks.dit.DiT`."""
    extra = {} if mask is None else {"attention_mask": mask}
    return logits_of(model(input_ids=z, timesteps=t.float(), **extra))


def call_denoiser(model: nn.Module, z: Tokens, t: PerSequence, mask: Tensor | None) -> Probs:
    """Logits of a `noiselab.Denoiser`, which takes no attention mask."""
    return model(z, t)


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

    Padding is neither noised nor scored, and the network is told where it is. Tokens that are real, but not `scored`, are
    neither too: a prompt, at the time of the others.

    **Arguments:**

    - `model`: the network, possibly wrapped for data-parallel training.
    - `batch`: see `Batch`; left as it is.
    - `process`: the noise process; `objective`: the weight of each token, for example `noiselab.objectives.elbo`.
    - `place`: where the batch stands in the run; it determines every random number. The global generator is not used.
    - `time_range`: the times, within (0, 1), are spread evenly over it. The mean is over this range: it is not scaled by
      its length.
    - `tokens`: number of `noised_tokens` in the optimizer step, over all micro-steps and processes. By default all batches
      of the step are taken to have as many as this one.
    - `autocast`: dtype to run the network in, for example `torch.bfloat16`; the bound is computed in at least float32.
    - `call`: how logits are had from the model, `call_network` or `call_denoiser`.
    - `predicts`: what the model answers; the bound is that of the reverse process it stands for (`objective_loss`).

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
    ids, real, device = batch["input_ids"].long(), real_tokens(batch), batch["input_ids"].device
    noised = noised_tokens(batch)
    t = step_times(place, len(ids), *time_range, device)
    generators = row_generators(place, len(ids), device)
    # A padding token may be one that the process never makes.  Before the bound it becomes a token that it does make,
    # which keeps values and gradients finite; its loss is dropped.
    x = torch.where(real, ids, filler(process, device))
    with torch.no_grad():
        z = torch.where(noised, process.corrupt(x, t, generator=generators), x)
    with torch.autocast(device.type, dtype=autocast, enabled=autocast is not None):
        logits = call(model, torch.where(real, z, ids), t, batch.get("attention_mask"))
    return share(objective_loss(process, logits, x, z, t, objective, predicts=predicts), noised, place, tokens)


def filler(process: NoiseProcess, device: torch.device) -> Int[Tensor, ""]:
    """Some token of the support, without a copy from the device."""
    if process.support is None:
        return torch.zeros((), dtype=torch.long, device=device)
    return process.support.to(torch.uint8).argmax()


def causal_loss(
    model: nn.Module, batch: Batch, *, place: Place, tokens: Tensor | None = None, autocast: torch.dtype | None = None
) -> Scalar:
    """The loss of an autoregressive model: -log p(token | those before), mean over real tokens but the first.

    **Arguments:** as for `noised_loss`; nothing here is random. `tokens` counts `predicted_tokens`.

    **Returns:** a scalar in nats per token.
    """
    batch = _without_padding_of_all(batch)
    ids, counted = batch["input_ids"].long(), predicted_tokens(batch)
    extra = {"attention_mask": batch["attention_mask"]} if "attention_mask" in batch else {}
    with torch.autocast(ids.device.type, dtype=autocast, enabled=autocast is not None):
        logits = logits_of(model(input_ids=ids, **extra))[:, :-1]
    losses = F.cross_entropy(logits.flatten(0, 1).float(), ids[:, 1:].flatten(), reduction="none")
    return share(losses.view(counted.shape), counted, place, tokens)


def _without_padding_of_all(batch: Batch) -> Batch:
    """A batch up to the last real token of its longest row."""
    if "attention_mask" not in batch:
        return batch
    used = real_tokens(batch).any(0).nonzero()
    width = int(used[-1]) + 1 if len(used) else 1
    return {name: part[:, :width] for name, part in batch.items()}
