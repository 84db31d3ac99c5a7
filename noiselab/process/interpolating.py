r"""Processes with state-independent corruption, defined by a signal and a mixing.

$$q_t(z \mid x) = \alpha_t\, 1[z = x] + b_t(z), \qquad b_t = (1 - \alpha_t)\, \pi_t$$
"""

import abc
from typing import cast

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from ..categorical import Randomness, choose, replace_tokens, uniforms
from ..elbo.bound import nelbo_streamed
from ..elbo.ends import factored_log_evidence, factored_prior_kl, factored_prior_log_prob
from ..elbo.score import score_entropy_streamed
from ..elbo.steps import step_kl_streamed
from ..elbo.streaming import CHUNK_BYTES
from ..mixing import Mixing, NoiseMass
from ..numerics import SIGNAL_EPS, TIME_EPS, UNIFORMS_PER_MOVE, as_token_times
from ..typing import (
    Elementwise,
    Logits,
    PerRow,
    PerToken,
    Probs,
    RowLogits,
    RowTokens,
    Selection,
    Times,
    Tokens,
    TokenTimes,
)
from . import evidence
from .base import NoiseProcess, prior_shape
from .plans import ReversePlan
from .three_way import draw_three_way, reverse_move
from .validation import check_interpolating, size_of_mixing


class InterpolatingProcess(NoiseProcess):
    r"""A process with state-independent corruption: $q_t(z \mid x) = \alpha_t 1[z = x] + (1 - \alpha_t)\,\pi_t(z)$.

    A subclass implements `alpha` and `mixing`; everything else is derived from them. In the derived methods times are
    `t` of shape [batch] (one per sequence) or [batch, length] (one per token), 0 is clean, 1 is noise and s < t.

    **Arguments:**

    - `support`: the tokens that occur in data, Bool of shape [state]; `None` for all of them. If masks count as data, the
      bound is looser.

    **Example:**

    ```python
    import torch
    import noiselab as nl

    class Fading(nl.InterpolatingProcess):
        def alpha(self, t):
            return 1 - t**2

        def mixing(self, t):
            half = torch.cos(t)[..., None] ** 2
            return half * torch.tensor([0.7, 0.1, 0.2]).to(t) + (1 - half) / 3

    x = torch.tensor([[0, 1, 2, 0]])
    z = Fading().corrupt(x, torch.tensor([0.5]))
    assert z.shape == x.shape
    ```

    **Source:** von Ruette et al. (2025), "Generalized Interpolating Discrete Diffusion", arXiv 2503.04482.
    """

    reverse_draws = UNIFORMS_PER_MOVE
    clock_share = 0.05  # the law is constant while the signal is

    # To be implemented, elementwise: t is float64 and may have any shape.

    @abc.abstractmethod
    def alpha(self, t: Elementwise) -> Elementwise:
        """The signal: the probability that a token is unchanged, decreasing from 1 at t = 0 to 0 at t = 1."""

    @abc.abstractmethod
    def mixing(self, t: Elementwise) -> Float[Tensor, "..."]:
        """The distribution that replaces a corrupted token: one for each time, [*t.shape, state], or one row for all
        times.
        """

    # Derived from them.

    def _found_vocab_size(self) -> int:
        return size_of_mixing(self)

    def noise(self, t: TokenTimes) -> NoiseMass:
        r"""The noise $b_t = (1 - \alpha_t) \pi_t$ at token times, as weights on parts.

        The only method that a factored process overrides (as `Interpolation` does). Override it also if 1 - alpha loses
        precision: where alpha rounds to 1, a subtraction gives no noise.
        """
        return NoiseMass((1 - self.alpha(t).double())[..., None], (cast(Mixing, _Written(self)),), t)

    def signal_and_noise(
        self, t: TokenTimes, weights: Float[Tensor, "batch times parts"] | None = None
    ) -> tuple[TokenTimes, NoiseMass]:
        """`alpha`, float64, and `noise` at token times.

        **Arguments:**

        - `weights`: `time_weights` at these times, if they are known.
        """
        return self.alpha(t).double(), self.noise(t)

    def marginal(self, x: Tokens | Probs, t: Times) -> Probs:
        r"""The law of the noisy token, $q_t(\cdot \mid x) = \alpha_t x + b_t$, dense.

        **Arguments:**

        - `x`: clean tokens, or a distribution over them at each position (a one-hot or a prediction).
        """
        x = self.as_law(x)
        t = as_token_times(t, x[..., 0])
        return self.alpha(t)[..., None] * x + self.noise(t).dense()

    def likelihood(self, z: Tokens, t: Times) -> Probs:
        r"""The probability of the noisy token, $q_t(z \mid v) = \alpha_t 1[v = z] + b_t(z)$, for each clean token v,
        dense.
        """
        t = self.token_times(t, z)
        same = z[..., None] == torch.arange(self.vocab_size, device=z.device)
        return self.alpha(t).double()[..., None] * same + self.noise(t).at(z)[..., None]

    def probability(self, x: Tokens, z: Tokens, t: Times) -> PerToken:
        r"""The number $q_t(z \mid x) = \alpha_t 1[z = x] + b_t(z)$ for each token, without dense tensors."""
        t = self.token_times(t, z, x)
        return self.alpha(t).double() * (x == z) + self.noise(t).at(z)

    def corrupt(self, x: Tokens, t: Times, *, generator: Randomness = None) -> Tokens:
        """Draw noisy tokens from `marginal` with three uniform numbers per token, without dense tensors."""
        t, u = self.token_times(t, x), uniforms(*x.shape, 3, generator=generator, device=x.device)
        return torch.where(u[..., 0] < self.alpha(t), x, self.noise(t).choose(u[..., 1], u[..., 2]))

    def prior(
        self, batch: int, length: int, *, generator: Randomness = None, device: torch.device | str | None = None
    ) -> Tokens:
        """Draw tokens of pure noise from the mixing at the upper end of `domain`, t = 1.

        Any signal left there is that of uniformly distributed data tokens.
        """
        u = uniforms(*prior_shape(batch, length), 2, generator=generator, device=device or self.device)
        end = torch.full_like(u[:, :1, 0], self.domain[1])
        z, alpha = self.noise(end).choose(u[..., 0], u[..., 1]), self.alpha(end)
        if not (alpha.abs() >= SIGNAL_EPS).any():
            return z
        u, data = uniforms(batch, length, 2, generator=generator, device=u.device), self.data_tokens(u.device).nonzero()
        return torch.where(u[..., 0] < alpha, data[(u[..., 1] * len(data)).long(), 0], z)

    def transition(self, z: Tokens, s: Times, t: Times) -> Probs:
        r"""The forward transition from s to t >= s into the tokens z, from each token y, dense.

        $$q_{t|s}(z \mid y) = \alpha_{t|s} 1[z = y] + b_{t|s}(z)$$
        """
        keep, fresh = self.factored_transition(z, *self.step_times(s, t, z))
        at_z = torch.zeros(*z.shape, self.vocab_size, dtype=torch.float64, device=z.device).scatter(-1, z[..., None], 1)
        return fresh[..., None] + keep[..., None] * at_z

    def factored_transition(self, z: Tokens, s: Times, t: Times) -> tuple[TokenTimes, Float[Tensor, "batch ..."]]:
        r"""The forward transition from s to t > s: $q_{t|s}(z_t \mid z_s) = \alpha_{t|s} 1[z_t = z_s] + b_{t|s}(z_t)$.

        **Returns:** $\alpha_{t|s} = \alpha_t / \alpha_s$ and, for the tokens `z`,
        $b_{t|s}(z) = b_t(z) - \alpha_{t|s} b_s(z)$.
        """
        s, t = as_token_times(s, z), as_token_times(t, z)
        keep = self.alpha(t) / self.alpha(s)
        fresh = self.noise(t).at(z) - keep * self.noise(s).at(z)
        # A difference of two nearly equal masses: rounding must neither make it negative nor remove its gradient.
        return keep, fresh - fresh.clamp(max=0).detach()

    def renoise(self, z: Tokens, s: Times, t: Times, *, generator: Randomness = None) -> Tokens:
        r"""Draw tokens at t from the forward transition $q_{t|s}(\cdot \mid z_s)$, with two uniform numbers per token.

        **Arguments:**

        - `z`: tokens at s.
        - `s`, `t`: s < t; a token with s = t does not change.
        """
        s, t = self.step_times(s, t, z)
        u = uniforms(*z.shape, 2, generator=generator, device=z.device)
        # At t = 1 alpha is 0, even if it is already 0 at s.
        keep = torch.where(s == t, 1, self.alpha(t) / self.alpha(s)).nan_to_num(0).expand(z.shape)
        rows = u[..., 0] >= keep
        if not rows.any():
            return z
        # The noise added between s and t: dense, but only for the few tokens that are replaced.
        s, t = s.expand(z.shape)[rows][:, None], t.expand(z.shape)[rows][:, None]
        fresh = (self.noise(t).dense() - keep[rows][:, None, None] * self.noise(s).dense()).clamp(min=0)
        return replace_tokens(z, rows, choose(fresh[:, 0], u[..., 1][rows]))

    def rate(self, z: Tokens, t: Times) -> Probs:
        r"""The rate at which each *other* token y jumps to z: `rate_into`, the same for each, with 0 at y = z."""
        into = self.rate_into(z, t).expand(z.shape)[..., None]
        return into.expand(*z.shape, self.vocab_size).scatter(-1, z[..., None], 0)

    def rate_into(self, z: Tokens, t: Times) -> Float[Tensor, "batch ..."]:
        r"""The rate at which any other token jumps to z: $r_t(z) = b_t'(z) - (\alpha_t'/\alpha_t)\, b_t(z)$.

        It does not depend on the token left behind. Derivatives come from forward-mode automatic differentiation.

        **Arguments:**

        - `t`: in the open interval (0, 1): at the ends the rate may be infinite.

        **Returns:** jumps per unit of time; negative values mean that `alpha` and `mixing` do not define a Markov
        process.
        """
        t = as_token_times(t, z)

        def signal_and_noise(t: Tensor) -> tuple[Tensor, Tensor]:
            return self.alpha(t).double(), self.noise(t).at(z)

        values, slopes, *_ = torch.func.jvp(signal_and_noise, (t,), (torch.ones_like(t),))
        (alpha, noise), (alpha_slope, noise_slope) = values, slopes
        return noise_slope - alpha_slope / alpha * noise

    def elbo_weight(self, x: Tokens, z: Tokens, t: Times) -> PerToken:
        r"""The weight of a token in the ELBO, $w_t(z, x) = r_t(z) / q_t(z \mid x)$, per unit of time."""
        t = self.interior(self.token_times(t, x, z), z)
        return self.rate_into(z, t) / self.probability(x, z, t)

    def is_clean(self, z: Tokens, t: Times) -> Selection:
        """The mask of tokens z that noise cannot have produced, so that the clean token is z."""
        return (self.noise(as_token_times(t, z)).at(z) == 0).expand(z.shape)

    def is_possible(self, z: Tokens, t: Times) -> Selection:
        """The mask of tokens z that noise can have produced, or that are data tokens while there is signal."""
        t = as_token_times(t, z)
        kept = (self.alpha(t) > 0) & self.data_tokens(z.device)[z]
        return (self.noise(t).at(z) > 0) | kept

    def data_tokens_are_certain(self, time: float | int) -> bool:
        """Whether the noise at this time is disjoint from the data tokens."""
        tokens = self.data_tokens(self.device).nonzero()[:, 0]
        return bool(self.is_clean(tokens[None], torch.full((1,), time, dtype=torch.float64, device=self.device)).all())

    def untouched(self, x: Tokens, t: Times) -> PerToken:
        """Alpha."""
        return self.alpha(as_token_times(t, x)).double().expand(x.shape)

    def signal_share(self, t: Elementwise) -> tuple[Elementwise, Elementwise]:
        """Alpha and 1 - alpha, each to full precision."""
        flat = t.reshape(-1, 1)
        return self.alpha(flat).double().view(t.shape), self.noise(flat).total().view(t.shape)

    # Draws and predictions.

    def plan_reverse(self, z: Tokens, s: Times, t: Times, u: Float[Tensor, "batch length draws"]) -> ReversePlan:
        """The reverse transition as a three-way choice: keep, draw from the prediction, draw from the noise."""
        return reverse_move(self, z, s, t).plan(self, z, u)

    def draw_reverse(
        self,
        logits: Float[Tensor, "batch length width"],
        z: Tokens,
        s: Times,
        t: Times,
        u: Float[Tensor, "batch length draws"],
        weights: Float[Tensor, "batch times parts"] | None = None,
    ) -> Tokens:
        """The three-way choice at every position."""
        return draw_three_way(self, logits, z, s, t, u, weights)

    def draw_posterior(self, x: Tokens, z: Tokens, s: Times, t: Times, *, generator: Randomness = None) -> Tokens:
        r"""Draw tokens at s < t from $q(z_s \mid z_t, x)$: a choice between staying, x and the noise at s, without
        dense tensors.
        """
        s, t = self.step_times(s, t, z, x)
        u = uniforms(*x.shape, 3, generator=generator, device=x.device)
        keep, fresh = self.factored_transition(z, s, t)
        a_s, b_s = self.alpha(s).double(), self.noise(s)
        stay = (keep * self.probability(x, z, s)).expand(z.shape)
        clean, noise = ((fresh * part).expand(z.shape) for part in (a_s, b_s.total()))
        place = u[..., 0] * (stay + clean + noise)
        return torch.where(place < stay, z, torch.where(place < stay + clean, x, b_s.choose(u[..., 1], u[..., 2])))

    def plan_noisy(self, t: PerRow, u: Float[Tensor, "rows draws"]) -> tuple[RowTokens, Bool[Tensor, " rows"]]:
        """Draw tokens of the noise; with probability alpha a token of the prediction is needed."""
        t, u = t[:, None], u[:, None]
        return self.noise(t).choose(u[..., 2], u[..., 3])[:, 0], (u[..., 1] < self.alpha(t))[:, 0]

    def resolve_noisy(self, x_hat: Float[Tensor, "rows state"], t: PerRow, u: Float[Tensor, "rows draws"]) -> RowTokens:
        """Draw tokens of the prediction."""
        return choose(x_hat, u[..., 4])

    def predicted_probability(self, x_hat: Float[Tensor, "rows state"], z: RowTokens, t: PerRow) -> PerRow:
        r"""$q_t(z \mid \hat x) = \alpha_t \hat x_z + b_t(z)$ for single tokens z."""
        t, z = t[:, None], z[:, None]
        return (self.alpha(t) * x_hat.gather(-1, z) + self.noise(t).at(z))[:, 0]

    def add_evidence(self, logits: RowLogits, z: RowTokens, t: PerRow) -> RowLogits:
        """Posterior logits from leave-one-out logits, which differ only at z."""
        return evidence.added(self, logits, z, t)

    def remove_evidence(self, logits: RowLogits, z: RowTokens, t: PerRow) -> RowLogits:
        """Leave-one-out logits from posterior logits, which differ only at z."""
        return evidence.removed(self, logits, z, t)

    def log_marginal(self, logits: RowLogits, t: PerRow) -> RowLogits:
        r"""$\log q_t(y \mid \hat x)$ for every token y, computed in logarithms."""
        return evidence.log_marginal(self, logits, t)

    def solve_score(self, log_scores: RowLogits, z: RowTokens, t: PerRow) -> RowLogits:
        r"""Leave-one-out logits from log-scores: $\hat x \propto \max(q - b_t, 0)$ with $q_y = s_y / \sum_u s_u$."""
        return evidence.solved(self, log_scores, z, t)

    def log_evidence(self, logits: Logits, log_sum: PerToken, z: Tokens, t: Times) -> PerToken:
        r"""$\log q_t(z \mid \hat x)$ for the tokens z, float64."""
        return factored_log_evidence(self, logits, log_sum, z, as_token_times(t, z))

    # The bound.

    def accept_weight(self, weight: PerToken | None) -> None:
        """Accept any weight: the rate into a token does not depend on the token left."""

    def nelbo(
        self,
        logits: Logits,
        x: Tokens,
        z: Tokens,
        t: Times,
        *,
        weight: PerToken | None = None,
        chunk_bytes: int = CHUNK_BYTES,
    ) -> PerToken:
        """The integrand of the bound, streamed."""
        return nelbo_streamed(self, logits, x, z, t, weight=weight, chunk_bytes=chunk_bytes)

    def score_entropy(
        self,
        log_scores: Logits,
        x: Tokens,
        z: Tokens,
        t: Times,
        *,
        weight: PerToken | None = None,
        chunk_bytes: int = CHUNK_BYTES,
    ) -> PerToken:
        """The bound for scores, streamed."""
        return score_entropy_streamed(self, log_scores, x, z, t, weight=weight, chunk_bytes=chunk_bytes)

    def step_kl(
        self, logits: Logits, x: Tokens, z: Tokens, s: Times, t: Times, *, chunk_bytes: int = CHUNK_BYTES
    ) -> PerToken:
        """The divergence of one reverse step, streamed."""
        return step_kl_streamed(self, logits, x, z, s, t, chunk_bytes=chunk_bytes)

    def prior_kl(self, x: Tokens, t: Times) -> PerToken:
        """The divergence from pure noise, from factors."""
        return factored_prior_kl(self, x, as_token_times(t, x))

    def prior_log_prob(self, z: Tokens, t: Times) -> PerToken:
        """The log-probability under pure noise, from factors."""
        return factored_prior_log_prob(self, z, as_token_times(t, z))

    def validate(self, times: int = 64) -> None:
        """Check that this is a Markov process from data to noise, at `times` points of `domain`, dense at its ends.

        **Raises:** `ValueError` that says what fails and where: a signal outside [0, 1] or increasing, a mixing that is
        not a distribution, an invalid support, a negative rate.
        """
        check_interpolating(self, times)


class _Written:
    """The user's `mixing` as the single part of a `NoiseMass`. Not a module, because it is created at each call."""

    at, choose, profile = Mixing.at, Mixing.choose, Mixing.profile

    def __init__(self, process: InterpolatingProcess):
        self.process = process

    def probs(self, t: Tensor) -> Tensor:
        # At the ends a mixing is often 0/0, because there is no noise or no signal; its limit is evaluated just inside.
        low, high = self.process.domain
        p = self.process.mixing(t.clamp(low + TIME_EPS, high - TIME_EPS)).to(t.device, torch.float64)
        return p.expand(*t.shape, -1) if p.dim() == 1 else p

    def __repr__(self) -> str:
        return f"the mixing of {self.process}"
