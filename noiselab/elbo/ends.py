"""What a truncated time range leaves out of the bound: reconstruction at its lower end, the prior at its upper end."""

from typing import NamedTuple

import torch
from jaxtyping import Float, Int
from torch import Tensor

from ..process import InterpolatingProcess, NoiseProcess, lift
from .definition import kl_divergence

NO_SIGNAL = 1e-15  # a signal that is a rounding error of none


def reconstruction(
    process: NoiseProcess,
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

    **Returns:** nats per token, at least float32; 0 where z reveals x, whatever the logits.
    """
    x_hat = predicted(process, logits)
    nats = x_hat.marginal(z, t) - process.probability(x, z, t).log() - x_hat.at(x)
    certain = process.reveals(z, t)
    return torch.where(certain, 0, nats).to(torch.promote_types(logits.dtype, torch.float32))


def prior_kl(
    process: NoiseProcess, x: Int[Tensor, "batch length"], t: Float[Tensor, "..."]
) -> Float[Tensor, "batch length"]:
    r"""$KL(q_t(\cdot \mid x)\,\|\,\pi_t)$: what starting from pure noise at the upper time t costs, in nats per token.

    Zero when $\alpha_t = 0$ (to 1e-15, the rounding of a cosine); infinite where signal is left on tokens that the noise
    never produces (masking stopped before t = 1). Pure noise at t is the mixing $\pi_t$; where that depends on the clean token
    (`TokenDependentProcess`), it is the law of the noisy token for x uniform on the data tokens.

    **Arguments:**

    - `x`: clean tokens.
    - `t`: the upper end of the time range.
    """
    t = lift(t, x)
    if not isinstance(process, InterpolatingProcess):
        q, pi = process.marginal(x, t), _pure_noise(process, x, t)
        return kl_divergence(q, pi)
    alpha, noise = process.alpha(t), process.noise(t)
    share = noise.total()  # 1 - alpha, without its rounding
    # Without signal q is pi, also on a token where both are 0.
    pure = alpha.abs() < NO_SIGNAL
    pi_x = torch.where(pure, 1, noise.at(x) / share)
    q_x = torch.where(pure, 1, alpha + noise.at(x))
    # Every token but x has q = share * pi, so that their ratio is the same.
    kl = q_x * (q_x / pi_x).log() + torch.special.xlogy(share * (1 - pi_x), share)
    return torch.where(pure, 0, kl).expand(x.shape).clone()


def prior_log_prob(
    process: NoiseProcess, z: Int[Tensor, "batch length"], t: Float[Tensor, "..."]
) -> Float[Tensor, "batch length"]:
    r"""The log-probability of tokens under pure noise at the upper time t, $\log \pi_t(z)$: that of `prior_kl`."""
    t = lift(t, z)
    if not isinstance(process, InterpolatingProcess):
        return _pure_noise(process, z, t).expand(*z.shape, -1).gather(-1, z[..., None])[..., 0].log()
    noise = process.noise(t)
    return (noise.at(z) / noise.total()).log().expand(z.shape)


def _pure_noise(process: NoiseProcess, x: Tensor, t: Tensor) -> Tensor:
    data = process.data_tokens(x.device).double()
    return process.marginal((data / data.sum()).expand(*x.shape, -1), t)


class Predicted(NamedTuple):
    """Log-probabilities of a prediction x_hat, normalised over the data tokens, asked token by token, in float64."""

    process: NoiseProcess
    logits: Tensor  # -inf off the data
    log_sum: Tensor

    def at(self, x: Int[Tensor, "batch length"]) -> Float[Tensor, "batch length"]:
        r"""$\log \hat x_x$ for the tokens x."""
        return self.logits.gather(-1, x[..., None])[..., 0].double() - self.log_sum

    def marginal(self, z: Int[Tensor, "batch length"], t: Float[Tensor, "..."]) -> Float[Tensor, "batch length"]:
        r"""$\log q_t(z \mid \hat x)$ for the tokens z."""
        t = lift(t, z)
        if not isinstance(self.process, InterpolatingProcess):
            log_u = self.logits.double() - self.log_sum[..., None]
            like = self.process.likelihood(z, t)
            some = like > 0
            return torch.where(some, log_u + torch.where(some, like, 1).log(), -torch.inf).logsumexp(-1)
        alpha, noise = self.process.alpha(t).double(), self.process.noise(t)
        log_u, b = self.at(z), noise.at(z)
        # The sum of two masses that both vanish has no slope, the logarithm of one that vanishes an infinite one.
        alone, gone = (b == 0).expand(z.shape), (alpha == 0).expand(z.shape)
        signal = torch.where(gone, 1, alpha).log() + log_u
        log_b = torch.where(alone, 1, b).log()
        both = torch.logaddexp(torch.where(alone, 0, signal), log_b)
        no_signal = log_b + alpha * log_u.exp() / torch.where(alone, 1, b)  # of the same value and slope
        return torch.where(alone, torch.where(gone, -torch.inf, signal), torch.where(gone, no_signal, both))


def predicted(process: NoiseProcess, logits: Float[Tensor, "batch length state"]) -> Predicted:
    """The log-probabilities that logits stand for; tokens outside the support are ignored."""
    if process.support is not None:
        logits = logits.masked_fill(~process.support, -torch.inf)
    logits = logits.to(torch.promote_types(logits.dtype, torch.float32))
    return Predicted(process, logits, logits.logsumexp(-1).double())
