"""The integrand of the negative ELBO, by the fastest method for the process."""

from typing import TYPE_CHECKING

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from ..numerics import require_count
from ..typing import Logits, PerToken, Times, Tokens
from .definition import nelbo_dense
from .native.rows import NativeRows, serves
from .streaming import CHUNK_BYTES, SMALLEST_SIGNAL, chunk_bytes_of, stream, write_gradient
from .tokens import NoiseOnData, TokenTerms, check_inputs, check_width, noise_on_data, scalars
from .traced import traced

if TYPE_CHECKING:
    from ..process import InterpolatingProcess, NoiseProcess


def nelbo(
    process: "NoiseProcess",
    logits: Logits,
    x: Tokens,
    z: Tokens,
    t: Times,
    *,
    weight: PerToken | None = None,
    chunk_bytes: int | None = None,
) -> PerToken:
    r"""The integrand of the negative ELBO at time t, for each token, in nats per unit of time.

    $$w_t(z, x)\,\big( KL(q_t(\cdot \mid x)\,\|\,q_t(\cdot \mid \hat x)) + IS(q_t(z \mid x), q_t(z \mid \hat x)) \big),
    \qquad \hat x = \mathrm{softmax}(logits)$$

    Its mean over uniform t and $z \sim q_t(\cdot \mid x)$ bounds $-\log p(x)$ per token; for the exact leave-one-out
    prediction it is an equality. The gradient with respect to the logits is computed in closed form and stored for one
    backward pass. For a process with learned parameters, the dense definition is used, so that gradients reach them. If
    the rate into a token depends on the token left, the bound is a sum over all jumps (`nelbo_by_token`). Under
    `torch.compile` the same sums are plain operations that the compiler can fuse.

    **Arguments:**

    - `logits`: leave-one-out logits; tokens outside the support are ignored.
    - `x`, `z`: clean tokens, and noisy ones drawn at `t`. An impossible z is not checked and gives NaN.
    - `t`: in the domain of the process, [batch] or [batch, length]; on a GPU, which a check would stall, the result is NaN
      elsewhere.
    - `weight`: replaces $w_t(z, x)$ (`process.elbo_weight`) in a reweighted objective; non-negative.
    - `chunk_bytes`: the size of a work buffer; by default 4 MiB on a CPU, for its cache, and 256 MiB on other devices, for
      few operations.

    **Returns:** nats per unit of time in the dtype of the logits, at least float32; NaN for logits that are NaN or
    infinite, and where x cannot have become z.

    **Raises:** `ValueError` if the logits do not match the vocabulary size, shapes do not match, or a weight is given
    for a process without a single weight per token (`TokenDependentProcess`); on the CPU also for times outside the domain,
    tokens outside the vocabulary, and negative weights. Logits that are NaN are passed on.

    **Source:** for GIDD, von Ruette et al. (2025), arXiv 2503.04482, theorem 3.7; the weight of any process and the
    closed form are derived on the theory page.

    **Example:**

    ```python
    import torch
    import noiselab as nl

    process = nl.masked(vocab_size=3, mask_id=2)
    x, z, t = torch.tensor([[0]]), torch.tensor([[2]]), torch.tensor([0.5])
    loss = nl.nelbo(process, torch.zeros(1, 1, 3), x, z, t)
    assert torch.isclose(loss, torch.tensor(2.0).log() / 0.5)  # the masked cross-entropy over t
    ```
    """
    check_width(process, logits)
    t = check_inputs(process, logits, x, z, t, weight=weight)
    chunk_bytes = chunk_bytes_of(logits.device) if chunk_bytes is None else require_count("chunk_bytes", chunk_bytes)
    return process.nelbo(logits, x, z, t, weight=weight, chunk_bytes=chunk_bytes)


def nelbo_streamed(
    process: "InterpolatingProcess",
    logits: Logits,
    x: Tokens,
    z: Tokens,
    t: Times,
    *,
    weight: PerToken | None = None,
    chunk_bytes: int = CHUNK_BYTES,
) -> PerToken:
    """`nelbo` of a process with factored noise, in a few passes; arguments as for `nelbo`."""
    if torch.is_grad_enabled() and any(p.requires_grad for p in process.parameters()):
        return nelbo_dense(process, logits, x, z, t, weight=weight)
    tokens = scalars(process, x, z, t, weight)
    if torch.compiler.is_compiling():
        return traced(process, logits, tokens, z, t)
    noise, off = noise_on_data(process, z, t), process.off_support()
    if serves(logits, noise):
        return _NativeNelbo.apply(logits, tokens, noise, off)
    return _Nelbo.apply(logits, tokens, noise, off, chunk_bytes)


class _NativeNelbo(torch.autograd.Function):
    """The compiled sums; the exponentials are computed again for the gradient, which is faster than storing them."""

    @staticmethod
    def forward(ctx, logits: Tensor, tokens: TokenTerms, noise: NoiseOnData | None, off: Tensor | None) -> Tensor:
        flat = logits.flatten(0, -2)
        noise = None if noise is None else noise.prepared(flat.dtype)
        ctx.rows = NativeRows(flat, tokens.a.clamp(min=SMALLEST_SIGNAL), noise, off)
        ctx.tokens, ctx.ends = tokens, tokens.ends(flat)
        ctx.save_for_backward(logits)
        return tokens.value(ctx.ends, ctx.rows.lse, ctx.rows.kl).view(logits.shape[:-1]).to(logits.dtype)

    @staticmethod
    @once_differentiable
    def backward(ctx, upstream: Tensor):
        (logits,) = ctx.saved_tensors
        grad = torch.empty_like(logits, memory_format=torch.contiguous_format)
        factor = ctx.tokens.w * upstream.reshape(-1)
        write_gradient(ctx.rows, logits.flatten(0, -2), ctx.tokens, ctx.ends, factor, grad.flatten(0, -2))
        return grad, None, None, None


class _Nelbo(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx, logits: Tensor, tokens: TokenTerms, noise: NoiseOnData | None, off: Tensor | None, chunk_bytes: int
    ) -> Tensor:
        flat = logits.flatten(0, -2)
        ctx.grad = torch.empty_like(flat) if ctx.needs_input_grad[0] else None
        loss = stream(flat, tokens, noise, off, ctx.grad, chunk_bytes)
        # In the working dtype of the logits: a float64 upstream gradient would make the backward pass many times
        # slower.
        return loss.view(logits.shape[:-1]).to(torch.promote_types(logits.dtype, torch.float32))

    @staticmethod
    @once_differentiable
    def backward(ctx, upstream: Tensor):
        # Scaled in place and released, because a copy would double the peak memory.
        grad, ctx.grad = ctx.grad, None
        if grad is None:
            raise RuntimeError("nelbo keeps its gradient for one backward pass; call it again for another")
        return grad.mul_(upstream.reshape(-1, 1)).view(*upstream.shape, -1), None, None, None, None
