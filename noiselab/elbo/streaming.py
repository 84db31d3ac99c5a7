"""The bound and its closed-form gradient in a few passes over chunks of rows that fit into the cache.

Scalars of a token are float64; sums over the vocabulary use the dtype of the logits, at least float32. Besides the
gradient, only three work buffers of `CHUNK_BYTES` are allocated.
"""

from collections.abc import Iterator
from typing import NamedTuple

import torch
from torch import Tensor

from .tokens import NoiseOnData, TokenTerms

CHUNK_BYTES = (
    1 << 22
)  # size of a work buffer; with smaller ones, the overhead of operations exceeds the benefit of the cache


def stream(
    logits: Tensor,
    tokens: TokenTerms,
    noise: NoiseOnData | None,
    off: Tensor | None,
    grad: Tensor | None,
    chunk_bytes: int = CHUNK_BYTES,
) -> Tensor:
    """The integrand for every row [n], float64; its gradient is written to `grad` [n, state] if given."""
    n, states = logits.shape
    dtype = torch.promote_types(logits.dtype, torch.float32)
    step = max(1, min(n, chunk_bytes // (states * dtype.itemsize)))
    work = [torch.empty(step, states, dtype=dtype, device=logits.device) for _ in range(3)]
    if noise is not None:
        noise = noise.prepared(dtype)
    in_place = grad is not None and grad.dtype == dtype
    lse, kl_sum = torch.empty(2, n, dtype=torch.float64, device=logits.device)
    for i, j in noise.spans(n, step) if noise is not None else spans(n, step):
        e, v, r = (buffer[: j - i] for buffer in work)
        if in_place:
            assert grad is not None
            e = grad[i:j]
        piece = None if noise is None else noise.window(i, j)
        lse[i:j], kl_sum[i:j] = _chunk(logits[i:j], tokens.rows(i, j), piece, off, e, v, r, grad is not None)
        if grad is not None and not in_place:
            grad[i:j] = e
    return tokens.value(logits, lse, kl_sum)


def spans(n: int, step: int) -> Iterator[tuple[int, int]]:
    """Ranges of at most `step` rows that cover n rows."""
    return ((i, min(i + step, n)) for i in range(0, n, step))


def _chunk(
    logits: Tensor,
    tokens: TokenTerms,
    noise: NoiseOnData | None,
    off: Tensor | None,
    e: Tensor,
    v: Tensor,
    r: Tensor,
    with_grad: bool,
) -> tuple[Tensor, Tensor]:
    """The logsumexp over the data and sum_S b log1p(a u / b) of a few rows; the gradient is left in `e`.

    `v` and `r` are scratch buffers: allocating memory for each operation would cost more than the arithmetic.
    """
    z_sum, lse = _exponentials(logits, off, e)
    # a u = scale * e. Clamped, because the noise is divided by the signal even where it is 0.
    a = tokens.a.clamp(min=1e-30)
    scale = a / z_sum
    if noise is None:
        sums = _Sums(torch.zeros_like(lse), torch.zeros_like(lse), scale, None)
    elif noise.level is not None and noise.constant:
        sums = _over_column(noise.level, scale, e, v)
    elif (product := noise.product(e.dtype)) is not None:
        sums = _over_product(*product, scale, e, v, r)
    else:
        sums = _over_rows(noise, scale, e, v, r)
    if with_grad:
        _gradient(logits, tokens, lse, a, sums, e, v)
    return lse, sums.kl


class _Sums(NamedTuple):
    """The sums over the data of a few rows; `e` and `v` are left such that a u = e * au_of_e and b h = v * bh_of_v."""

    kl: Tensor  # sum_S b log1p(a u / b)
    spread: Tensor  # sum_S b h
    au_of_e: Tensor
    bh_of_v: Tensor | None  # without noise there is no b h


def _over_column(b: Tensor, scale: Tensor, e: Tensor, v: Tensor) -> _Sums:
    """For noise that is constant over the data: every factor is a column, and e becomes s = a u / b."""
    kl = _sum_log1p(e.mul_((scale / b).to(e.dtype)[:, None]), v) * b
    torch.add(e, 1, out=v)
    torch.div(e, v, out=v)  # h
    return _Sums(kl, v.sum(-1).double() * b, b, b)


def _over_product(column: Tensor, row: Tensor, scale: Tensor, e: Tensor, v: Tensor, r: Tensor) -> _Sums:
    """For noise that is one row at all times, up to a factor; no tensor of its size is allocated."""
    torch.mul(e, (scale / column).to(e.dtype)[:, None], out=v)
    log = torch.log1p(v.div_(row), out=r)
    kl = torch.mv(log, row).double() * column
    torch.div(e, v.add_(1), out=v)
    return _Sums(kl, v.sum(-1).double() * scale, scale, scale)


def _over_rows(noise: NoiseOnData, scale: Tensor, e: Tensor, v: Tensor, b: Tensor) -> _Sums:
    """For any other noise; b / scale is computed in `b`."""
    noise.over(scale, e.dtype, out=b)
    kl = torch.div(e, b, out=v).log1p_().mul_(b).sum(-1).double() * scale
    torch.div(b, torch.add(e, b, out=v), out=v).mul_(e)
    return _Sums(kl, v.sum(-1).double() * scale, scale, scale)


def _exponentials(logits: Tensor, off: Tensor | None, e: Tensor) -> tuple[Tensor, Tensor]:
    """exp(logits - their largest) over the data into `e`; returns its sum and the logsumexp, float64."""
    if off is None:
        top = logits.amax(-1, keepdim=True).to(e.dtype)
        torch.sub(logits, top, out=e)
    else:
        # Excluded before taking the maximum, so that a large logit of an impossible token cannot underflow the others.
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


def _gradient(logits: Tensor, tokens: TokenTerms, lse: Tensor, a: Tensor, sums: _Sums, e: Tensor, v: Tensor) -> None:
    """W (H u - b h - a h_x e_x - (rho - 1) h_z e_z) into `e`."""
    at_x, at_z = tokens.corners(logits, lse)

    def column(value: Tensor) -> Tensor:
        return value.to(e.dtype)[:, None]

    e.mul_(column(tokens.w * (sums.spread + at_x + at_z) * sums.au_of_e / a))
    if sums.bh_of_v is not None:
        e.addcmul_(v, column(-tokens.w * sums.bh_of_v))
    e.scatter_add_(-1, torch.stack([tokens.x, tokens.z], -1), (-tokens.w * torch.stack([at_x, at_z])).T.to(e.dtype))
