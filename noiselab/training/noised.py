"""The noise of a batch, drawn before the network is called: everything random in a diffusion loss, as tensors.

What follows, the network and the bound, is a function of these tensors, which `torch.compile` can trace.
"""

from typing import NamedTuple

import torch
from jaxtyping import Float, Int
from torch import Tensor

from ..data.rows import Batch, noised_tokens
from ..elbo.tokens import noise_on_data
from ..numerics import as_token_times
from ..objectives import Objective, elbo
from ..process import InterpolatingProcess, NoiseProcess
from ..typing import PerToken, Times, Tokens
from .noise import Place, TimesOfStep, drawn_times, row_generators, step_times


class NoisyBatch(NamedTuple):
    """A batch with the noise of its place in a run.

    **Arguments:**

    - `seen`, `times`, `mask`: the inputs of the network: tokens [batch, length], their times, [batch] or [batch, length],
      and the attention mask, if there is one.
    - `rows`: the positions of the tokens with a loss, in row-major order; `None` for all. If given, the remaining fields
      are those of these tokens alone, as one sequence [1, rows].
    - `x`, `z`, `t`: clean tokens, noisy tokens and their times.
    - `weight`: the objective's weight of each token; `None` for noise that has no single weight.
    - `scale`: the factor of each token's loss in the sum: 0 for tokens that are not learned.
    - `clean`: the whole text without noise, [batch, length], which `noiselab.denoisers.BlockDenoiser` reads.
    - `documents`: the number of the document of each token, [batch, length], if tokens attend to their own alone.
    """

    seen: Tokens
    times: Times
    mask: Tensor | None
    rows: Int[Tensor, " rows"] | None
    x: Int[Tensor, "..."]
    z: Int[Tensor, "..."]
    t: Float[Tensor, "..."]
    weight: Float[Tensor, "..."] | None
    scale: Float[Tensor, "..."]
    clean: Tokens | None = None
    documents: Tokens | None = None


@torch.no_grad()
def draw_noise(
    batch: Batch,
    *,
    process: NoiseProcess,
    objective: Objective,
    place: Place,
    time_range: tuple[float, float] = (1e-4, 1 - 1e-4),
    times: TimesOfStep | None = None,
    tokens: Tensor | None = None,
    select: float | int = 1,
    multiple: int = 1,
) -> NoisyBatch:
    """Draw times and noise of a batch, and select the tokens with a loss: the part of `noised_loss` before the network.

    Which tokens have a loss is read from an accelerator, once for each batch, where many may have none: with masks, padding,
    prompts or weighted times. Draw the noise of the next batch while the device computes to hide this.

    **Arguments:**

    - `batch`, `process`, `objective`, `place`, `time_range`, `times`, `tokens`: as for `noised_loss`.
    - `select`: the largest share of tokens with a loss of which these alone are kept; 0 to keep all.
    - `multiple`: the number of selected tokens is rounded up to a multiple of this, by tokens that do not count, so that a
      compiled network sees few different shapes.

    **Returns:** the noisy batch. Its `scale` sums to the share of this batch in the loss of the step.
    """
    ids, noised, device = batch["input_ids"].long(), noised_tokens(batch), batch["input_ids"].device
    t, shares = (
        (step_times(place, len(ids), *time_range, device), None)
        if times is None
        else drawn_times(place, len(ids), ids.shape[1], times, device)
    )
    # Other tokens may be outside the support of the process. They are replaced by one of the support, so that values stay
    # finite; their loss is dropped.
    x = torch.where(noised, ids, filler(process, device))
    z = torch.where(noised, process.corrupt(x, t, generator=row_generators(place, len(ids), device)), x)
    if tokens is None:  # assume the same number of tokens in all batches of the step
        tokens = noised.sum() * (place.accumulation * place.world)
    scale = noised * (place.world / tokens.clamp(min=1).double())  # 0 if nothing is scored
    if shares is not None:
        scale = scale * (shares if shares.dim() == 2 else shares[:, None])
    weight = token_weights(process, objective, x, z, t)
    counted = scale if weight is None else scale * (weight != 0)
    everything = not select or (shares is None and _all_count(process, batch, z, t))
    rows = None if everything else _scored_rows(counted, select, multiple)
    seen, mask, documents = torch.where(noised, z, ids), batch.get("attention_mask"), batch.get("documents")
    if rows is None:
        return NoisyBatch(seen, t, mask, None, x, z, t, weight, scale, ids, documents)
    index, live = rows

    def selected(values: Tensor) -> Tensor:
        return values.expand(ids.shape).flatten()[index][None]

    weight = None if weight is None else selected(weight)
    each = selected(as_token_times(t, ids))
    return NoisyBatch(
        seen, t, mask, index, selected(x), selected(z), each, weight, selected(scale) * live, ids, documents
    )


def token_weights(process: NoiseProcess, objective: Objective, x: Tokens, z: Tokens, t: Times) -> PerToken | None:
    """The objective's weight of each token; `None` for the plain bound of noise that has no single weight per token.

    **Raises:** `ValueError` for another objective of such noise.
    """
    if isinstance(process, InterpolatingProcess):
        return objective(process, x, z, t)
    if objective is not elbo:
        process.accept_weight(torch.ones_like(z, dtype=torch.float64))
    return None


def _all_count(process: NoiseProcess, batch: Batch, z: Tokens, t: Times) -> bool:
    """Whether nearly all tokens have a loss, so that it is not worth stalling an accelerator to read which ones."""
    if z.device.type == "cpu" or any(name in batch for name in ("attention_mask", "scored", "labels")):
        return False
    return not isinstance(process, InterpolatingProcess) or noise_on_data(process, z, t) is not None


def _scored_rows(factor: PerToken, select: float | int, multiple: int) -> tuple[Tensor, Tensor] | None:
    """The positions of tokens with a loss, and 1 for each, 0 for added ones; `None` if nearly all have a loss."""
    index = factor.flatten().nonzero()[:, 0]
    if len(index) == factor.numel() or len(index) > select * factor.numel():
        return None
    live = torch.ones(len(index), dtype=torch.float64, device=factor.device)
    more = min(-len(index) % multiple, factor.numel() - len(index))
    if more:
        index = torch.cat([index, index[-1:].expand(more) if len(index) else index.new_zeros(more)])
        live = torch.cat([live, live.new_zeros(more)])
    return index, live


def filler(process: NoiseProcess, device: torch.device) -> Int[Tensor, ""]:
    """A token of the support, found without a copy from the device."""
    if process.support is None:
        return torch.zeros((), dtype=torch.long, device=device)
    return process.support.to(torch.uint8).argmax()
