r"""The base class of noise processes: two abstract primitives, and all other operations defined from them."""

import abc
from itertools import chain

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from ..categorical import Randomness, choose, replace_tokens, uniforms
from ..elbo.by_token import nelbo_by_token
from ..elbo.definition import kl_divergence
from ..elbo.score import score_entropy_dense
from ..elbo.steps import step_kl_dense
from ..elbo.streaming import CHUNK_BYTES
from ..exact import Exact
from ..mixing import HostCopy
from ..numerics import (
    TIME_EPS,
    as_time_shape,
    as_token_times,
    mask_off_support,
    require_count,
    require_falling,
    require_made,
    require_times,
    require_token_set,
    require_tokens,
)
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

ROUGH = 0.05  # how much the sum of a distribution may differ from 1: bfloat16 rounds each entry to three digits
CERTAIN_AT_MOST = 64  # maximum number of tokens that `data_tokens_are_certain` checks, each of which may cost a matrix


class NoiseProcess(Exact, abc.ABC):
    r"""A noise process that acts independently on each token, with a law $q_t(z \mid x)$ from x at t = 0 to pure noise
    at t = 1.

    A subclass implements two primitives, `marginal` and `transition`, and sets `vocab_size`. All other operations used
    by denoisers, bounds, samplers and evaluations are defined here from these primitives, with dense tensors of state^2
    numbers per token. `InterpolatingProcess` and `TokenDependentProcess` derive the primitives from a signal and a
    mixing, and override definitions with faster ones; `noiselab.testing` compares every override with its definition.

    Times are `t` of shape [batch] (one per sequence) or [batch, length] (one per token), 0 is clean, 1 is noise, s < t.

    **Arguments:**

    - `support`: the tokens that occur in data, Bool of shape [state]; `None` for all of them.

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
    """The range of times in which the process is used and validated."""
    reverse_draws: int = 1
    """The number of uniform numbers per token for `plan_reverse`."""
    clock_share: float = 0.5
    """The weight of time in the clock of `process_quadrature`, beside the angle of the signal, for changes at constant
    signal.
    """
    _vocab_size: int | None = None

    def __init__(self, support: TokenSet | None = None):
        super().__init__()
        self.register_buffer("support", None if support is None else require_token_set("support", support).clone())
        self._host = HostCopy()

    # What users give.

    def token_times(self, t: Times, *tokens: Tokens) -> TokenTimes:
        """Times and tokens as they enter a method: `as_token_times` within the domain, for tokens of the vocabulary.

        On an accelerator, which reading values would stall, only shapes and dtypes are checked.

        **Raises:** `ValueError` for times outside the domain or NaN, tokens outside the vocabulary, or shapes that do not
        match.
        """
        require_made(self)
        require_same_shape(*tokens)
        for some in tokens:
            require_tokens("tokens", some, self.vocab_size)
        return require_times(as_time_shape(t, tokens[0]), *self.domain)

    def as_law(self, x: Tokens | Probs) -> Probs:
        """Clean tokens as a distribution, one-hot, and float64; a distribution stays as it is.

        **Raises:** `ValueError` for tokens outside the vocabulary, or a distribution of another width.
        """
        if x.is_floating_point():
            if x.dim() != 3 or x.shape[-1] != self.vocab_size:
                raise ValueError(
                    f"distributions must have shape [batch, length, {self.vocab_size}]; got {list(x.shape)}"
                )
            return x
        require_tokens("x", x, self.vocab_size)
        return torch.nn.functional.one_hot(x.long(), self.vocab_size).double()

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
        """The number of tokens, set by the subclass."""
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

    # The law in various forms.

    def kernel(self, t: Elementwise) -> Float[Tensor, "*batch state state"]:
        r"""The law as a matrix for each time: row x is $q_t(\cdot \mid x)$."""
        every = torch.arange(self.vocab_size, device=t.device).expand(t.numel(), -1)
        return self.marginal(every, t.reshape(-1)).double().view(*t.shape, *2 * [self.vocab_size])

    def likelihood(self, z: Tokens, t: Times) -> Probs:
        r"""The probability of the noisy token, $q_t(z \mid v)$, for each clean token v: a column of the matrix."""
        return columns(self.kernel(self.token_times(t, z)), z)

    def probability(self, x: Tokens, z: Tokens, t: Times) -> PerToken:
        r"""The number $q_t(z \mid x)$ for each token."""
        return self.marginal(x, self.token_times(t, x, z)).gather(-1, z[..., None])[..., 0]

    def is_clean(self, z: Tokens, t: Times) -> Selection:
        """The mask of tokens z that can only have come from themselves, so that the clean token is z."""
        like = self.likelihood(z, t) > 0
        return (like.sum(-1) == 1) & like.gather(-1, z[..., None])[..., 0]

    def is_possible(self, z: Tokens, t: Times) -> Selection:
        """The mask of tokens z that some data token can have become."""
        return ((self.likelihood(z, t) > 0) & self.data_tokens(z.device)).any(-1)

    def posterior(self, z: Tokens, x_hat: Probs, s: Times, t: Times) -> Probs:
        r"""The reverse transition from t to s < t, dense: $q(z_s \mid z_t, \hat x) \propto q_{t|s}(z_t \mid z_s)\, q_s(z_s \mid \hat x)$.

        Samplers draw from it without computing it if the process allows (`plan_reverse`).

        **Arguments:**

        - `z`: tokens at time t.
        - `x_hat`: a distribution over clean tokens at each position: the leave-one-out prediction (the plug-in reverse
          process), or a one-hot of x.

        **Returns:** a distribution at each position; NaN where z is impossible.

        **Raises:** `ValueError` for times or tokens out of range, s > t, or an `x_hat` that is no distribution.
        """  # noqa: E501
        s, t = self.step_times(s, t, z)
        if x_hat.shape[:-1] != z.shape:
            raise ValueError(
                f"x_hat must be distributions for tokens of shape {list(z.shape)}; got {list(x_hat.shape)}"
            )
        require_distribution(self.as_law(x_hat))
        joint = self.transition(z, s, t) * self.marginal(x_hat, s)
        return joint / joint.sum(-1, keepdim=True)

    def step_times(self, s: Times, t: Times, *tokens: Tokens) -> tuple[TokenTimes, TokenTimes]:
        """The times of a step as they enter a method, as `token_times`.

        **Raises:** `ValueError` also for a step with s > t.
        """
        s, t = self.token_times(s, *tokens), require_times(as_time_shape(t, tokens[0]), *self.domain)
        require_falling(s, t)
        return s, t

    def rate(self, z: Tokens, t: Times) -> Probs:
        r"""The rate at which each *other* token y jumps to z, $R_t(y, z)$, with 0 at y = z.

        The slope of `transition` in its later time, by forward-mode automatic differentiation.

        **Arguments:**

        - `t`: in the open interval (0, 1): at the ends the rate may be infinite.

        **Returns:** jumps per unit of time; negative values mean that the process is not Markov.
        """
        t = as_token_times(t, z)
        slope = torch.func.jvp(lambda later: self.transition(z, t, later), (t,), (torch.ones_like(t),))[1]
        return slope.double().scatter(-1, z[..., None], 0)

    def untouched(self, x: Tokens, t: Times) -> PerToken:
        r"""The probability that the clean tokens x are unchanged by noise; shown separately in plots.

        By default the excess probability of x over the data token with the smallest,
        $q_t(x \mid x) - \min_v q_t(x \mid v)$, which is $\alpha_t$ for an `InterpolatingProcess`. As for
        `signal_share`, processes with an explicit signal may return it.
        """
        like = self.likelihood(x, t)[..., self.data_tokens(x.device)]
        return self.probability(x, x, t) - like.amin(-1)

    def signal_share(self, t: Elementwise) -> tuple[Elementwise, Elementwise]:
        r"""The signal remaining at the times t, and its complement to 1, which grids and quadratures use as a clock.

        By default the complement is the mass common to the laws of all data tokens x, $\sum_z \min_x q_t(z \mid x)$,
        which is $1 - \alpha_t$ for an `InterpolatingProcess`. Processes with an explicit signal may return it instead;
        only the positions of steps and nodes depend on it.
        """
        rest = self.kernel(t)[..., self.data_tokens(t.device), :].amin(-2).sum(-1)
        return 1 - rest, rest

    def signal_angle(self, t: Elementwise) -> Elementwise:
        r"""The angle of the signal, $\cos^2 \theta_t$ = `signal_share`; it resolves times of nearly clean and nearly
        pure noise.
        """
        signal, rest = self.signal_share(t)
        return torch.atan2(rest.clamp(min=0).sqrt(), signal.clamp(min=0).sqrt())

    def corners(self) -> list[float]:
        """The times inside the domain at which the law has a corner (from its schedules), in increasing order."""
        found = (module.corners() for module in self.modules() if module is not self and isinstance(module, Schedule))
        return sorted(set(chain.from_iterable(found)))

    # Draws.

    def corrupt(self, x: Tokens, t: Times, *, generator: Randomness = None) -> Tokens:
        """Draw noisy tokens from `marginal`, with one uniform number per token.

        **Raises:** `ValueError` for times outside the domain or NaN, tokens outside the vocabulary, or shapes that do not
        match; on an accelerator for shapes only.
        """
        t = self.token_times(t, x)
        return choose(self.marginal(x, t), uniforms(*x.shape, generator=generator, device=x.device))

    def prior_law(self) -> TokenProbs:
        """The law of pure noise: the marginals at the upper end of `domain`, averaged over the data tokens."""
        data = self.data_tokens(self.device)
        x = (data.double() / data.sum()).view(1, 1, -1)
        return self.marginal(x, x.new_tensor([self.domain[1]]))[0, 0]

    def prior(
        self, batch: int, length: int, *, generator: Randomness = None, device: torch.device | str | None = None
    ) -> Tokens:
        """Draw tokens of pure noise from `prior_law`."""
        u = uniforms(*prior_shape(batch, length), generator=generator, device=device or self.device)
        return choose(self.prior_law().to(u.device).expand(batch, length, -1), u)

    def renoise(self, z: Tokens, s: Times, t: Times, *, generator: Randomness = None) -> Tokens:
        r"""Draw tokens at t from the forward transition $q_{t|s}(\cdot \mid z_s)$.

        **Arguments:**

        - `z`: tokens at s.
        - `s`, `t`: s < t; a token with s = t does not change.
        """
        s, t = (time.expand(z.shape) for time in self.step_times(s, t, z))
        u, rows = uniforms(*z.shape, generator=generator, device=z.device), s < t
        if not rows.any():
            return z
        # `transition` returns columns (probabilities of arriving at a token); the columns of all tokens contain the
        # required rows.
        tokens = torch.arange(self.vocab_size, device=z.device).expand(int(rows.sum()), -1)
        matrix = self.transition(tokens, s[rows][:, None], t[rows][:, None])
        law = matrix.gather(-1, z[rows][:, None, None].expand(*tokens.shape, 1))[..., 0].clamp(min=0)
        return replace_tokens(z, rows, choose(law, u[rows]))

    def plan_reverse(self, z: Tokens, s: Times, t: Times, u: Float[Tensor, "batch length draws"]) -> ReversePlan:
        """Draw the part of the reverse transition from t to s that does not need the network.

        **Arguments:**

        - `z`: tokens at time t.
        - `s`, `t`: s < t; a token with s = t does not change.
        - `u`: `reverse_draws` uniform numbers per position, float64.
        """
        s, t = (as_token_times(time, z).expand(z.shape) for time in (s, t))
        return DensePlan(z, ~self.is_clean(z, t) & (s < t), self, s, t, u[..., 0])

    def time_weights(self, t: TokenTimes) -> Float[Tensor, "batch times parts"] | None:
        """All that the law takes from the time, so that a walk evaluates it once for its whole grid; `None` if it is not of
        this form.
        """
        return None

    def draw_reverse(
        self,
        logits: Float[Tensor, "batch length width"],
        z: Tokens,
        s: Times,
        t: Times,
        u: Float[Tensor, "batch length draws"],
        weights: Float[Tensor, "batch times parts"] | None = None,
    ) -> Tokens:
        """Draw the reverse transition from t to s at every position, from the logits of all: the tokens of
        `plan_reverse` and `resolve` with static shapes, for accelerators and compilers.

        **Arguments:**

        - `logits`: leave-one-out logits of at least float32, -inf off the support; the largest of each row is 0. The
          width may exceed the number of tokens (`padded_width`), by tokens of logit -inf.
        - `z`, `s`, `t`, `u`: as for `plan_reverse`.
        - `weights`: `time_weights` at s and t side by side, if they are known.
        """
        s, t = (as_token_times(time, z).expand(z.shape) for time in (s, t))
        x_hat = logits[..., : self.vocab_size].double().softmax(-1)
        stays = self.is_clean(z, t) | (s >= t)
        return torch.where(stays, z, choose(self.posterior(z, x_hat, s, t), u[..., 0]).to(z.dtype))

    def draw_posterior(self, x: Tokens, z: Tokens, s: Times, t: Times, *, generator: Randomness = None) -> Tokens:
        r"""Draw tokens at the earlier time s from the true reverse transition $q(z_s \mid z_t, x)$.

        **Arguments:**

        - `x`, `z`: clean tokens, and noisy ones at `t`.
        - `s`, `t`: s <= t.
        """
        s, t = self.step_times(s, t, z, x)
        u = uniforms(*x.shape, 3, generator=generator, device=x.device)
        return choose(self.posterior(z, self.as_law(x), s, t), u[..., 0])

    def plan_noisy(self, t: PerRow, u: Float[Tensor, "rows draws"]) -> tuple[RowTokens, Bool[Tensor, " rows"]]:
        r"""Draw single tokens from $q_t(\cdot \mid \hat x)$, except those that need the prediction $\hat x$.

        **Arguments:**

        - `t`: the time of each token.
        - `u`: five uniform numbers per token, float64.

        **Returns:** the tokens, and the mask [rows] of those that `resolve_noisy` must draw.
        """
        return torch.zeros_like(t, dtype=torch.long), torch.ones_like(t, dtype=torch.bool)

    def resolve_noisy(self, x_hat: Float[Tensor, "rows state"], t: PerRow, u: Float[Tensor, "rows draws"]) -> RowTokens:
        """Draw the tokens that need their prediction; arguments for these rows as for `plan_noisy`."""
        return choose(self.marginal(x_hat[:, None], t[:, None])[:, 0], u[..., 4])

    # Predictions: one row for each token.

    def on_support(self, logits: Float[Tensor, "*batch state"]) -> Float[Tensor, "*batch state"]:
        """The logits, with -inf at tokens outside the support."""
        return mask_off_support(logits, self.support)

    def add_evidence(self, logits: RowLogits, z: RowTokens, t: PerRow) -> RowLogits:
        r"""Posterior logits from leave-one-out logits: $\log \hat x_v + \log q_t(z \mid v)$, up to a constant of each row."""
        return logits + self.likelihood(z[:, None], t[:, None])[:, 0].log().to(logits)

    def remove_evidence(self, logits: RowLogits, z: RowTokens, t: PerRow) -> RowLogits:
        """Leave-one-out logits from posterior logits; for clean tokens that cannot have become z, the posterior logits."""
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
        r"""Leave-one-out logits from log-scores: the prediction $\hat x$ with these scores.

        **Raises:** `ValueError` by default, because a linear system would have to be solved for each token.
        """
        raise ValueError(
            "solving a score for the clean token requires state-independent corruption (an InterpolatingProcess); "
            f"got a {type(self).__name__}"
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

    # The bound. The functions of `noiselab.elbo` check their arguments and call these methods.

    def accept_weight(self, weight: PerToken | None) -> None:
        """Check whether the bound has a single weight per token that can be replaced.

        **Raises:** `ValueError` if a weight is given and the bound has no single weight per token (the default).
        """
        if weight is not None:
            raise self._no_single_weight()

    def rate_into(self, z: Tokens, t: Times) -> Float[Tensor, "batch ..."]:
        """The rate at which any other token jumps to z, if there is a single one.

        **Raises:** `ValueError` if it depends on the token left (the default).
        """
        raise self._no_single_weight()

    def elbo_weight(self, x: Tokens, z: Tokens, t: Times) -> PerToken:
        """The weight of a token in the bound, if there is a single one.

        **Raises:** `ValueError` if the rate into a token depends on the token left (the default).
        """
        raise self._no_single_weight()

    def _no_single_weight(self) -> ValueError:
        return ValueError(
            "a weight per token, as in a reweighted objective, requires an InterpolatingProcess, whose rate into a "
            f"token does not depend on the token left; got a {type(self).__name__}"
        )

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
        """The bound for scores (`noiselab.elbo.score_entropy`), by its definition."""
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
        """The indices of tokens outside the support; `None` if there are none."""
        if self.support is None:
            return None
        index = (~self.host_support()).nonzero()[:, 0]
        return index.to(self.support.device) if len(index) else None

    def data_tokens(self, device: torch.device | str | None = None) -> TokenSet:
        """The support as a tensor, even if it is `None`."""
        return torch.ones(self.vocab_size, dtype=torch.bool, device=device) if self.support is None else self.support

    def host_support(self) -> TokenSet:
        """A copy of the support that can be read without stalling a GPU."""
        return torch.ones(self.vocab_size, dtype=torch.bool) if self.support is None else self._host.of(self.support)

    def data_tokens_are_certain(self, time: float | int) -> bool:
        """Whether every data token observed at this time must be the clean one; for many tokens, a subset is checked."""
        tokens = self.data_tokens(self.device).nonzero()[:, 0]
        tokens = tokens[:: max(1, len(tokens) // CERTAIN_AT_MOST)]
        at = torch.full((1,), time, dtype=torch.float64, device=tokens.device)
        return bool(self.is_clean(tokens[None], at).all())

    def interior(self, t: Times, z: Tokens) -> TokenTimes:
        """Times as returned by `as_token_times`, kept 1e-12 away from the ends of the domain, where rates may be
        infinite.

        **Raises:** `ValueError` for times outside the domain, on the CPU.
        """
        low, high = self.domain
        return require_times(as_time_shape(t, z), low, high).clamp(low + TIME_EPS, high - TIME_EPS)

    @property
    def device(self) -> torch.device:
        """The device of its tensors."""
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
        except Exception:  # partially constructed processes must print too
            return f"{type(self).__name__}()"
        more = self.extra_repr() or f"{states} tokens" + (f", {data} in data" if data < states else "")
        return f"{type(self).__name__}({more})"


def prior_shape(batch: int, length: int) -> tuple[int, int]:
    """The shape of drawn noise, checked."""
    return require_count("batch", batch, 0), require_count("length", length, 0)


def require_same_shape(*tokens: Tensor) -> None:
    """Raise `ValueError` unless all tokens have one shape: others would broadcast."""
    shapes = [list(some.shape) for some in tokens]
    if any(shape != shapes[0] for shape in shapes):
        raise ValueError(f"tokens must have one shape, [batch, length]; got {', '.join(map(str, shapes))}")


def require_distribution(x_hat: Probs) -> None:
    """Raise `ValueError`, on the CPU, unless each row is non-negative and sums to 1 up to the rounding of half precision."""
    if x_hat.device.type != "cpu" or not x_hat.numel() or torch.compiler.is_compiling():
        return
    least, sums = x_hat.detach().amin(-1), x_hat.detach().sum(-1)
    bad = (least < 0) | ((sums - 1).abs() > ROUGH)
    if bad.any():  # NaN is passed on
        raise ValueError(
            f"x_hat must be distributions, such as the softmax of logits; got a row with sum {sums[bad][0].item():.4g} and "
            f"smallest entry {least[bad][0].item():.4g}"
        )


def columns(matrices: Float[Tensor, "batch time state state"], z: Tokens) -> Probs:
    """Column z of the matrix at each position."""
    states = matrices.shape[-1]
    wide = matrices.expand(*z.shape, states, states)
    return wide.gather(-1, z[..., None, None].expand(*z.shape, states, 1))[..., 0]
