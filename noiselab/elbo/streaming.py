"""The bound and its closed-form gradient in a few passes over chunks of rows: on a CPU, of a size that fits into its cache.

Scalars of a token are float64; sums over the vocabulary use the dtype of the logits, at least float32. Besides the
gradient, only two or three work buffers of the size of a chunk are allocated.
"""

from collections.abc import Iterator
from typing import NamedTuple

import torch
from torch import Tensor

from .native.rows import NativeRows, serves
from .tokens import NoiseOnData, TokenTerms

SMALLEST_SIGNAL = 1e-30
"""Lower limit of the signal, by which the noise is divided even where it is 0."""
CHUNK_BYTES = 1 << 22
"""Size of a work buffer on a CPU; with smaller ones, the overhead of operations exceeds the benefit of the cache."""
DEVICE_CHUNK_BYTES = 1 << 28
"""Size of a work buffer on an accelerator, where the number of operations counts: some 60 for each chunk, whose size does
not affect their speed once it fills the device.
"""


def chunk_bytes_of(device: torch.device) -> int:
    """The size of a work buffer on a device."""
    return CHUNK_BYTES if device.type == "cpu" else DEVICE_CHUNK_BYTES


def stream(
    logits: Tensor,
    tokens: TokenTerms,
    noise: NoiseOnData | None,
    off: Tensor | None,
    grad: Tensor | None,
    chunk_bytes: int = CHUNK_BYTES,
) -> Tensor:
    """The integrand for every row [n], float64; its gradient is written to `grad` [n, state] if given.

    **Arguments:**

    - `logits`, `tokens`, `noise`, `off`: the rows, what else is known of them, and the tokens outside the support.
    - `chunk_bytes`: the size of a work buffer.
    """
    if noise is not None:
        noise = noise.prepared(torch.promote_types(logits.dtype, torch.float32))
    return tokens.value(*sums_of(logits, tokens, noise, off, grad, chunk_bytes))


def sums_of(
    logits: Tensor,
    tokens: TokenTerms,
    noise: NoiseOnData | None,
    off: Tensor | None,
    grad: Tensor | None,
    chunk_bytes: int,
) -> tuple[Tensor, Tensor, Tensor]:
    """What `TokenTerms.value` needs of the logits of every row: those at x and z, their logsumexp, and the sum over S.

    **Arguments:** as for `stream`, with prepared noise; `grad` may be the logits themselves, which are then overwritten.
    """
    n, states = logits.shape
    dtype = torch.promote_types(logits.dtype, torch.float32)
    if serves(logits, noise):
        return _native(logits, tokens, noise, off, grad)
    step = max(1, min(n, chunk_bytes // (states * dtype.itemsize)))
    in_place = grad is not None and grad.dtype == dtype

    def buffer(needed: bool) -> Tensor:
        return torch.empty(step if needed else 0, states, dtype=dtype, device=logits.device)

    work = buffer(not in_place), buffer(True), buffer(noise is not None and not noise.constant)
    ends = tokens.ends(logits)
    lse, kl_sum = torch.empty(2, n, dtype=torch.float64, device=logits.device)
    for i, j in noise.spans(n, step) if noise is not None else spans(n, step):
        e, v, r = (part[: j - i] for part in work)
        if grad is not None and in_place:
            e = grad[i:j]
        piece = None if noise is None else noise.window(i, j)
        chunk = logits[i:j], tokens.rows(i, j), piece, off, ends[i:j]
        lse[i:j], kl_sum[i:j] = _chunk(*chunk, e, v, r, grad is not None)
        if grad is not None and not in_place:
            grad[i:j] = e
    return ends, lse, kl_sum


def _native(
    logits: Tensor, tokens: TokenTerms, noise: NoiseOnData | None, off: Tensor | None, grad: Tensor | None
) -> tuple[Tensor, Tensor, Tensor]:
    """What `sums_of` gives, from the compiled sums."""
    ends = tokens.ends(logits)
    rows = NativeRows(logits, tokens.a.clamp(min=SMALLEST_SIGNAL), noise, off)
    if grad is not None:
        write_gradient(rows, logits, tokens, ends, tokens.w, grad)
    return ends, rows.lse, rows.kl


def write_gradient(
    rows: NativeRows, logits: Tensor, tokens: TokenTerms, ends: Tensor, factor: Tensor, grad: Tensor
) -> None:
    """The gradient with respect to the logits, of each row times a factor, from the compiled sums; `grad` may be the logits."""
    at_x, at_z = tokens.corners(ends, rows.lse)
    rows.write_gradient(logits, factor * (rows.spread + at_x + at_z), factor, grad)
    corners = (-factor * torch.stack([at_x, at_z])).T.to(grad.dtype)
    grad.scatter_add_(-1, torch.stack([tokens.x, tokens.z], -1), corners)


def spans(n: int, step: int) -> Iterator[tuple[int, int]]:
    """Ranges of at most `step` rows that cover n rows."""
    return ((i, min(i + step, n)) for i in range(0, n, step))


def _chunk(
    logits: Tensor,
    tokens: TokenTerms,
    noise: NoiseOnData | None,
    off: Tensor | None,
    ends: Tensor,
    e: Tensor,
    v: Tensor,
    r: Tensor,
    with_grad: bool,
) -> tuple[Tensor, Tensor]:
    """The logsumexp over the data and sum_S b log1p(a u / b) of a few rows; the gradient is left in `e`.

    `v` and `r` are scratch buffers: allocating memory for each operation would cost more than the arithmetic.
    """
    lse = _probabilities(logits, off, e, v)
    a = tokens.a.clamp(min=SMALLEST_SIGNAL)
    if noise is None:
        sums = _Sums(torch.zeros_like(lse), torch.zeros_like(lse), a, None)
    elif noise.level is not None and noise.constant:
        sums = _over_column(noise.level, a, e, v)
    elif (product := noise.product(e.dtype)) is not None:
        sums = _over_product(*product, a, e, v, r)
    else:
        sums = _over_rows(noise, a, e, v, r)
    if with_grad:
        _gradient(ends, tokens, lse, a, sums, e, v)
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


def _probabilities(logits: Tensor, off: Tensor | None, u: Tensor, v: Tensor) -> Tensor:
    """The softmax over the data into `u`, which may be the logits, and the logsumexp, float64; `v` is a scratch buffer."""
    if off is not None or u.data_ptr() == logits.data_ptr():
        logits = v.copy_(logits)
    if off is not None:
        # Excluded before taking the maximum, so that a large logit of an impossible token cannot underflow the others.
        logits.index_fill_(-1, off, -torch.inf)
    if logits.dtype == u.dtype:
        torch.softmax(logits, -1, out=u)
    else:
        torch.softmax(logits, -1, dtype=u.dtype, out=u)
    # log u = logit - logsumexp, at the most likely token, where neither rounds to nothing.
    return logits.amax(-1).double() - u.amax(-1).double().log()


def _sum_log1p(s: Tensor, v: Tensor) -> Tensor:
    """The sum of log1p(s), by pairs (1 + p)(1 + q) = 1 + (p + q + p q): half the logarithms, small s stay exact."""
    half = s.shape[-1] // 2
    p, q, tail, v = s[:, :half], s[:, half : 2 * half], s[:, 2 * half :], v[:, :half]
    torch.addcmul(p, p, q, out=v)
    total = v.add_(q).log1p_().sum(-1).double()
    return total + tail.log1p().sum(-1).double() if tail.shape[-1] else total


def _gradient(ends: Tensor, tokens: TokenTerms, lse: Tensor, a: Tensor, sums: _Sums, e: Tensor, v: Tensor) -> None:
    """W (H u - b h - a h_x e_x - (rho - 1) h_z e_z) into `e`."""
    at_x, at_z = tokens.corners(ends, lse)

    def column(value: Tensor) -> Tensor:
        return value.to(e.dtype)[:, None]

    e.mul_(column(tokens.w * (sums.spread + at_x + at_z) * sums.au_of_e / a))
    if sums.bh_of_v is not None:
        e.addcmul_(v, column(-tokens.w * sums.bh_of_v))
    e.scatter_add_(-1, torch.stack([tokens.x, tokens.z], -1), (-tokens.w * torch.stack([at_x, at_z])).T.to(e.dtype))
