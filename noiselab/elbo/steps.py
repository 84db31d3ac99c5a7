r"""The bound in discrete time: the divergence of one reverse step.

$$KL\big(q(z_s \mid z_t, x)\,\|\,q(z_s \mid z_t, \hat x)\big), \qquad
q(z_s \mid z_t, x) = \frac{\big(\alpha_{t \mid s} 1[z_s = z_t] + b_{t \mid s}(z_t)\big)\, q_s(z_s \mid x)}{q_t(z_t \mid x)}$$

The factor in front is the same for x and x_hat. What remains of the logarithm is $q_s(z_s \mid \cdot) / q_t(z_t \mid \cdot)$,
and its mean falls into the divergence at time s and two scalars:

$$KL = \frac{b_{t \mid s}(z)}{q_t(z \mid x)}\, KL\big(q_s(\cdot \mid x)\,\|\,q_s(\cdot \mid \hat x)\big)
  + \frac{\alpha_{t \mid s}\, q_s(z \mid x)}{q_t(z \mid x)} \log\frac{q_s(z \mid x)}{q_s(z \mid \hat x)}
  + \log\frac{q_t(z \mid \hat x)}{q_t(z \mid x)}, \qquad z = z_t$$

so that the streaming pass of `nelbo` can be used.
"""

from typing import TYPE_CHECKING

import torch
from torch import Tensor

from ..numerics import as_token_times, require_count, require_falling
from ..typing import Logits, PerToken, Times, Tokens
from .bound import _Nelbo
from .definition import kl_divergence
from .ends import predicted
from .streaming import CHUNK_BYTES
from .tokens import TokenTerms, check_inputs, check_width, inside, noise_on_data
from .traced import traced

if TYPE_CHECKING:
    from ..process import InterpolatingProcess, NoiseProcess


def step_kl(
    process: "NoiseProcess", logits: Logits, x: Tokens, z: Tokens, s: Times, t: Times, *, chunk_bytes: int = CHUNK_BYTES
) -> PerToken:
    r"""$KL(q(z_s \mid z_t, x)\,\|\,q(z_s \mid z_t, \hat x))$: the bound's term of one reverse step from t to s < t, in
    nats per token.

    Summed over the steps of a grid, each with its own $z \sim q_t(\cdot \mid x)$, and with the end terms added, it
    bounds $-\log p(x)$ of the sampler that takes these steps. For small steps it is (t - s) times `nelbo`. No posterior
    is computed; the gradient with respect to the logits is that of `nelbo` and of two scalars. For a process with
    learned parameters, or without factored noise, the dense definition is used (`step_kl_dense`).

    **Arguments:**

    - `logits`: leave-one-out logits at (z, t); tokens outside the support are ignored.
    - `x`, `z`: clean tokens, and noisy ones drawn at `t`. An impossible z gives NaN.
    - `s`, `t`: 0 <= s <= t <= 1, [batch] or [batch, length]. If no noise is left at s, the term equals `reconstruction`
      at t; if s = t, it is 0.
    - `chunk_bytes`: the size of a work buffer.

    **Returns:** nats per token in the dtype of the logits, at least float32; 0 where z determines x.

    **Raises:** `ValueError` if the logits do not match the vocabulary size, or shapes do not match; on the CPU as for
    `nelbo`, and for s > t.

    **Source:** Sohl-Dickstein et al. (2015), arXiv 1503.03585, and Austin et al. (2021), arXiv 2107.03006, for the bound;
    the form in a few scalars is derived above.

    **Example:**

    ```python
    import torch
    import noiselab as nl

    process = nl.masked(vocab_size=3, mask_id=2)
    x, z, s, t = torch.tensor([[0]]), torch.tensor([[2]]), torch.tensor([0.4]), torch.tensor([0.5])
    loss = nl.elbo.step_kl(process, torch.zeros(1, 1, 3), x, z, s, t)
    assert torch.isclose(loss, torch.tensor(2.0).log() * 0.1 / 0.5)  # unmasked in this step with probability 0.1 / 0.5
    ```
    """
    check_width(process, logits)
    s, t = inside(process, s, z), check_inputs(process, logits, x, z, t)
    require_falling(s, t)
    require_count("chunk_bytes", chunk_bytes)
    return process.step_kl(logits, x, z, s, t, chunk_bytes=chunk_bytes)


def step_kl_streamed(
    process: "InterpolatingProcess",
    logits: Logits,
    x: Tokens,
    z: Tokens,
    s: Times,
    t: Times,
    *,
    chunk_bytes: int = CHUNK_BYTES,
) -> PerToken:
    """`step_kl` of a process with factored noise, without computing a posterior; arguments as for `step_kl`."""
    if torch.is_grad_enabled() and any(p.requires_grad for p in process.parameters()):
        return step_kl_dense(process, logits, x, z, s, t)
    s, t, still = _apart(process, z, s, t)
    x_hat = predicted(process, logits)
    keep, fresh = process.factored_transition(z, s, t)
    q_s, q_t = process.probability(x, z, s), process.probability(x, z, t)
    log_p_s, log_p_t = x_hat.marginal(z, s), x_hat.marginal(z, t)
    stays = keep * q_s / q_t
    # If the token at s cannot have been z, the logarithm may be infinite and has weight 0.
    log_s = torch.where(stays > 0, q_s.log() - log_p_s, 0)
    wide = _divergence(process, logits, x, z, s, chunk_bytes)
    nats = fresh / q_t * wide + stays * log_s + log_p_t - q_t.log()
    rebuilt = log_p_t - q_t.log() - x_hat.at(x)  # the divergence if x is certain at s
    nats = torch.where(process.noise(s).total() > 0, nats, rebuilt)
    nothing = process.is_clean(z, t) | still
    return torch.where(nothing, 0, nats).to(torch.promote_types(logits.dtype, torch.float32))


def step_kl_dense(process: "NoiseProcess", logits: Logits, x: Tokens, z: Tokens, s: Times, t: Times) -> PerToken:
    """The divergence of one reverse step by its definition, from dense posteriors, for any process.

    The reference for tests of `step_kl`; differentiable in all inputs.

    **Arguments:** as for `step_kl`.
    """
    check_width(process, logits)
    s, t = inside(process, s, z), check_inputs(process, logits, x, z, t)
    logits = process.on_support(logits)
    s, t, still = _apart(process, z, s, t)
    nothing = process.is_clean(z, t) | still
    one_hot = process.as_law(x)
    # The posterior is 0/0 if the prediction cannot have become z.
    x_hat = torch.where(nothing[..., None], one_hot, logits.double().softmax(-1))
    q, p = (process.posterior(z, law, s, t) for law in (one_hot, x_hat))
    return torch.where(nothing, 0, kl_divergence(q, p)).to(torch.promote_types(logits.dtype, torch.float32))


def _apart(process: "NoiseProcess", z: Tensor, s: Tensor, t: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """The token times, and the mask of steps of length 0, which are replaced by other steps.

    At t = 1 the ratio of two signals of 0 would be 0/0, and its gradient too.
    """
    s, t = as_token_times(s, z), as_token_times(t, z)
    still = s == t
    return torch.where(still, (process.domain[0] + t) / 2, s), t, still


def _divergence(
    process: "InterpolatingProcess", logits: Tensor, x: Tensor, z: Tensor, s: Tensor, chunk_bytes: int
) -> Tensor:
    """KL(q_s(. | x) || q_s(. | x_hat)), streamed: the integrand of the bound for a noisy token whose IS term is zero."""
    s = process.interior(s, z)
    a, b_x = process.alpha(s).double(), process.noise(s).at(x)
    one, data = torch.ones_like(b_x), process.data_tokens(x.device)
    # A noisy token that is neither x nor a data token, hence with the same probability under x and x_hat.
    other, off = (x + 1) % process.vocab_size, torch.zeros_like(x, dtype=torch.bool)
    columns = (x, other, a, b_x, one, one, data[x], off)
    tokens = TokenTerms(*(v.expand(x.shape).reshape(-1) for v in columns))
    if torch.compiler.is_compiling():
        return traced(process, logits, tokens, z, s)
    return _Nelbo.apply(logits, tokens, noise_on_data(process, z, s), process.off_support(), chunk_bytes)
