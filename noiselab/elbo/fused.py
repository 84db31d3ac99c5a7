"""The bound fused with the output projection, so that the logits are never stored."""

from typing import TYPE_CHECKING

import torch
from jaxtyping import Float
from torch import Tensor
from torch.autograd.function import once_differentiable

from ..numerics import require_count
from ..typing import PerToken, Scalar, Times, TokenProbs, Tokens
from .streaming import spans, stream
from .tokens import NoiseOnData, TokenTerms, check_inputs, noise_on_data, scalars

if TYPE_CHECKING:
    from ..process import InterpolatingProcess


def nelbo_fused(
    process: "InterpolatingProcess",
    hidden: Float[Tensor, "batch length width"],
    projection: Float[Tensor, "state width"],
    bias: TokenProbs | None,
    x: Tokens,
    z: Tokens,
    t: Times,
    scale: PerToken,
    *,
    weight: PerToken | None = None,
    rows: int = 256,
) -> tuple[Scalar, PerToken]:
    r"""$\sum_i scale_i\, nelbo_i$ for logits = hidden projection^T + bias, block by block of tokens.

    The gradients of the hidden states, the projection and the bias are computed in the forward pass; therefore the
    scale of each token must be given, and the result is a scalar.

    **Arguments:**

    - `hidden`, `projection`, `bias`: the last hidden states and the output projection, of one dtype.
    - `x`, `z`, `t`, `weight`: as for `nelbo`.
    - `scale`: the factor of each token in the sum, for example mask / number of real tokens.
    - `rows`: the number of tokens per block; only their logits and gradients have the size of the vocabulary.

    **Returns:** the scaled sum, and the detached value of each token.

    **Raises:** `ValueError` as for `nelbo`; if the projection does not match the hidden states or the vocabulary, or the
    process has learned parameters, whose gradients this function does not compute.
    """
    process.accept_weight(scale)  # of a process with one rate into a token
    if projection.dim() != 2 or projection.shape[0] != process.vocab_size:
        raise ValueError(f"the projection must have {process.vocab_size} rows; got {projection.shape[0]}")
    t = check_inputs(process, hidden, x, z, t, weight=weight, more=(scale,))
    width, states = hidden.shape[-1], process.vocab_size
    if projection.shape[1] != width or (bias is not None and bias.shape != (states,)):
        came = f"{list(projection.shape)} and {None if bias is None else list(bias.shape)}"
        raise ValueError(f"projection and bias must have shape [{states}, {width}] and [{states}]; got {came}")
    if not hidden.dtype == projection.dtype == (projection if bias is None else bias).dtype:
        came = f"{hidden.dtype}, {projection.dtype}{'' if bias is None else f' and {bias.dtype}'}"
        raise ValueError(f"hidden states, projection and bias must have one dtype; got {came}")
    require_count("rows", rows)
    if torch.is_grad_enabled() and any(p.requires_grad for p in process.parameters()):
        raise ValueError(
            "the process must not have learned parameters here; use `nelbo`, which computes their gradients"
        )
    tokens, noise, off = scalars(process, x, z, t, weight), noise_on_data(process, z, t), process.off_support()
    return _FusedNelbo.apply(hidden, projection, bias, tokens, noise, off, scale.reshape(-1), rows)


class _FusedNelbo(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx,
        hidden: Tensor,
        projection: Tensor,
        bias: Tensor | None,
        tokens: TokenTerms,
        noise: NoiseOnData | None,
        off: Tensor | None,
        scale: Tensor,
        rows: int,
    ) -> tuple[Tensor, Tensor]:
        h = hidden.flatten(0, -2)
        n, states = len(h), projection.shape[0]
        # Summed over blocks in at least float32, because bfloat16 would lose a per cent or more.
        exact = torch.promote_types(projection.dtype, torch.float32)
        grad_h, grad_projection = torch.empty_like(h), torch.zeros_like(projection, dtype=exact)
        grad_bias = None if bias is None else torch.zeros_like(bias, dtype=exact)
        loss = torch.empty(n, dtype=torch.float64, device=h.device)
        block, grad_block = (h.new_empty(min(rows, n), states) for _ in range(2))
        for i, j in noise.spans(n, rows) if noise is not None else spans(n, rows):
            logits, grad = block[: j - i], grad_block[: j - i]
            if bias is None:
                torch.mm(h[i:j], projection.T, out=logits)
            else:
                torch.addmm(bias, h[i:j], projection.T, out=logits)
            loss[i:j] = stream(logits, tokens.rows(i, j), noise and noise.window(i, j), off, grad)
            grad.mul_(scale[i:j, None].to(grad))
            torch.mm(grad, projection, out=grad_h[i:j])
            if exact == projection.dtype:
                grad_projection.addmm_(grad.T, h[i:j])
            else:
                grad_projection += grad.T @ h[i:j]
            if grad_bias is not None:
                grad_bias += grad.sum(0, dtype=exact)
        ctx.grads = (
            grad_h.view_as(hidden),
            grad_projection.to(projection.dtype),
            None if grad_bias is None or bias is None else grad_bias.to(bias.dtype),
        )
        values = loss.view(hidden.shape[:-1]).to(torch.promote_types(hidden.dtype, torch.float32))
        ctx.mark_non_differentiable(values)
        return (loss * scale).sum().to(values.dtype), values

    @staticmethod
    @once_differentiable
    def backward(ctx, upstream: Tensor, _):
        grads, ctx.grads = ctx.grads, None
        if grads is None:
            raise RuntimeError("nelbo_fused keeps its gradients for one backward pass; call it again for another")
        return *(g if g is None else g.mul_(upstream) for g in grads), None, None, None, None, None
