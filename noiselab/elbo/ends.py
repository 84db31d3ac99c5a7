"""End terms of a truncated time range: reconstruction at its lower end, and the prior at its upper end."""

from typing import TYPE_CHECKING, NamedTuple

import torch
from torch import Tensor

from ..numerics import SIGNAL_EPS, require_tokens
from ..typing import Logits, PerToken, Times, Tokens, TokenTimes
from .tokens import check_inputs, check_width, inside

if TYPE_CHECKING:
    from ..process import InterpolatingProcess, NoiseProcess


def reconstruction(process: "NoiseProcess", logits: Logits, x: Tokens, z: Tokens, t: Times) -> PerToken:
    r"""The reconstruction term $-\log p(x \mid z_t)$ at the lowest time t, in nats per token.

    $$p(x \mid z) = q_t(z \mid x)\, \hat x_x / q_t(z \mid \hat x)$$

    Its mean over $z \sim q_t(\cdot \mid x)$ must be added to the integral of `nelbo` over times above t to obtain a
    bound. Hybrid noise grows as the square root of t, so the term is not negligible: at t = 1e-4 it is hundredths of a
    nat.

    **Arguments:** as for `nelbo`; `t` is the lower end of the time range.

    **Returns:** nats per token, at least float32; 0 where z determines x, for any logits.

    **Raises:** `ValueError` as for `nelbo`.
    """
    check_width(process, logits)
    t, x_hat = check_inputs(process, logits, x, z, t), predicted(process, logits)
    nats = x_hat.marginal(z, t) - process.probability(x, z, t).log() - x_hat.at(x)
    certain = process.is_clean(z, t)
    return torch.where(certain, 0, nats).to(torch.promote_types(logits.dtype, torch.float32))


def prior_kl(process: "NoiseProcess", x: Tokens, t: Times) -> PerToken:
    r"""The prior term $KL(q_t(\cdot \mid x)\,\|\,\bar q_t)$ at the upper time t, in nats per token.

    Pure noise, $\bar q_t = \alpha_t / |S| + b_t$ on the support S and $b_t$ off it, is the law of the noisy token for x
    uniform on the data tokens, from which `process.prior` draws. The term is zero if $\alpha_t = 0$ (up to 1e-15, the
    rounding of a cosine), where pure noise is the mixing.

    **Arguments:**

    - `x`: clean tokens.
    - `t`: the upper end of the time range.

    **Raises:** `ValueError` for times outside the domain or tokens outside the vocabulary, on the CPU.
    """
    require_tokens("x", x, process.vocab_size)
    return process.prior_kl(x, inside(process, t, x))


def factored_prior_kl(process: "InterpolatingProcess", x: Tokens, t: TokenTimes) -> PerToken:
    """`prior_kl` of a process with factored noise, without cancellation."""
    alpha, noise, data = process.alpha(t).double(), process.noise(t), process.data_tokens(x.device)
    pure = alpha.abs() < SIGNAL_EPS
    left = torch.where(pure, 1, alpha / data.sum())
    # The probability of every token but x differs from pure noise by the missing signal.
    b, b_x = noise.dense() * data, noise.at(x)
    others = _missing(b, left[..., None]).sum(-1) - _missing(b_x, left)
    at_x = torch.where(pure, 1, alpha + b_x)
    return torch.where(pure, 0, at_x * (at_x / (left + b_x)).log() - others).expand(x.shape).clone()


def _missing(b: Tensor, left: Tensor) -> Tensor:
    """B log(1 + left / b), 0 where there is no noise."""
    some = b > 0
    return torch.where(some, b * torch.log1p(left / torch.where(some, b, 1)), 0)


def prior_log_prob(process: "NoiseProcess", z: Tokens, t: Times) -> PerToken:
    r"""The log-probability of tokens under pure noise at the upper time t, $\log \bar q_t(z)$: that of `prior_kl`."""
    require_tokens("z", z, process.vocab_size)
    return process.prior_log_prob(z, inside(process, t, z))


def factored_prior_log_prob(process: "InterpolatingProcess", z: Tokens, t: TokenTimes) -> PerToken:
    """`prior_log_prob` of a process with factored noise."""
    alpha, data = process.alpha(t).double(), process.data_tokens(z.device)
    left = torch.where(alpha.abs() < SIGNAL_EPS, 0, alpha / data.sum())
    return (left * data[z] + process.noise(t).at(z)).log().expand(z.shape)


class Predicted(NamedTuple):
    """Log-probabilities of a prediction x_hat, normalised over the data tokens, for single tokens, in float64."""

    process: "NoiseProcess"
    logits: Tensor  # -inf off the data
    log_sum: Tensor

    def at(self, x: Tokens) -> PerToken:
        r"""$\log \hat x_x$ for the tokens x."""
        return self.logits.gather(-1, x[..., None])[..., 0].double() - self.log_sum

    def marginal(self, z: Tokens, t: Times) -> PerToken:
        r"""$\log q_t(z \mid \hat x)$ for the tokens z."""
        return self.process.log_evidence(self.logits, self.log_sum, z, t)


def factored_log_evidence(
    process: "InterpolatingProcess", logits: Logits, log_sum: PerToken, z: Tokens, t: TokenTimes
) -> PerToken:
    r"""$\log q_t(z \mid \hat x)$ of a process with factored noise, with a finite gradient even where a mass is 0.

    **Arguments:** as for `NoiseProcess.log_evidence`.
    """
    alpha, noise = process.alpha(t).double(), process.noise(t)
    log_u, b = logits.gather(-1, z[..., None])[..., 0].double() - log_sum, noise.at(z)
    # The logarithm of a sum of two zero masses has no gradient, and that of one zero mass an infinite one.
    alone, gone = (b == 0).expand(z.shape), (alpha == 0).expand(z.shape)
    signal = torch.where(gone, 1, alpha).log() + log_u
    log_b = torch.where(alone, 1, b).log()
    both = torch.logaddexp(torch.where(alone, 0, signal), log_b)
    no_signal = log_b + alpha * log_u.exp() / torch.where(alone, 1, b)  # with the same value and gradient
    return torch.where(alone, torch.where(gone, -torch.inf, signal), torch.where(gone, no_signal, both))


def predicted(process: "NoiseProcess", logits: Logits) -> Predicted:
    """The log-probabilities given by logits; tokens outside the support are ignored."""
    logits = process.on_support(logits)
    logits = logits.to(torch.promote_types(logits.dtype, torch.float32))
    return Predicted(process, logits, logits.logsumexp(-1).double())
