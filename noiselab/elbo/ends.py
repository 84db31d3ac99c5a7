"""What a truncated time range leaves out of the bound: reconstruction at its lower end, the prior at its upper end."""

import torch
from jaxtyping import Float, Int
from torch import Tensor

from ..process import InterpolatingProcess, lift


def reconstruction(
    process: InterpolatingProcess,
    logits: Float[Tensor, "batch length state"],
    x: Int[Tensor, "batch length"],
    z: Int[Tensor, "batch length"],
    t: Float[Tensor, "..."],
) -> Float[Tensor, "batch length"]:
    r"""$-\log p(x \mid z_t)$: what the jump from the lowest time t straight to clean tokens costs, in nats per token.

    $$p(x \mid z) = q_t(z \mid x)\, \hat x_x / q_t(z \mid \hat x)$$

    Its mean over $z \sim q_t(\cdot \mid x)$, added to the integral of `nelbo` over times above t, keeps the bound a
    bound. Hybrid noise goes as the square root of t, so the term is not negligible: at t = 1e-4 it is hundredths of a
    nat.

    **Arguments:** as for `nelbo`; `t` is the lower end of the time range.

    **Returns:** nats per token, at least float32.
    """
    if process.support is not None:
        logits = logits.masked_fill(~process.support, -torch.inf)
    t = lift(t, z)
    alpha, noise = process.alpha(t), process.noise(t)
    lse = logits.double().logsumexp(-1) if logits.dtype == torch.float64 else logits.float().logsumexp(-1).double()
    log_u_x, log_u_z = (logits.gather(-1, v[..., None])[..., 0].double() - lse for v in (x, z))
    q_z = alpha * (x == z) + noise.at(z)
    log_p_z = torch.logaddexp(alpha.log() + log_u_z, noise.at(z).log())
    return (log_p_z - q_z.log() - log_u_x).to(torch.promote_types(logits.dtype, torch.float32))


def prior_kl(
    process: InterpolatingProcess, x: Int[Tensor, "batch length"], t: Float[Tensor, "..."]
) -> Float[Tensor, "batch length"]:
    r"""$KL(q_t(\cdot \mid x)\,\|\,\pi_t)$: what starting from pure noise at the upper time t costs, in nats per token.

    Zero when $\alpha_t = 0$; infinite where signal is left on tokens that the noise never produces (masking stopped
    before t = 1).

    **Arguments:**

    - `x`: clean tokens.
    - `t`: the upper end of the time range.
    """
    t = lift(t, x)
    alpha, noise = process.alpha(t), process.noise(t)
    share = noise.total()  # 1 - alpha, without its rounding
    pi_x = noise.at(x) / share
    q_x = alpha + noise.at(x)
    # Every token but x has q = share * pi, so that their ratio is the same.
    kl = torch.special.xlogy(q_x, q_x / pi_x) + torch.special.xlogy(share * (1 - pi_x), share)
    return torch.where(alpha == 0, 0, kl).expand(x.shape).clone()
