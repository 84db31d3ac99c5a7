"""The loss of a noisy batch: network, projection and weighted bound, as a function of tensors that draws nothing.

`torch.compile(noisy_loss, fullgraph=True)` traces it as plain operations; otherwise the bound is fused with the projection
where that is linear, and the logits are never stored.
"""

from collections.abc import Callable
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn

from ..data.rows import document_attention
from ..denoisers import BlockDenoiser, Denoiser, LinearProjection
from ..denoisers.attention import attending_to
from ..denoisers.projection import splits_projection
from ..elbo import nelbo_fused
from ..networks.dit import DiT
from ..networks.outputs import logits_of
from ..networks.wrapped import innermost
from ..objectives import weighted_loss
from ..parametrization import Prediction
from ..process import InterpolatingProcess, NoiseProcess
from ..process.evidence import evidence_of
from ..typing import Probs, Scalar, Selection, Times, Tokens
from .documents import as_denoiser
from .noised import NoisyBatch

SELECTED_SHARE = 0.95
"""Of a network that computes all logits, those of tokens with a loss are selected if their share is at most this: selecting
takes time, too.
"""


def in_blocks(model: nn.Module, block_size: int, process: NoiseProcess, predicts: Prediction) -> BlockDenoiser:
    """A network that is trained in blocks, as the denoiser that computes all of them in one pass.

    **Arguments:**

    - `model`: a `noiselab.Denoiser`, or a network that is called like `noiselab.networks.dit.DiT`.
    - `block_size`: the number of tokens in a block.
    - `process`: the noise, at whose lower end of time earlier blocks are.
    - `predicts`: what a network that is no denoiser predicts.

    **Raises:** `ValueError` if the network does not honour a mask of pairs of tokens and positions, or is in blocks already.
    """
    if any(isinstance(part, BlockDenoiser) for part in model.modules()):
        raise ValueError("blocks must not be given for a denoiser that is in blocks already; got a BlockDenoiser")
    denoiser: Any = as_denoiser(model, predicts)
    return BlockDenoiser(denoiser, block_size, low=process.domain[0])


Call = Callable[[nn.Module, Tensor, Tensor, Tensor | None], Tensor]


def call_network(model: nn.Module, z: Tokens, t: Times, mask: Tensor | None) -> Probs:
    """Logits of a network with the signature of `noiselab.networks.dit.DiT`."""
    extra = {} if mask is None else {"attention_mask": mask}
    return logits_of(model(input_ids=z, timesteps=t.float(), **extra))


def call_denoiser(
    model: nn.Module,
    z: Tokens,
    t: Times,
    mask: Tensor | None,
    rows: Selection | None = None,
    clean: Tokens | None = None,
) -> Float[Tensor, "... state"]:
    """Logits of a `noiselab.Denoiser`, whose network attends to real tokens only if it takes an attention mask.

    With `rows`, only those of the selected tokens, [n, state], which are all that a `ProjectedDenoiser` computes. `clean` is
    the clean text, for a `noiselab.denoisers.BlockDenoiser`.
    """
    with attending_to(model, None if mask is None else mask.bool(), clean=clean):
        return model(z, t) if rows is None else model(z, t, rows)


def noisy_loss(
    model: nn.Module,
    noisy: NoisyBatch,
    *,
    process: NoiseProcess,
    autocast: torch.dtype | None = None,
    call: Call = call_network,
    predicts: Prediction = "leave_one_out",
    rows: int | None = None,
) -> Scalar:
    """The loss of a batch whose noise is drawn: the part of `noised_loss` that calls the network.

    **Arguments:**

    - `noisy`: a result of `draw_noise`, with selected rows only if `row_share` of the model and call is positive.
    - `model`, `process`, `autocast`, `call`, `predicts`, `rows`: as for `noised_loss`.

    **Returns:** a scalar, the sum of the tokens' losses times `noisy.scale`.

    **Example:**

    ```python
    import torch
    import noiselab as nl
    from noiselab.networks.dit import DiT, DiTConfig
    from noiselab.objectives import elbo
    from noiselab.training import Place, draw_noise, noisy_loss

    process = nl.masked(vocab_size=9, mask_id=8)
    model = DiT(DiTConfig(vocab_size=9, max_seq_len=4, hidden_size=8, num_hidden_layers=1, num_attention_heads=2))
    batch = {"input_ids": torch.randint(8, (2, 4))}
    noisy = draw_noise(batch, process=process, objective=elbo, place=Place(step=0, seed=1))
    loss = torch.compile(noisy_loss, fullgraph=True)  # nothing is compiled before the first call
    noisy_loss(model, noisy, process=process).backward()
    ```
    """
    if noisy.documents is not None:
        if call is not call_network and call is not call_denoiser:
            raise ValueError(
                "documents need a network that is called by call_network or call_denoiser; got another call"
            )
        inner = as_denoiser(model, predicts)
        own: dict[str, Any] = {"process": process, "autocast": autocast, "predicts": predicts}
        with attending_to(inner, **document_attention(noisy.documents)):
            return noisy_loss(inner, noisy._replace(documents=None), call=call_denoiser, rows=rows, **own)
    device = noisy.seen.device.type
    with torch.autocast(device, dtype=autocast, enabled=autocast is not None):
        if not splits(model, call):
            outputs = _called(model, noisy, call)
        else:
            hidden = _hidden(model, noisy, call)
            found = model.linear_projection(hidden)  # type: ignore[operator]
            if _fuses(process, noisy, predicts, found, autocast):
                return _fused(process, noisy, predicts, found, autocast, rows)
            outputs = model.project(hidden)  # type: ignore[operator]
    # One row for each token that has been selected; a mask drops those that were added to round their number up.
    x, z, t, weight, scale = noisy.x, noisy.z, noisy.t, noisy.weight, noisy.scale
    if noisy.rows is not None:
        outputs, n = outputs[None], len(outputs)
        x, z, t, scale = x[:, :n], z[:, :n], t[:, :n], scale[:, :n]
        weight = None if weight is None else weight[:, :n]
    # A vocabulary that is rounded up has logits of no token.
    losses = weighted_loss(process, outputs[..., : process.vocab_size], x, z, t, weight, predicts=predicts)
    return torch.where(scale == 0, 0, losses.double() * scale).sum().to(losses.dtype)


def row_share(model: nn.Module, call: Call) -> float:
    """The share of tokens with a loss up to which they are selected: 0 for networks that compute all logits in one call."""
    if splits(model, call) or (isinstance(innermost(model), DiT) and call is call_network):
        return 1.0
    return SELECTED_SHARE if call is call_denoiser else 0.0


def splits(model: Any, call: Call) -> bool:
    """Whether a network's hidden states can be projected here (`splits_projection`), because nothing wraps it."""
    if call is not (call_denoiser if isinstance(model, Denoiser) else call_network):
        return False
    return splits_projection(model)


def _hidden(model: Any, noisy: NoisyBatch, call: Call) -> Tensor:
    """The hidden states of the tokens with a loss: [rows, width], or [batch, length, width] if these are all."""
    if call is call_denoiser:
        with attending_to(model, None if noisy.mask is None else noisy.mask.bool(), clean=noisy.clean):
            hidden = model.hidden(noisy.seen, noisy.times)
    else:
        hidden = model.hidden(noisy.seen, noisy.times.float(), noisy.mask)
    return hidden if noisy.rows is None else hidden.flatten(0, 1)[noisy.rows]


def _called(model: nn.Module, noisy: NoisyBatch, call: Call) -> Tensor:
    """Logits of the tokens with a loss by a call of the model."""
    if call is call_denoiser:
        if noisy.rows is None:
            return call_denoiser(model, noisy.seen, noisy.times, noisy.mask, None, noisy.clean)
        selected = torch.zeros_like(noisy.seen, dtype=torch.bool).flatten().index_fill(0, noisy.rows, True)
        return call_denoiser(model, noisy.seen, noisy.times, noisy.mask, selected.view_as(noisy.seen), noisy.clean)
    if noisy.rows is None and call is call_network:
        return call_network(model, noisy.seen, noisy.times, noisy.mask)
    if noisy.rows is None:
        with attending_to(model, clean=noisy.clean):
            return call(model, noisy.seen, noisy.times, noisy.mask)
    extra = {} if noisy.mask is None else {"attention_mask": noisy.mask}
    return logits_of(model(input_ids=noisy.seen, timesteps=noisy.times.float(), rows=noisy.rows, **extra))


def _fuses(
    process: NoiseProcess,
    noisy: NoisyBatch,
    predicts: Prediction,
    found: LinearProjection | None,
    autocast: torch.dtype | None,
) -> bool:
    """Whether the bound of a process is the one that is fused with a projection; a compiler fuses by itself."""
    if found is None or noisy.weight is None or predicts == "score" or torch.compiler.is_compiling():
        return False
    if not isinstance(process, InterpolatingProcess) or type(process).nelbo is not InterpolatingProcess.nelbo:
        return False
    dtypes = {part.dtype for part in found if part is not None}
    # In float16 gradients that a gradient scaler has not scaled yet would round to 0.
    if autocast == torch.float16 or (autocast is None and (len(dtypes) > 1 or torch.float16 in dtypes)):
        return False
    return not (torch.is_grad_enabled() and any(p.requires_grad for p in process.parameters()))


def _fused(
    process: Any,
    noisy: NoisyBatch,
    predicts: Prediction,
    found: LinearProjection,
    autocast: torch.dtype | None,
    rows: int | None,
) -> Tensor:
    shape, width = noisy.x.shape, found.hidden.shape[-1]
    odds = None
    if predicts == "posterior":
        with torch.no_grad():
            times = noisy.t if noisy.t.dim() == 2 else noisy.t[:, None]
            odds = evidence_of(process, noisy.z.flatten(), times.expand(shape).flatten()).view(shape)
    total, _ = nelbo_fused(
        process,
        found.hidden.reshape(*shape, width),
        found.weight,
        found.bias,
        noisy.x,
        noisy.z,
        noisy.t,
        noisy.scale,
        weight=noisy.weight,
        log_odds=odds,
        dtype=None if autocast is None or found.hidden.dtype == torch.float64 else autocast,
        rows=rows,
    )
    return total
