r"""Processes with state-dependent corruption: the mixing is a matrix, $\pi_t(z \mid x)$.

$$q_t(z \mid x) = \alpha_t(x)\, 1[z = x] + (1 - \alpha_t(x))\, \pi_t(z \mid x)$$

With matrices $Q_t$ whose row x is this law, transitions and rates follow by linear algebra:

    transition  Q_{t|s} = Q_s^{-1} Q_t
    rate        R_t     = Q_t^{-1} Q_t'

and the process is Markov if and only if no off-diagonal rate is negative. Jumps depend on the token left, so that
reverse rates and the bound are sums over all tokens: dense, and intended for small vocabularies. Processes with
structured matrices override `marginal`, `likelihood`, `transition` and `rate` (as `noiselab.processes.Coarse` and
`TokenRates` do).
"""

import abc

import torch
from jaxtyping import Float
from torch import Tensor

from ..numerics import TIME_EPS, as_token_times
from ..typing import Elementwise, PerToken, Probs, Times, Tokens
from .base import NoiseProcess, columns
from .validation import check_domain, check_ends, check_support, interior_times, size_of_mixing

DENSE = 256  # largest vocabulary for which `validate` checks whole matrices
PROBES = 8  # number of columns that it checks otherwise


class TokenDependentProcess(NoiseProcess):
    r"""A process with state-dependent corruption: the mixing $\pi_t(\cdot \mid x)$ has a row for each clean token x.

    A subclass implements `alpha` and `mixing`; the rest is derived from them. Not every pair defines a Markov process;
    `validate` reports where it does not. For instance, a single hop to a neighbour is not Markov, because the future of
    a token would depend on whether it has already moved. Matrices are inverted in float64: if the signal falls below
    about 1e-12 inside the domain, override `transition` and `rate`, or end the domain there.

    **Arguments:**

    - `support`: the tokens that occur in data, Bool of shape [state]; `None` for all of them.

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

    # To be implemented, elementwise: t is float64 and may have any shape.

    @abc.abstractmethod
    def alpha(self, t: Elementwise) -> Float[Tensor, "..."]:
        """The signal: the probability that a token is unchanged, [*t.shape], or [*t.shape, state] if it depends on the
        token.
        """

    @abc.abstractmethod
    def mixing(self, t: Elementwise) -> Float[Tensor, "*batch state state"]:
        """The distribution that replaces a corrupted token: row x is that of the clean token x."""

    # Derived from them.

    def _found_vocab_size(self) -> int:
        return size_of_mixing(self)

    def signal(self, t: Elementwise) -> Float[Tensor, "... state"]:
        """`alpha` with a last axis for the token, of size 1 if it does not depend on it."""
        alpha = self.alpha(t).double()
        return alpha[..., None] if alpha.shape == t.shape else alpha

    def kernel(self, t: Elementwise) -> Float[Tensor, "*batch state state"]:
        r"""The matrices $Q_t$: row x is $q_t(\cdot \mid x)$. Override it for processes with explicit matrices."""
        low, high = self.domain
        # At the ends a mixing is often 0/0, because there is no noise or no signal; its limit is evaluated just inside.
        pi = self.mixing(t.clamp(low + TIME_EPS, high - TIME_EPS)).double()
        signal = self.signal(t)[..., None]
        return signal * torch.eye(pi.shape[-1], dtype=torch.float64, device=t.device) + (1 - signal) * pi

    def untouched(self, x: Tokens, t: Times) -> PerToken:
        """The signal of each token."""
        signal = self.signal(as_token_times(t, x))
        return signal.expand(*x.shape, self.vocab_size).gather(-1, x[..., None])[..., 0]

    def signal_share(self, t: Elementwise) -> tuple[Elementwise, Elementwise]:
        """The mean of alpha over the data tokens, and its complement to 1."""
        signal = self.signal(t.reshape(-1, 1))[:, 0]
        signal = signal if signal.shape[-1] == 1 else signal[:, self.data_tokens(t.device)]
        share = signal.mean(-1).view(t.shape)
        return share, 1 - share

    def marginal(self, x: Tokens | Probs, t: Times) -> Probs:
        r"""The law of the noisy token, $q_t(\cdot \mid x) = \sum_v x_v\, q_t(\cdot \mid v)$, dense.

        **Arguments:**

        - `x`: clean tokens, or a distribution over them at each position (a one-hot or a prediction).
        """
        x = self.as_law(x)
        return (x.double()[..., None, :] @ self.kernel(as_token_times(t, x[..., 0])))[..., 0, :]

    def probability(self, x: Tokens, z: Tokens, t: Times) -> PerToken:
        r"""The number $q_t(z \mid x)$ for each token."""
        return self.likelihood(z, t).gather(-1, x[..., None])[..., 0]

    def transition(self, z: Tokens, s: Times, t: Times) -> Probs:
        r"""The forward transition from s to t > s, $q_{t|s}(z \mid y)$ for each token y: a column of $Q_s^{-1} Q_t$."""
        s, t = self.step_times(s, t, z)
        matrix = _solve(self.kernel(s), self.kernel(t), s)
        # Rounding errors in place of zeros would let tokens that are known to be clean move; gradients are kept.
        return columns(matrix - torch.where(matrix.abs() < 1e-13, matrix, 0).detach(), z)

    def rate(self, z: Tokens, t: Times) -> Probs:
        r"""The rate at which each *other* token y jumps to z: a column of $R_t = Q_t^{-1} Q_t'$, with 0 at y = z.

        Derivatives come from forward-mode automatic differentiation.

        **Arguments:**

        - `t`: in the open interval (0, 1): at the ends the rate may be infinite.

        **Returns:** jumps per unit of time; negative values mean that `alpha` and `mixing` do not define a Markov
        process.
        """
        t = as_token_times(t, z)
        kernel, slope, *_ = torch.func.jvp(self.kernel, (t,), (torch.ones_like(t),))
        rate = columns(_solve(kernel, slope, t), z)
        return rate.scatter(-1, z[..., None], 0)

    @torch.no_grad()
    def validate(self, times: int = 64) -> None:
        """Check that this is a Markov process from data to noise, at `times` points of `domain`.

        For more than 256 tokens, only a few columns are checked, at fewer times.

        **Raises:** `ValueError` that says what fails and where: a signal outside [0, 1], a mixing that is not a
        distribution, a negative rate, tokens that are not clean at t = 0, a final law that still depends on the token.
        """
        states = self.vocab_size
        check_domain(self)
        check_support(self)
        t = interior_times(self.domain, times if states <= DENSE else min(times, PROBES)).to(self.device)
        self._check_signal(t)
        if states <= DENSE:
            self._check_rows(t)
        check_ends(self)
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
                    f"no rate may be negative, or this is not a Markov process; got {rate[row, column, token].item():.4g} "
                    f"from token {token} into token {z[column].item()} at t = {time[row].item():.6g}"
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
