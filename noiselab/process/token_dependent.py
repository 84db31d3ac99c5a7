r"""Noise that looks at the token it destroys: the mixing is a matrix, $\pi_t(z \mid x)$.

$$q_t(z \mid x) = \alpha_t(x)\, 1[z = x] + (1 - \alpha_t(x))\, \pi_t(z \mid x)$$

Written as matrices $Q_t$ with row x, everything follows by linear algebra:

    jump      Q_{t|s} = Q_s^{-1} Q_t
    rate      R_t     = Q_t^{-1} Q_t'

and the process is a Markov process if and only if no off-diagonal rate is negative. A jump now depends on where it
starts, so that reverse rates and the bound sum over all tokens: dense, and meant for small vocabularies. A process whose
matrices have a structure replaces `marginal`, `likelihood`, `transition` and `rate` by what that structure allows
(`noiselab.processes.by_token`).
"""

import abc

import torch
from jaxtyping import Float
from torch import Tensor, nn

from ..categorical import Randomness, choose, uniforms
from ..typing import Elementwise, PerToken, Probs, Selection, Times, TokenProbs, Tokens
from .base import TIME_EPS, NoiseProcess, as_token_times
from .validation import interior_times

DENSE = 256  # tokens up to which `validate` looks at whole matrices
PROBES = 8  # columns that it looks at otherwise


class TokenDependentProcess(NoiseProcess):
    r"""A noise process whose mixing depends on the clean token: $\pi_t(\cdot \mid x)$, a row for each x.

    A subclass writes `alpha` and `mixing`; the rest is derived from them. Not every pair is a Markov process, and
    `validate` says where one is not: a single hop to a neighbour, for instance, is none, since a token that has moved
    would have to know that it may not move again. Matrices are inverted in float64, which the signal must allow: where
    it falls below 1e-12 or so inside the domain, replace `transition` and `rate`, or end the domain there.

    **Arguments:**

    - `support`: the tokens that data consist of, Bool of shape [state]; `None` for all of them.

    **Example:**

    ```python
    import torch
    import noiselab as nl

    class Pairs(nl.TokenDependentProcess):
        "Tokens 0 and 1 are confused with each other, 2 and 3 too; then all are masked (token 4)."

        def alpha(self, t):
            return (1 - t) ** 2

        def mixing(self, t):
            confused = torch.block_diag(*2 * [torch.full((2, 2), 0.5)], torch.ones(1, 1)).to(t)
            mask = torch.eye(5)[4].to(t).expand(5, 5)
            share = ((1 - t) / (2 - t))[..., None, None]
            return share * confused + (1 - share) * mask

    process = Pairs(support=torch.arange(5) < 4)
    process.validate()
    z = process.corrupt(torch.tensor([[0, 1, 2, 3]]), torch.tensor([0.3]))
    ```

    **Source:** the bound and the jumps are derived on the theory page; Austin et al. (2021), arXiv 2107.03006, use
    transition matrices in discrete time.
    """

    # Write these two, elementwise: t is float64 and may have any shape.

    @abc.abstractmethod
    def alpha(self, t: Elementwise) -> Float[Tensor, "..."]:
        """The signal: how surely a token is untouched, [*t.shape], or [*t.shape, state] if it depends on the token."""

    @abc.abstractmethod
    def mixing(self, t: Elementwise) -> Float[Tensor, "*batch state state"]:
        """What replaces a destroyed token: row x is the distribution that replaces x."""

    # Derived from them.

    def signal(self, t: Elementwise) -> Float[Tensor, "... state"]:
        """`alpha` with its last axis for the token, of size 1 where it does not depend on it."""
        alpha = self.alpha(t).double()
        return alpha[..., None] if alpha.shape == t.shape else alpha

    def kernel(self, t: Elementwise) -> Float[Tensor, "*batch state state"]:
        r"""The matrices $Q_t$: row x is $q_t(\cdot \mid x)$. What a process with matrices of its own may replace."""
        low, high = self.domain
        # At the ends a mixing is often 0/0, since there is no noise or no signal: its limit is taken just inside.
        pi = self.mixing(t.clamp(low + TIME_EPS, high - TIME_EPS)).double()
        signal = self.signal(t)[..., None]
        return signal * torch.eye(pi.shape[-1], dtype=torch.float64, device=t.device) + (1 - signal) * pi

    def marginal(self, x: Tokens | Probs, t: Times) -> Probs:
        r"""The law of the noisy token, $q_t(\cdot \mid x) = \sum_v x_v\, q_t(\cdot \mid v)$, dense.

        **Arguments:**

        - `x`: clean tokens, or a distribution over them at each position (a one-hot or a prediction).
        """
        if not x.is_floating_point():
            x = nn.functional.one_hot(x.long(), self.vocab_size)
        return (x.double()[..., None, :] @ self.kernel(as_token_times(t, x[..., 0])))[..., 0, :]

    def likelihood(self, z: Tokens, t: Times) -> Probs:
        r"""How probable the noisy token is, $q_t(z \mid v)$, for each clean token v: a column of the matrix."""
        return _columns(self.kernel(as_token_times(t, z)), z)

    def probability(self, x: Tokens, z: Tokens, t: Times) -> PerToken:
        r"""The number $q_t(z \mid x)$ for each token."""
        return self.likelihood(z, t).gather(-1, x[..., None])[..., 0]

    def corrupt(self, x: Tokens, t: Times, *, generator: Randomness = None) -> Tokens:
        """Noisy tokens drawn from `marginal`, one uniform number a token."""
        return choose(self.marginal(x, t), uniforms(*x.shape, generator=generator, device=x.device))

    def prior(
        self, batch: int, length: int, *, generator: Randomness = None, device: torch.device | str | None = None
    ) -> Tokens:
        """Pure noise: tokens drawn from `prior_law`."""
        u = uniforms(batch, length, generator=generator, device=device or self.device)
        return choose(self.prior_law().to(u.device).expand(batch, length, -1), u)

    def prior_law(self) -> TokenProbs:
        """The law of pure noise: the rows of the matrix at the upper end of `domain`, averaged over the data tokens."""
        data = self.data_tokens(self.device)
        x = (data.double() / data.sum()).view(1, 1, -1)
        return self.marginal(x, x.new_tensor([self.domain[1]]))[0, 0]

    def transition(self, z: Tokens, s: Times, t: Times) -> Probs:
        r"""The forward transition from s to t > s, $q_{t|s}(z \mid y)$ for each token y: a column of $Q_s^{-1} Q_t$."""
        s, t = as_token_times(s, z), as_token_times(t, z)
        matrix = _solve(self.kernel(s), self.kernel(t), s)
        # What rounding has left of a zero would let a revealed token move.
        return _columns(torch.where(matrix.abs() < 1e-13, 0, matrix), z)

    def rate(self, z: Tokens, t: Times) -> Probs:
        r"""How fast each *other* token y jumps to z: a column of $R_t = Q_t^{-1} Q_t'$, with 0 at y = z.

        Derivatives come from forward-mode automatic differentiation.

        **Arguments:**

        - `t`: in the open interval (0, 1): at the ends the rate may be infinite.

        **Returns:** jumps per unit of time; negative where `alpha` and `mixing` are no Markov process.
        """
        t = as_token_times(t, z)
        kernel, slope, *_ = torch.func.jvp(self.kernel, (t,), (torch.ones_like(t),))
        rate = _columns(_solve(kernel, slope, t), z)
        return rate.scatter(-1, z[..., None], 0)

    def posterior(self, z: Tokens, x_hat: Probs, s: Times, t: Times) -> Probs:
        r"""The reverse transition from t to s < t: $q(z_s \mid z_t, \hat x) \propto q_{t|s}(z_t \mid z_s)\, q_s(z_s \mid \hat x)$.

        **Arguments:**

        - `z`: tokens at time t.
        - `x_hat`: a distribution over clean tokens at each position: the leave-one-out prediction (the plug-in reverse
          process), or a one-hot of x.

        **Returns:** a distribution at each position; not a number where z is impossible.
        """  # noqa: E501
        joint = self.transition(z, s, t) * self.marginal(x_hat, s)
        return joint / joint.sum(-1, keepdim=True)

    def is_clean(self, z: Tokens, t: Times) -> Selection:
        """Where z can have come from itself only, so that the clean token is z."""
        like = self.likelihood(z, t) > 0
        return (like.sum(-1) == 1) & like.gather(-1, z[..., None])[..., 0]

    @torch.no_grad()
    def validate(self, times: int = 64) -> None:
        """Check that this is a Markov process from data to noise, at `times` points of `domain`.

        Of more than 256 tokens, a few columns are looked at, at fewer times.

        **Raises:** `ValueError` that says what fails and where: a signal outside [0, 1], a mixing that is no
        distribution, a negative rate, tokens that are not clean at t = 0, an end that still depends on the token.
        """
        low, high = self.domain
        if not 0 <= low < high <= 1:
            raise ValueError(f"domain must be two times 0 <= low < high <= 1; got {self.domain}")
        states = self.vocab_size
        support = self.support
        if support is not None and (support.dtype != torch.bool or support.shape != (states,) or not support.any()):
            raise ValueError(
                f"support must be Bool of shape [{states}] with a token in it; got {support.dtype} {list(support.shape)}"
            )
        t = interior_times(self.domain, times if states <= DENSE else min(times, PROBES)).to(self.device)
        self._check_signal(t)
        if states <= DENSE:
            self._check_rows(t)
        self._check_ends()
        step = 1 if states <= DENSE else max(1, states // PROBES)
        self._check_columns(t, torch.arange(states, device=t.device)[::step])

    def _check_signal(self, t: Tensor) -> None:
        alpha = self.alpha(t)
        if alpha.shape not in (t.shape, (*t.shape, self.vocab_size)):
            raise ValueError(
                f"alpha must have shape {list(t.shape)} or {[*t.shape, self.vocab_size]}; got {list(alpha.shape)}"
            )
        signal = self.signal(t)
        bad = ~((signal >= -1e-9) & (signal <= 1 + 1e-9)).all(-1)
        if bad.any():
            raise ValueError(f"alpha must lie in [0, 1]; it does not at t = {t[bad][0].item():.6g}")
        rise = (signal.diff(dim=0) > 1e-9).any(-1)
        if rise.any():
            raise ValueError(f"alpha must not rise with t; it does at t = {t[1:][rise][0].item():.6g}")

    def _check_rows(self, t: Tensor) -> None:
        pi = self.mixing(t)
        if pi.shape != (*t.shape, self.vocab_size, self.vocab_size):
            raise ValueError(f"mixing must have shape {[*t.shape, *2 * [self.vocab_size]]}; got {list(pi.shape)}")
        low, sums = pi.min(-1).values, pi.sum(-1)
        bad = ~((low >= -1e-9) & ((sums - 1).abs() < 1e-5))
        if bad.any():
            time, token = bad.nonzero()[0].tolist()
            raise ValueError(
                f"every row of mixing must be non-negative and sum to 1; got sum {sums[time, token].item():.6g} and "
                f"smallest entry {low[time, token].item():.3g} in the row of token {token} at t = {t[time].item():.6g}"
            )

    def _check_columns(self, t: Tensor, z: Tensor) -> None:
        for time in t.split(max(1, (1 << 22) // (self.vocab_size * len(z)))):
            rate = self.rate(z.expand(len(time), -1), time)
            bad = ~(rate >= -1e-6 * rate.abs().amax((-2, -1), keepdim=True))
            if bad.any():
                row, column, token = bad.nonzero()[0].tolist()
                raise ValueError(
                    f"no rate may be negative, or this is no Markov process; got {rate[row, column, token].item():.4g} "
                    f"from token {token} into token {z[column].item()} at t = {time[row].item():.6g}"
                )

    def _check_ends(self) -> None:
        low, high = self.domain
        data = self.data_tokens(self.device).nonzero()[:, 0]
        x = data[:: max(1, len(data) // PROBES)][None]
        ends = [self.marginal(x, torch.full((1,), end, dtype=torch.float64, device=x.device))[0] for end in (low, high)]
        kept = ends[0].gather(-1, x[0, :, None])[:, 0]
        if low == 0 and not (kept >= 1 - 1e-3).all():
            token = int((kept < 1 - 1e-3).nonzero()[0])
            raise ValueError(
                f"tokens must be clean at t = 0; token {int(x[0, token])} is so with probability {kept[token].item():.6g}"
            )
        apart = (ends[1] - self.prior_law()).abs().sum(-1)
        if high == 1 and not (apart < 2e-3).all():
            token = int(apart.argmax())
            raise ValueError(
                "at t = 1 noise must not depend on the clean token any more; that of token "
                f"{int(x[0, token])} is {apart[token].item():.4g} away from the mean (sum of absolute differences)"
            )


def _solve(matrices: Tensor, right: Tensor, t: Tensor) -> Tensor:
    try:
        return torch.linalg.solve(matrices, right)
    except torch.linalg.LinAlgError as error:
        raise ValueError(
            f"the matrices must be invertible in float64 inside the domain; they are not at a time in [{t.min().item():.9g}, "
            f"{t.max().item():.9g}], where too little signal is left: end `domain` earlier, or replace `transition` and `rate` "
            "by what the structure of the matrices allows"
        ) from error


def _columns(matrices: Tensor, z: Tensor) -> Tensor:
    """Column z of the matrix at each position: [batch, length, state] from [batch, 1 or length, state, state]."""
    states = matrices.shape[-1]
    wide = matrices.expand(*z.shape, states, states)
    return wide.gather(-1, z[..., None, None].expand(*z.shape, states, 1))[..., 0]
