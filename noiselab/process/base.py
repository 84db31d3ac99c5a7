r"""What every noise process offers: two primitives, and everything that the library needs, defined from them."""

import abc
from itertools import chain

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from ..categorical import Randomness, choose, uniforms
from ..elbo.by_token import nelbo_by_token
from ..elbo.definition import kl_divergence
from ..elbo.score import score_entropy_dense
from ..elbo.steps import step_kl_dense
from ..elbo.streaming import CHUNK_BYTES
from ..exact import Exact
from ..mixing import HostCopy
from ..numerics import TIME_EPS, as_token_times
from ..schedules import Schedule
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
    TokenProbs,
    Tokens,
    TokenSet,
    TokenTimes,
)
from .plans import DensePlan, ReversePlan
from .validation import check_dense

CERTAIN_AT_MOST = 64  # tokens that `data_tokens_are_certain` looks at, each of which may cost a matrix


class NoiseProcess(Exact, abc.ABC):
    r"""Independent noise on each token, with a law $q_t(z \mid x)$ that starts at x and ends in pure noise.

    A kind of process writes two primitives, `marginal` and `transition`, and sets `vocab_size`. Everything else that
    denoisers, bounds, samplers and evaluations ask of a process is defined from them here: dense, state^2 numbers for
    each token. `InterpolatingProcess` and `TokenDependentProcess` derive the primitives from a signal and a mixing,
    and replace definitions by what their form allows; `noiselab.testing` compares every replacement with its definition.

    Times are `t` of shape [batch] (one per sequence) or [batch, length] (one per token), 0 is clean, 1 is noise, s < t.

    **Arguments:**

    - `support`: the tokens that data consist of, Bool of shape [state]; `None` for all of them.

    **Example:**

    ```python
    import torch
    import noiselab as nl
    from noiselab.process import as_token_times

    class Flips(nl.process.NoiseProcess):
        "A bit flips at rate 1 / (1 - t)."

        vocab_size = 2

        def kept(self, s, t):
            return ((1 - t) / (1 - s))[..., None] ** 2

        def marginal(self, x, t):
            x = x if x.is_floating_point() else torch.nn.functional.one_hot(x, 2).double()
            kept = self.kept(torch.zeros(()), as_token_times(t, x[..., 0]))
            return kept * x + (1 - kept) / 2

        def transition(self, z, s, t):
            kept = self.kept(as_token_times(s, z), as_token_times(t, z))
            return kept * torch.nn.functional.one_hot(z, 2) + (1 - kept) / 2

    process = Flips()
    process.validate()
    z = process.corrupt(torch.tensor([[0, 1, 1]]), torch.tensor([0.5]))
    ```
    """

    support: Tensor | None
    domain: tuple[float, float] = (0.0, 1.0)
    """The times at which the process is used; `validate` looks at no others."""
    reverse_draws: int = 1
    """Uniform numbers for each token that `plan_reverse` takes."""
    clock_share: float = 0.5
    """The share of time itself in the clock of `process_quadrature`, beside the angle of the signal: what may happen
    while the signal stays."""
    _vocab_size: int | None = None

    def __init__(self, support: TokenSet | None = None):
        super().__init__()
        self.register_buffer("support", None if support is None else support.clone())
        self._host = HostCopy()

    # The two primitives.

    @abc.abstractmethod
    def marginal(self, x: Tokens | Probs, t: Times) -> Probs:
        r"""The law of the noisy token, $q_t(\cdot \mid x)$, or its mean over a distribution x, dense.

        **Arguments:**

        - `x`: clean tokens, or a distribution over them at each position (a one-hot or a prediction).
        """

    @abc.abstractmethod
    def transition(self, z: Tokens, s: Times, t: Times) -> Probs:
        r"""The forward transition from s to t >= s into the tokens z: $q_{t|s}(z \mid y)$ for each token y, dense.

        Differentiable in t, also at t = s, where it is 1 for y = z and 0 elsewhere: `rate` is its slope there.
        """

    @property
    def vocab_size(self) -> int:
        """The number of tokens: set by the subclass."""
        if self._vocab_size is None:
            self._vocab_size = self._found_vocab_size()
        return self._vocab_size

    @vocab_size.setter
    def vocab_size(self, value: int) -> None:
        self._vocab_size = value

    def _found_vocab_size(self) -> int:
        raise ValueError(
            f"a noise process must set vocab_size, the number of its tokens; {type(self).__name__} does not"
        )

    # The law, in the forms that it is needed in.

    def kernel(self, t: Elementwise) -> Float[Tensor, "*batch state state"]:
        r"""The law as a matrix for each time: row x is $q_t(\cdot \mid x)$."""
        every = torch.arange(self.vocab_size, device=t.device).expand(t.numel(), -1)
        return self.marginal(every, t.reshape(-1)).double().view(*t.shape, *2 * [self.vocab_size])

    def likelihood(self, z: Tokens, t: Times) -> Probs:
        r"""The probability of the noisy token, $q_t(z \mid v)$, for each clean token v: a column of the matrix."""
        return columns(self.kernel(as_token_times(t, z)), z)

    def probability(self, x: Tokens, z: Tokens, t: Times) -> PerToken:
        r"""The number $q_t(z \mid x)$ for each token."""
        return self.marginal(x, t).gather(-1, z[..., None])[..., 0]

    def is_clean(self, z: Tokens, t: Times) -> Selection:
        """Where z can have come from itself only, so that the clean token is z."""
        like = self.likelihood(z, t) > 0
        return (like.sum(-1) == 1) & like.gather(-1, z[..., None])[..., 0]

    def is_possible(self, z: Tokens, t: Times) -> Selection:
        """Where a token of the data can have become z."""
        return ((self.likelihood(z, t) > 0) & self.data_tokens(z.device)).any(-1)

    def posterior(self, z: Tokens, x_hat: Probs, s: Times, t: Times) -> Probs:
        r"""The reverse transition from t to s < t, dense: $q(z_s \mid z_t, \hat x) \propto q_{t|s}(z_t \mid z_s)\, q_s(z_s \mid \hat x)$.

        Samplers draw from it without building it where the process allows it (`plan_reverse`).

        **Arguments:**

        - `z`: tokens at time t.
        - `x_hat`: a distribution over clean tokens at each position: the leave-one-out prediction (the plug-in reverse
          process), or a one-hot of x.

        **Returns:** a distribution at each position; NaN where z is impossible.
        """  # noqa: E501
        joint = self.transition(z, s, t) * self.marginal(x_hat, s)
        return joint / joint.sum(-1, keepdim=True)

    def rate(self, z: Tokens, t: Times) -> Probs:
        r"""The rate at which each *other* token y jumps to z, $R_t(y, z)$, with 0 at y = z.

        The slope of `transition` in its later time, by forward-mode automatic differentiation.

        **Arguments:**

        - `t`: in the open interval (0, 1): at the ends the rate may be infinite.

        **Returns:** jumps per unit of time; negative where this is no Markov process.
        """
        t = as_token_times(t, z)
        slope = torch.func.jvp(lambda later: self.transition(z, t, later), (t,), (torch.ones_like(t),))[1]
        return slope.double().scatter(-1, z[..., None], 0)

    def untouched(self, x: Tokens, t: Times) -> PerToken:
        r"""How probably the clean tokens x are untouched by noise: what is drawn apart in pictures.

        Here what x has more on itself than the data token that has least: $q_t(x \mid x) - \min_v q_t(x \mid v)$, which is
        $\alpha_t$ for an `InterpolatingProcess`. As for `signal_share`, a kind with a signal of its own may give that.
        """
        like = self.likelihood(x, t)[..., self.data_tokens(x.device)]
        return self.probability(x, x, t) - like.amin(-1)

    def signal_share(self, t: Elementwise) -> tuple[Elementwise, Elementwise]:
        r"""How much of a data token is left at the times t, and the rest to 1: what grids and quadratures use as a clock.

        Here the rest is what the law shares, whatever the clean token: $\sum_z \min_x q_t(z \mid x)$ over data tokens x.
        That is $1 - \alpha_t$ for an `InterpolatingProcess`. A kind with a signal of its own may give that: only the
        places of steps and nodes depend on it.
        """
        rest = self.kernel(t)[..., self.data_tokens(t.device), :].amin(-2).sum(-1)
        return 1 - rest, rest

    def signal_angle(self, t: Elementwise) -> Elementwise:
        r"""The angle of the signal, $\cos^2 \theta_t$ = `signal_share`: it spreads out what is nearly clean or nearly noise."""
        signal, rest = self.signal_share(t)
        return torch.atan2(rest.clamp(min=0).sqrt(), signal.clamp(min=0).sqrt())

    def corners(self) -> list[float]:
        """Times inside the domain at which the law has a corner, rising: those of its schedules."""
        found = (module.corners() for module in self.modules() if module is not self and isinstance(module, Schedule))
        return sorted(set(chain.from_iterable(found)))

    # Draws.

    def corrupt(self, x: Tokens, t: Times, *, generator: Randomness = None) -> Tokens:
        """Noisy tokens drawn from `marginal`, one uniform number a token."""
        return choose(self.marginal(x, t), uniforms(*x.shape, generator=generator, device=x.device))

    def prior_law(self) -> TokenProbs:
        """The law of pure noise: the marginals at the upper end of `domain`, averaged over the data tokens."""
        data = self.data_tokens(self.device)
        x = (data.double() / data.sum()).view(1, 1, -1)
        return self.marginal(x, x.new_tensor([self.domain[1]]))[0, 0]

    def prior(
        self, batch: int, length: int, *, generator: Randomness = None, device: torch.device | str | None = None
    ) -> Tokens:
        """Pure noise: tokens drawn from `prior_law`."""
        u = uniforms(batch, length, generator=generator, device=device or self.device)
        return choose(self.prior_law().to(u.device).expand(batch, length, -1), u)

    def renoise(self, z: Tokens, s: Times, t: Times, *, generator: Randomness = None) -> Tokens:
        r"""Tokens at t, drawn from the forward transition $q_{t|s}(\cdot \mid z_s)$.

        **Arguments:**

        - `z`: tokens at s.
        - `s`, `t`: s < t; a token with s = t stays as it is.
        """
        s, t = (as_token_times(time, z).expand(z.shape) for time in (s, t))
        u, rows = uniforms(*z.shape, generator=generator, device=z.device), s < t
        if not rows.any():
            return z
        # `transition` gives columns, the law of what a token comes from; all of them together have the row of what it becomes.
        tokens = torch.arange(self.vocab_size, device=z.device).expand(int(rows.sum()), -1)
        matrix = self.transition(tokens, s[rows][:, None], t[rows][:, None])
        law = matrix.gather(-1, z[rows][:, None, None].expand(*tokens.shape, 1))[..., 0].clamp(min=0)
        return z.masked_scatter(rows, choose(law, u[rows]))

    def plan_reverse(self, z: Tokens, s: Times, t: Times, u: Float[Tensor, "batch length draws"]) -> ReversePlan:
        """The reverse transition from t to s, as far as it can be drawn without the network.

        **Arguments:**

        - `z`: tokens at time t.
        - `s`, `t`: s < t; a token with s = t stays as it is.
        - `u`: `reverse_draws` uniform numbers a position, float64.
        """
        s, t = (as_token_times(time, z).expand(z.shape) for time in (s, t))
        return DensePlan(z, ~self.is_clean(z, t) & (s < t), self, s, t, u[..., 0])

    def draw_posterior(self, x: Tokens, z: Tokens, s: Times, t: Times, *, generator: Randomness = None) -> Tokens:
        r"""Tokens at the earlier time s, drawn from the true reverse transition $q(z_s \mid z_t, x)$.

        **Arguments:**

        - `x`, `z`: clean tokens, and noisy ones at `t`.
        - `s`, `t`: s <= t.
        """
        u = uniforms(*x.shape, 3, generator=generator, device=x.device)
        one_hot = torch.nn.functional.one_hot(x.long(), self.vocab_size).double()
        return choose(self.posterior(z, one_hot, s, t), u[..., 0])

    def plan_noisy(self, t: PerRow, u: Float[Tensor, "rows draws"]) -> tuple[RowTokens, Bool[Tensor, " rows"]]:
        r"""Single tokens drawn from $q_t(\cdot \mid \hat x)$, as far as they need no prediction $\hat x$.

        **Arguments:**

        - `t`: the time of each.
        - `u`: five uniform numbers each, float64.

        **Returns:** the tokens, and Bool [rows], which of them `resolve_noisy` must draw.
        """
        return torch.zeros_like(t, dtype=torch.long), torch.ones_like(t, dtype=torch.bool)

    def resolve_noisy(self, x_hat: Float[Tensor, "rows state"], t: PerRow, u: Float[Tensor, "rows draws"]) -> RowTokens:
        """The tokens that need their prediction, drawn from it; arguments of these rows as for `plan_noisy`."""
        return choose(self.marginal(x_hat[:, None], t[:, None])[:, 0], u[..., 4])

    # Predictions: one row for each token.

    def on_support(self, logits: Float[Tensor, "*batch state"]) -> Float[Tensor, "*batch state"]:
        """The logits, -inf at tokens that no data contain."""
        return logits if self.support is None else logits.masked_fill(~self.support.to(logits.device), -torch.inf)

    def add_evidence(self, logits: RowLogits, z: RowTokens, t: PerRow) -> RowLogits:
        r"""Posterior logits from leave-one-out logits: $\log \hat x_v + \log q_t(z \mid v)$, up to a constant of each row."""
        return logits + self.likelihood(z[:, None], t[:, None])[:, 0].log().to(logits)

    def remove_evidence(self, logits: RowLogits, z: RowTokens, t: PerRow) -> RowLogits:
        """Leave-one-out logits from posterior logits; of a clean token that cannot have become z, the posterior's."""
        like = self.likelihood(z[:, None], t[:, None])[:, 0]
        return logits - torch.where(like > 0, like, 1).log().to(logits)

    def log_marginal(self, logits: RowLogits, t: PerRow) -> RowLogits:
        r"""$\log q_t(y \mid \hat x)$ for every token y, up to a constant of each row, at least float32.

        **Arguments:**

        - `logits`: leave-one-out logits, -inf off the support.
        """
        dtype = torch.promote_types(logits.dtype, torch.float32)
        return self.marginal(logits.double().softmax(-1)[:, None], t[:, None])[:, 0].log().to(dtype)

    def solve_score(self, log_scores: RowLogits, z: RowTokens, t: PerRow) -> RowLogits:
        r"""Leave-one-out logits from log-scores: what $\hat x$ has these scores.

        **Raises:** `ValueError` where a linear system would have to be solved for each token: the definition.
        """
        raise ValueError(
            "a score can be solved for the clean token only where noise does not depend on the token it destroys (an "
            f"InterpolatingProcess); got a {type(self).__name__}"
        )

    def predicted_probability(self, x_hat: Float[Tensor, "rows state"], z: RowTokens, t: PerRow) -> PerRow:
        r"""$q_t(z \mid \hat x)$ for single tokens z."""
        return self.marginal(x_hat[:, None], t[:, None])[:, 0].gather(-1, z[:, None])[:, 0]

    def log_evidence(self, logits: Logits, log_sum: PerToken, z: Tokens, t: Times) -> PerToken:
        r"""$\log q_t(z \mid \hat x)$ for the tokens z, float64.

        **Arguments:**

        - `logits`, `log_sum`: leave-one-out logits, -inf off the support, and their logsumexp, float64.
        """
        log_u, like = logits.double() - log_sum[..., None], self.likelihood(z, t)
        some = like > 0
        return torch.where(some, log_u + torch.where(some, like, 1).log(), -torch.inf).logsumexp(-1)

    # The bound; the functions of `noiselab.elbo` check their arguments and call these.

    def accept_weight(self, weight: PerToken | None) -> None:
        """Refuse a weight of the token in the bound, where the bound has no single one.

        **Raises:** `ValueError` for a weight: the definition.
        """
        if weight is not None:
            raise ValueError(
                "a weight per token, as of a reweighted objective, needs an InterpolatingProcess, whose rate into a token "
                f"does not depend on where the jump starts; got a {type(self).__name__}"
            )

    def elbo_weight(self, x: Tokens, z: Tokens, t: Times) -> PerToken:
        """The weight of a token in the bound, where it has one.

        **Raises:** `ValueError` where the rate into a token depends on where the jump starts: the definition.
        """
        self.accept_weight(torch.ones_like(z, dtype=torch.float64))
        raise NotImplementedError

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
        """The integrand of the bound (`noiselab.nelbo`): the sum over all jumps (`nelbo_by_token`)."""
        self.accept_weight(weight)
        return nelbo_by_token(self, logits, x, z, t)

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
        """The bound of free scores (`noiselab.elbo.score_entropy`), as it is defined."""
        return score_entropy_dense(self, log_scores, x, z, t, weight=weight)

    def step_kl(
        self, logits: Logits, x: Tokens, z: Tokens, s: Times, t: Times, *, chunk_bytes: int = CHUNK_BYTES
    ) -> PerToken:
        """The divergence of one reverse step (`noiselab.elbo.step_kl`), from its posteriors."""
        return step_kl_dense(self, logits, x, z, s, t)

    def prior_kl(self, x: Tokens, t: Times) -> PerToken:
        """The divergence of the law at the time t from pure noise (`noiselab.elbo.prior_kl`)."""
        return kl_divergence(self.marginal(x, t), self._pure_noise(x, t))

    def prior_log_prob(self, z: Tokens, t: Times) -> PerToken:
        """The log-probability of tokens under pure noise at the upper time t (`noiselab.elbo.ends.prior_log_prob`)."""
        return self._pure_noise(z, t).expand(*z.shape, -1).gather(-1, z[..., None])[..., 0].log()

    def _pure_noise(self, x: Tensor, t: Times) -> Tensor:
        data = self.data_tokens(x.device).double()
        return self.marginal((data / data.sum()).expand(*x.shape, -1), t)

    # Tokens and times.

    def off_support(self) -> Int[Tensor, " off"] | None:
        """The tokens that no data contain, as indices; `None` where there are none."""
        if self.support is None:
            return None
        index = (~self.host_support()).nonzero()[:, 0]
        return index.to(self.support.device) if len(index) else None

    def data_tokens(self, device: torch.device | str | None = None) -> TokenSet:
        """The support as a tensor, also where it is `None`."""
        return torch.ones(self.vocab_size, dtype=torch.bool, device=device) if self.support is None else self.support

    def host_support(self) -> TokenSet:
        """A copy of the support that can be read without stalling a GPU."""
        return torch.ones(self.vocab_size, dtype=torch.bool) if self.support is None else self._host.of(self.support)

    def data_tokens_are_certain(self, time: float | int) -> bool:
        """Whether every data token that is seen at this time must be the clean one; of many tokens, some are looked at."""
        tokens = self.data_tokens(self.device).nonzero()[:, 0]
        tokens = tokens[:: max(1, len(tokens) // CERTAIN_AT_MOST)]
        time = torch.full((1,), time, dtype=torch.float64, device=tokens.device)
        return bool(self.is_clean(tokens[None], time).all())

    def interior(self, t: Times, z: Tokens) -> TokenTimes:
        """Times as `as_token_times` makes them, kept 1e-12 off the ends of the domain, where rates may be infinite."""
        low, high = self.domain
        return as_token_times(t, z).clamp(low + TIME_EPS, high - TIME_EPS)

    @property
    def device(self) -> torch.device:
        """Where its tensors live."""
        return next(chain(self.buffers(), self.parameters()), torch.empty(0)).device

    def validate(self, times: int = 64) -> None:
        """Check that this is a Markov process from data to noise, at `times` points of `domain`, dense at its ends.

        **Raises:** `ValueError` that says what fails and where.
        """
        check_dense(self, times)

    def __repr__(self) -> str:
        try:
            states = self.vocab_size
            data = states if self.support is None else int(self.support.sum())
        except Exception:  # a half-built process still prints
            return f"{type(self).__name__}()"
        more = self.extra_repr() or f"{states} tokens" + (f", {data} in data" if data < states else "")
        return f"{type(self).__name__}({more})"


def columns(matrices: Float[Tensor, "batch time state state"], z: Tokens) -> Probs:
    """Column z of the matrix at each position."""
    states = matrices.shape[-1]
    wide = matrices.expand(*z.shape, states, states)
    return wide.gather(-1, z[..., None, None].expand(*z.shape, states, 1))[..., 0]
