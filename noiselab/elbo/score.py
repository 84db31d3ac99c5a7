r"""Score entropy: the bound for a network that predicts ratios of probabilities instead of clean tokens.

Scores of an $\hat x$ give exactly `nelbo`. With $r$ the rate into z, $q_y = q_t(y \mid x)$ and $w = r / q_z$ it is

    w ( q_z sum_{y != z} s_y - sum_{y != z} q_y (1 + log s_y + log q_z - log q_y) )

and q differs from the noise b only at x, so that the sums are over the noise, which is common to all tokens, and the
clean token is a scalar correction.
"""

from typing import TYPE_CHECKING

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from ..numerics import require_count
from ..typing import Logits, PerToken, Times, Tokens
from .streaming import CHUNK_BYTES
from .tokens import check_inputs

if TYPE_CHECKING:
    from ..process import InterpolatingProcess, NoiseProcess


def score_entropy(
    process: "NoiseProcess",
    log_scores: Logits,
    x: Tokens,
    z: Tokens,
    t: Times,
    *,
    weight: PerToken | None = None,
    chunk_bytes: int = CHUNK_BYTES,
) -> PerToken:
    r"""The denoising score entropy at time t, for each token, in nats per unit of time.

    $$\sum_{y \ne z} R_t(y, z) \Big[ s_y - \rho_y \log s_y + K(\rho_y) \Big], \qquad
    \rho_y = \frac{q_t(y \mid x)}{q_t(z \mid x)}, \quad K(a) = a\,(\log a - 1)$$

    Its mean over uniform t and $z \sim q_t(\cdot \mid x)$ bounds $-\log p(x)$ per token, as `nelbo` does, for any
    positive scores; the exact ratios $p_t(z^{i \to y}) / p_t(z)$ minimise it. For scores that belong to a prediction
    $\hat x$ (`to_score`) it equals `nelbo`. It takes one pass over the scores and computes the gradient in closed form,
    stored for one backward pass. For processes with learned parameters or state-dependent corruption, and under
    `torch.compile`, the definition is used.

    **Arguments:**

    - `log_scores`: $\log s_y$ for every token y, masks included; the entry at z is not read.
    - `x`, `z`: clean tokens, and noisy ones drawn at `t`. An impossible z is not checked and gives NaN.
    - `t`: in [0, 1], [batch] or [batch, length].
    - `weight`: replaces $w_t(z, x) = R_t / q_t(z \mid x)$ in a reweighted objective, as in `nelbo`.
    - `chunk_bytes`: the size of a work buffer.

    **Returns:** nats per unit of time in the dtype of the scores, at least float32.

    **Raises:** `ValueError` if shapes do not match, or a weight is given for a process without a single weight per
    token; on the CPU as for `nelbo`.

    **Source:** Lou et al. (2024), "Discrete Diffusion Modeling by Estimating the Ratios of the Data Distribution", arXiv
    2310.16834, the diffusion-weighted denoising score entropy.

    **Example:**

    ```python
    import torch
    import noiselab as nl

    process = nl.uniform(vocab_size=3)
    x, z, t = torch.tensor([[0, 1]]), torch.tensor([[0, 2]]), torch.tensor([0.5])
    logits = torch.randn(1, 2, 3, dtype=torch.float64)
    scores = nl.parametrization.to_score(process, logits[0], z[0], t.expand(2))[None]
    torch.testing.assert_close(nl.elbo.score_entropy(process, scores, x, z, t), nl.nelbo(process, logits, x, z, t))
    ```
    """
    if log_scores.shape[-1] != process.vocab_size:
        raise ValueError(f"scores must have the width of the process, {process.vocab_size}; got {log_scores.shape[-1]}")
    t = check_inputs(process, log_scores, x, z, t, weight=weight)
    require_count("chunk_bytes", chunk_bytes)
    return process.score_entropy(log_scores, x, z, t, weight=weight, chunk_bytes=chunk_bytes)


def score_entropy_streamed(
    process: "InterpolatingProcess",
    log_scores: Logits,
    x: Tokens,
    z: Tokens,
    t: Times,
    *,
    weight: PerToken | None = None,
    chunk_bytes: int = CHUNK_BYTES,
) -> PerToken:
    """`score_entropy` of a process with factored noise, in one pass; arguments as for `score_entropy`."""
    learned = torch.is_grad_enabled() and any(p.requires_grad for p in process.parameters())
    if learned or torch.compiler.is_compiling():
        return score_entropy_dense(process, log_scores, x, z, t, weight=weight)
    return _ScoreEntropy.apply(log_scores, process, x, z, process.interior(t, z), weight, chunk_bytes)


def score_entropy_dense(
    process: "NoiseProcess", log_scores: Logits, x: Tokens, z: Tokens, t: Times, *, weight: PerToken | None = None
) -> PerToken:
    """The score entropy by its definition, for any process: dense and differentiable in all inputs.

    **Arguments:** and **Raises:** as for `score_entropy`.
    """
    t, at_z = process.interior(t, z), z[..., None]
    q = process.marginal(x, t)
    q_z = q.gather(-1, at_z)
    process.accept_weight(weight)
    rate = process.rate(z, t) if weight is None else (weight[..., None] * q_z).expand(q.shape).scatter(-1, at_z, 0)
    log_s = log_scores.double().scatter(-1, at_z, 0)
    ratio = q / q_z
    some = ratio > 0  # a ratio of 0 with a score of 0 would give 0 log 0
    safe, log_s_safe = torch.where(some, ratio, 1), torch.where(some, log_s, 0)
    term = log_s.exp() + torch.where(some, safe * (safe.log() - 1 - log_s_safe), 0)
    # Scores of tokens without jumps to z do not contribute.
    value = torch.where(rate <= 0, 0, rate * term).sum(-1)
    return value.to(torch.promote_types(log_scores.dtype, torch.float32))


class _ScoreEntropy(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx,
        log_scores: Tensor,
        process: "InterpolatingProcess",
        x: Tensor,
        z: Tensor,
        t: Tensor,
        weight: Tensor | None,
        chunk_bytes: int,
    ) -> Tensor:
        dtype = torch.promote_types(log_scores.dtype, torch.float32)
        alpha, noise = process.alpha(t).double(), process.noise(t)
        b_x, b_z = noise.at(x), noise.at(z)
        q_z = alpha * (x == z) + b_z
        w = process.rate_into(z, t) / q_z if weight is None else weight.double()
        columns = (x, z, alpha, b_x, q_z, w, noise.total() - b_z)
        rows = [column.expand(z.shape).reshape(-1) for column in columns]
        flat, times, shared = log_scores.flatten(0, -2), t.reshape(-1, 1), z.shape[1] // max(1, t.shape[1])
        n, states = flat.shape
        value = torch.empty(n, dtype=torch.float64, device=flat.device)
        ctx.grad = torch.empty_like(flat) if ctx.needs_input_grad[0] else None
        step = max(1, min(n, chunk_bytes // (states * dtype.itemsize)))
        if 1 < shared and step < shared:  # a chunk within one sequence shares one row of noise
            bounds = [(i, min(i + step, j)) for j in range(shared, n + 1, shared) for i in range(j - shared, j, step)]
        else:
            bounds = [(i, min(i + step, n)) for i in range(0, n, step)]
        for i, j in bounds:
            first, last = i // shared, (j - 1) // shared + 1
            b = process.noise(times[first:last]).dense()[:, 0]
            if last - first > 1:
                b = b.repeat_interleave(shared, 0)[i - first * shared :][: j - i]
            part = [row[i:j] for row in rows]
            value[i:j], grad = _chunk(flat[i:j].to(dtype), b.to(dtype), *part, with_grad=ctx.grad is not None)
            if ctx.grad is not None:
                ctx.grad[i:j] = grad
        return value.view(z.shape).to(dtype)

    @staticmethod
    @once_differentiable
    def backward(ctx, upstream: Tensor):
        grad, ctx.grad = ctx.grad, None
        if grad is None:
            raise RuntimeError("score_entropy keeps its gradient for one backward pass; call it again for another")
        return grad.mul_(upstream.reshape(-1, 1)).view(*upstream.shape, -1), *(None,) * 6


def _chunk(
    log_s: Tensor,
    b: Tensor,
    x: Tensor,
    z: Tensor,
    alpha: Tensor,
    b_x: Tensor,
    q_z: Tensor,
    w: Tensor,
    others: Tensor,
    *,
    with_grad: bool,
) -> tuple[Tensor, Tensor]:
    """Value and gradient of a few rows; `others` is the noise on all tokens but z."""
    at_x, at_z, none = x[:, None], z[:, None], b == 0
    moved, log_q_z, log_s_x = x != z, q_z.log(), log_s.gather(-1, at_x)[:, 0].double()
    s = log_s.exp().scatter_(-1, at_z, 0)
    # sum over y of b_y log(s_y / (b_y / q_z)), the noise's part of the ratios: small numbers where the scores are right
    cost = (log_s - (b.masked_fill(none, 1).log() - log_q_z[:, None].to(b))).mul_(b)
    cost = cost.masked_fill_(none, 0).scatter_(-1, at_z, 0).sum(-1).double()
    extra = alpha * (1 + torch.where(moved, log_s_x, 0) + log_q_z)
    extra = extra - torch.special.xlogy(alpha + b_x, alpha + b_x) + torch.special.xlogy(b_x, b_x)
    value = w * (q_z * s.sum(-1).double() - others - cost - torch.where(moved, extra, 0))
    value = torch.where(w == 0, 0, value)
    if with_grad:
        s.mul_((w * q_z).to(s)[:, None]).sub_(w.to(s)[:, None] * b)
        s.scatter_add_(-1, at_x, torch.where(moved, -w * alpha, 0).to(s)[:, None])
        s.scatter_(-1, at_z, 0).masked_fill_((w == 0)[:, None], 0)
    return value, s
