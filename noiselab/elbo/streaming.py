"""The bound and its closed-form gradient in a few passes over chunks of rows that stay in cache.

Scalars of a token are float64; the sums over the vocabulary run in the dtype of the logits, at least float32. Besides
the gradient, only three work buffers of `CHUNK_BYTES` are held.
"""

from collections.abc import Iterator

import torch
from torch import Tensor

from .tokens import NoiseOnData, Tokens

CHUNK_BYTES = 1 << 22  # of one work buffer: smaller ones cost more in small operations than their better caching saves


def stream(
    logits: Tensor,
    tokens: Tokens,
    noise: NoiseOnData | None,
    off: Tensor | None,
    grad: Tensor | None,
    chunk_bytes: int = CHUNK_BYTES,
) -> Tensor:
    """The integrand for every row [n], float64; its gradient is written to `grad` [n, state] where that is given."""
    n, states = logits.shape
    dtype = torch.promote_types(logits.dtype, torch.float32)
    step = max(1, min(n, chunk_bytes // (states * dtype.itemsize)))
    work = [torch.empty(step, states, dtype=dtype, device=logits.device) for _ in range(3)]
    in_place = grad is not None and grad.dtype == dtype
    lse, kl_sum = torch.empty(2, n, dtype=torch.float64, device=logits.device)
    for i, j in _spans(noise, n, step):
        e, v, r = (buffer[: j - i] for buffer in work)
        if in_place:
            assert grad is not None
            e = grad[i:j]
        b = None if noise is None else noise.rows(i, j, dtype)
        lse[i:j], kl_sum[i:j] = _chunk(logits[i:j], tokens.rows(i, j), b, off, e, v, r, grad is not None)
        if grad is not None and not in_place:
            grad[i:j] = e
    return tokens.value(logits, lse, kl_sum)


def _spans(noise: NoiseOnData | None, n: int, step: int) -> Iterator[tuple[int, int]]:
    if noise is not None:
        return noise.spans(n, step)
    return ((i, min(i + step, n)) for i in range(0, n, step))


def _chunk(
    logits: Tensor,
    tokens: Tokens,
    b: Tensor | None,
    off: Tensor | None,
    e: Tensor,
    v: Tensor,
    r: Tensor,
    with_grad: bool,
) -> tuple[Tensor, Tensor]:
    """The logsumexp over the data and sum_S b log1p(a u / b) of a few rows; the gradient is left in `e`.

    `v` and `r` are scratch: fresh memory for each operation would cost more than the arithmetic.
    """
    z_sum, lse = _exponentials(logits, off, e)
    scale = tokens.a / z_sum  # a u = scale * e
    if b is None:
        kl_sum, spread = torch.zeros_like(lse), torch.zeros_like(lse)
    elif b.shape[-1] == 1:
        # Noise is constant over the data: every factor is a column, and e becomes s = a u / b.
        kl_sum = _sum_log1p(e.mul_(scale.to(e.dtype)[:, None] / b), v) * b[:, 0]
        torch.add(e, 1, out=v)
        torch.div(e, v, out=v)  # h
        spread = v.sum(-1).double() * b[:, 0]
    else:
        torch.mul(e, scale.to(e.dtype)[:, None], out=v)
        log = torch.log1p(v.div_(b), out=r)
        kl_sum = (torch.mv(log, b[0]) if len(b) == 1 else log.mul_(b).sum(-1)).double()
        torch.div(e, v.add_(1), out=v)  # b h = scale * v
        spread = v.sum(-1).double() * scale
    if with_grad:
        _gradient(logits, tokens, lse, spread, scale, b, e, v)
    return lse, kl_sum


def _exponentials(logits: Tensor, off: Tensor | None, e: Tensor) -> tuple[Tensor, Tensor]:
    """exp(logits - their largest) over the data into `e`; returns its sum and the logsumexp, float64."""
    if off is None:
        top = logits.amax(-1, keepdim=True).to(e.dtype)
        torch.sub(logits, top, out=e)
    else:
        # Excluded before the largest is taken, so that a huge logit of an impossible token cannot underflow the rest.
        e.copy_(logits).index_fill_(-1, off, -torch.inf)
        top = e.amax(-1, keepdim=True)
        e.sub_(top)
    z_sum = e.exp_().sum(-1).double()
    return z_sum, top[:, 0].double() + z_sum.log()


def _sum_log1p(s: Tensor, v: Tensor) -> Tensor:
    """The sum of log1p(s), by pairs (1 + p)(1 + q) = 1 + (p + q + p q): half the logarithms, small s stay exact."""
    half = s.shape[-1] // 2
    p, q, tail, v = s[:, :half], s[:, half : 2 * half], s[:, 2 * half :], v[:, :half]
    torch.addcmul(p, p, q, out=v)
    return v.add_(q).log1p_().sum(-1).double() + tail.log1p().sum(-1).double()


def _gradient(
    logits: Tensor, tokens: Tokens, lse: Tensor, spread: Tensor, scale: Tensor, b: Tensor | None, e: Tensor, v: Tensor
) -> None:
    """W (H u - b h - a h_x e_x - (rho - 1) h_z e_z) into `e`."""
    at_x, at_z = tokens.corners(logits, lse)
    w_h, w = tokens.w * (spread + at_x + at_z), tokens.w

    def column(value: Tensor) -> Tensor:
        return value.to(e.dtype)[:, None]

    if b is None:
        e.mul_(column(w_h * scale / tokens.a))
    elif b.shape[-1] == 1:
        e.mul_(column(w_h / tokens.a) * b).addcmul_(v, column(-w) * b)
    else:
        e.mul_(column(w_h * scale / tokens.a)).addcmul_(v, column(-w * scale))
    e.scatter_add_(-1, torch.stack([tokens.x, tokens.z], -1), (-w * torch.stack([at_x, at_z])).T.to(e.dtype))
