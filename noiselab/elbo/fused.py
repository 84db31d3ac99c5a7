"""The bound fused with the output projection, so that the logits are never stored."""

from typing import TYPE_CHECKING, NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor
from torch.autograd.function import once_differentiable

from ..numerics import require_count
from ..typing import PerToken, Scalar, Times, Tokens
from .streaming import DEVICE_CHUNK_BYTES, chunk_bytes_of, spans, sums_of
from .tokens import NoiseOnData, TokenTerms, check_inputs, noise_on_data, scalars

if TYPE_CHECKING:
    from ..process import InterpolatingProcess

ROWS = 256
"""Tokens per block on a CPU: with fewer, the products are slower; with more, the logits leave the cache."""


def nelbo_fused(
    process: "InterpolatingProcess",
    hidden: Float[Tensor, "batch length width"],
    projection: Float[Tensor, "outputs width"],
    bias: Float[Tensor, " outputs"] | None,
    x: Tokens,
    z: Tokens,
    t: Times,
    scale: PerToken,
    *,
    weight: PerToken | None = None,
    log_odds: PerToken | None = None,
    dtype: torch.dtype | None = None,
    rows: int | None = None,
) -> tuple[Scalar, PerToken]:
    r"""$\sum_i scale_i\, nelbo_i$ for logits = hidden projection^T + bias, block by block of tokens.

    The gradients of the hidden states, the projection and the bias are computed in the forward pass; therefore the
    scale of each token must be given, and the result is a scalar. Those of what needs no gradient are not computed.

    **Arguments:**

    - `hidden`, `projection`, `bias`: the last hidden states and the output projection, of one dtype unless `dtype` is given.
      The projection may have more rows than the process has tokens; these are not used.
    - `x`, `z`, `t`, `weight`: as for `nelbo`.
    - `scale`: the factor of each token in the sum, for example mask / number of real tokens.
    - `log_odds`: subtracted from the logit at z, for posterior logits: $\log(1 + \alpha_t / b_t(z))$.
    - `dtype`: the dtype of the products, as under autocast; gradients of the projection are summed in at least float32.
    - `rows`: the number of tokens per block; only their logits have the size of the vocabulary. By default 256 on a CPU,
      and otherwise so many that their logits take 256 MiB in float32.

    **Returns:** the scaled sum, and the detached value of each token.

    **Raises:** `ValueError` as for `nelbo`; if the projection does not match the hidden states or the vocabulary, or the
    process has learned parameters, whose gradients this function does not compute.
    """
    process.accept_weight(scale)  # of a process with one rate into a token
    _check_projection(process, hidden, projection, bias, dtype)
    t = check_inputs(process, hidden, x, z, t, weight=weight, more=(scale,) if log_odds is None else (scale, log_odds))
    rows = default_rows(projection) if rows is None else require_count("rows", rows)
    if torch.is_grad_enabled() and any(p.requires_grad for p in process.parameters()):
        raise ValueError(
            "the process must not have learned parameters here; use `nelbo`, which computes their gradients"
        )
    known = _Known(
        scalars(process, x, z, t, weight),
        noise_on_data(process, z, t),
        process.off_support(),
        scale.reshape(-1),
        None if log_odds is None else log_odds.reshape(-1),
        process.vocab_size,
    )
    dtype = hidden.dtype if dtype is None else dtype
    return _FusedNelbo.apply(hidden, projection, bias, known, dtype, rows, torch.is_grad_enabled())


def default_rows(projection: Float[Tensor, "outputs width"]) -> int:
    """The number of tokens per block that suits the device of a projection."""
    if projection.device.type == "cpu":
        return ROWS
    return max(1, DEVICE_CHUNK_BYTES // (4 * projection.shape[0]))


def _check_projection(
    process: "InterpolatingProcess", hidden: Tensor, projection: Tensor, bias: Tensor | None, dtype: torch.dtype | None
) -> None:
    states, width = process.vocab_size, hidden.shape[-1]
    if projection.dim() != 2 or projection.shape[0] < states:
        raise ValueError(f"the projection must have at least {states} rows; got {projection.shape[0]}")
    outputs = projection.shape[0]
    if projection.shape[1] != width or (bias is not None and bias.shape != (outputs,)):
        came = f"{list(projection.shape)} and {None if bias is None else list(bias.shape)}"
        raise ValueError(f"projection and bias must have shape [{outputs}, {width}] and [{outputs}]; got {came}")
    if dtype is None and not hidden.dtype == projection.dtype == (projection if bias is None else bias).dtype:
        came = f"{hidden.dtype}, {projection.dtype}{'' if bias is None else f' and {bias.dtype}'}"
        raise ValueError(f"hidden states, projection and bias must have one dtype; got {came}")


class _Known(NamedTuple):
    """What is known of the tokens without the network."""

    tokens: TokenTerms
    noise: NoiseOnData | None
    off: Tensor | None
    scale: Tensor
    log_odds: Tensor | None
    states: int


class _FusedNelbo(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx,
        hidden: Tensor,
        projection: Tensor,
        bias: Tensor | None,
        known: _Known,
        dtype: torch.dtype,
        rows: int,
        with_grad: bool,
    ) -> tuple[Tensor, Tensor]:
        with torch.autocast(hidden.device.type, enabled=False):
            needed = tuple(with_grad and needs for needs in ctx.needs_input_grad[:3])
            loss, grads = _blocks(hidden.flatten(0, -2), projection, bias, known, dtype, rows, needed)
        given = (hidden, projection, bias)
        ctx.grads = [g if g is None or v is None else g.view_as(v) for g, v in zip(grads, given, strict=True)]
        values = loss.view(hidden.shape[:-1]).to(torch.promote_types(hidden.dtype, torch.float32))
        ctx.mark_non_differentiable(values)
        total = torch.where(known.scale == 0, 0, loss * known.scale).sum()
        return total.to(values.dtype), values

    @staticmethod
    @once_differentiable
    def backward(ctx, upstream: Tensor, _):
        grads, ctx.grads = ctx.grads, None
        if grads is None:
            raise RuntimeError("nelbo_fused keeps its gradients for one backward pass; call it again for another")
        return *(g if g is None else g.mul_(upstream) for g in grads), None, None, None, None


def _blocks(
    hidden: Tensor,
    projection: Tensor,
    bias: Tensor | None,
    known: _Known,
    dtype: torch.dtype,
    rows: int,
    needed: tuple[bool, ...],
) -> tuple[Tensor, list[Tensor | None]]:
    """The bound of each token [n], and the gradients that are needed, each of the dtype of what it belongs to."""
    tokens, noise, off, scale, log_odds, states = known
    n, chunk = len(hidden), chunk_bytes_of(hidden.device)
    h, weight = hidden.to(dtype), projection.to(dtype)
    more = None if bias is None else bias.to(dtype)
    # Summed over blocks in at least float32, because bfloat16 would lose a per cent or more.
    exact = torch.promote_types(projection.dtype, torch.float32)
    grad_h = torch.empty_like(h) if needed[0] else None
    grad_projection = torch.zeros_like(projection, dtype=exact) if needed[1] else None
    grad_bias = torch.zeros_like(projection[:, 0], dtype=exact) if needed[2] else None
    # The scale is a factor of the gradient, not of the value of a token.
    scaled = tokens._replace(w=tokens.w * scale)
    if noise is not None:
        noise = noise.prepared(torch.promote_types(dtype, torch.float32))
    lse, kl_sum = torch.empty(2, n, dtype=torch.float64, device=h.device)
    ends = torch.empty(n, 2, dtype=torch.float64, device=h.device)
    block = h.new_empty(min(rows, n), len(projection))
    for i, j in noise.spans(n, rows) if noise is not None else spans(n, rows):
        outputs = block[: j - i]
        if more is None:
            torch.mm(h[i:j], weight.T, out=outputs)
        else:
            torch.addmm(more, h[i:j], weight.T, out=outputs)
        logits = outputs[:, :states]
        if log_odds is not None:
            logits.scatter_add_(-1, tokens.z[i:j, None], -log_odds[i:j, None].to(dtype))
        # The gradient takes the place of the logits.
        grad = logits if any(needed) else None
        window = noise and noise.window(i, j)
        ends[i:j], lse[i:j], kl_sum[i:j] = sums_of(logits, scaled.rows(i, j), window, off, grad, chunk)
        if len(projection) > states:
            outputs[:, states:].zero_()
        if grad_h is not None:
            torch.mm(outputs, weight, out=grad_h[i:j])
        if grad_projection is not None:
            if exact == dtype:
                grad_projection.addmm_(outputs.T, h[i:j])
            else:  # in parts, because a product of low precision has no place to be added to
                for first, last in spans(len(projection), max(1, 4 * chunk // (h.shape[1] * h.element_size()))):
                    grad_projection[first:last] += outputs[:, first:last].T @ h[i:j]
        if grad_bias is not None:
            grad_bias += outputs.sum(0, dtype=exact)
    grads = (grad_h, hidden), (grad_projection, projection), (grad_bias, bias)
    return tokens.value(ends, lse, kl_sum), [g if g is None or v is None else g.to(v.dtype) for g, v in grads]
