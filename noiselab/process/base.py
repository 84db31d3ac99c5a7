r"""What every noise process offers, whatever its noise depends on: the law $q_t(z \mid x)$ and what follows from it."""

import abc
from itertools import chain

import torch
from jaxtyping import Float, Shaped
from torch import Tensor

from ..categorical import Randomness
from ..exact import Exact
from ..mixing import HostCopy
from ..typing import Elementwise, PerToken, Probs, Selection, Times, Tokens, TokenSet, TokenTimes

NO_SIGNAL = 1e-15  # the rounding of a signal that ends at 0: cos(pi / 2) is 6e-17
TIME_EPS = 1e-12  # how near the ends of time rates and limits are taken


def as_token_times(t: Times, z: Shaped[Tensor, "batch length"]) -> TokenTimes:
    """Time as float64 [batch, 1 or length], the form that `alpha` and `mixing` always meet.

    **Arguments:**

    - `t`: one time for each sequence, [batch], or for each token, [batch, length]; lifting twice changes nothing.

    **Raises:** `ValueError` for any other shape, of times or of tokens.
    """
    if z.dim() != 2:
        raise ValueError(f"tokens must have shape [batch, length]; got {list(z.shape)}")
    batch, length = z.shape
    if not isinstance(t, Tensor):
        raise ValueError(f"t must be a tensor of times, [{batch}] or [{batch}, {length}]; got {t!r}")
    if t.shape not in ((batch,), (batch, length), (batch, 1)):
        raise ValueError(f"t must have shape [{batch}] or [{batch}, {length}]; got {list(t.shape)}")
    # jvp refuses expanded tensors, hence contiguous.
    return (t[:, None] if t.dim() == 1 else t).to(z.device, torch.float64).contiguous()


class NoiseProcess(Exact, abc.ABC):
    r"""Independent noise on each token, with a law $q_t(z \mid x)$ that starts at x and ends in pure noise.

    What denoisers, bounds, samplers and evaluations may ask of any process. `InterpolatingProcess` derives all of it
    where the noise forgets the token that it destroys, `TokenDependentProcess` where it does not.

    Times are `t` of shape [batch] (one per sequence) or [batch, length] (one per token), 0 is clean, 1 is noise, s < t.

    **Arguments:**

    - `support`: the tokens that data consist of, Bool of shape [state]; `None` for all of them.
    """

    support: Tensor | None
    domain: tuple[float, float] = (0.0, 1.0)
    """The times at which the process is used; `validate` looks at no others."""
    _vocab_size: int | None = None

    def __init__(self, support: TokenSet | None = None):
        super().__init__()
        self.register_buffer("support", None if support is None else support.clone())
        self._host = HostCopy()

    @abc.abstractmethod
    def mixing(self, t: Elementwise) -> Float[Tensor, "..."]:
        """What replaces a destroyed token; the last axis is that of the tokens."""

    @property
    def vocab_size(self) -> int:
        """The number of tokens, read off `mixing` unless the subclass has set it."""
        if self._vocab_size is None:
            middle = torch.full((1, 1), sum(self.domain) / 2, dtype=torch.float64, device=self.device)
            try:
                self._vocab_size = self.mixing(middle).shape[-1]
            except (AttributeError, RecursionError) as error:
                # Left as they are, nn.Module would report them as a missing `vocab_size`.
                raise ValueError(f"mixing(t) must work without vocab_size, or set vocab_size first; {error}") from error
        return self._vocab_size

    @vocab_size.setter
    def vocab_size(self, value: int) -> None:
        self._vocab_size = value

    # The law, in the four forms that it is needed in.

    @abc.abstractmethod
    def marginal(self, x: Tokens | Probs, t: Times) -> Probs:
        r"""The law of the noisy token, $q_t(\cdot \mid x)$, or its mean over a distribution x, dense.

        **Arguments:**

        - `x`: clean tokens, or a distribution over them at each position (a one-hot or a prediction).
        """

    @abc.abstractmethod
    def likelihood(self, z: Tokens, t: Times) -> Probs:
        r"""How probable the noisy token is, $q_t(z \mid v)$, for each clean token v, dense."""

    @abc.abstractmethod
    def probability(self, x: Tokens, z: Tokens, t: Times) -> PerToken:
        r"""The number $q_t(z \mid x)$ for each token."""

    @abc.abstractmethod
    def corrupt(self, x: Tokens, t: Times, *, generator: Randomness = None) -> Tokens:
        """Noisy tokens drawn from `marginal`."""

    @abc.abstractmethod
    def prior(
        self, batch: int, length: int, *, generator: Randomness = None, device: torch.device | str | None = None
    ) -> Tokens:
        """Pure noise: tokens as they are at the upper end of `domain`, t = 1, for clean ones uniform on the support."""

    @abc.abstractmethod
    def posterior(self, z: Tokens, x_hat: Probs, s: Times, t: Times) -> Probs:
        r"""The reverse transition from t to s < t, dense: $q(z_s \mid z_t, \hat x) \propto q_{t|s}(z_t \mid z_s)\, q_s(z_s \mid \hat x)$.

        **Arguments:**

        - `z`: tokens at time t.
        - `x_hat`: a distribution over clean tokens at each position: the leave-one-out prediction (the plug-in reverse
          process), or a one-hot of x.

        **Returns:** a distribution at each position; not a number where z is impossible.
        """  # noqa: E501

    @abc.abstractmethod
    def is_clean(self, z: Tokens, t: Times) -> Selection:
        """Where z can have come from itself only, so that the clean token is z."""

    @abc.abstractmethod
    def validate(self, times: int = 64) -> None:
        """Check that this is a Markov process from data to noise, at `times` points of `domain`, dense at its ends.

        **Raises:** `ValueError` that says what fails and where.
        """

    # Tokens and times.

    def data_tokens(self, device: torch.device | str | None = None) -> TokenSet:
        """The support as a tensor, also where it is `None`."""
        return torch.ones(self.vocab_size, dtype=torch.bool, device=device) if self.support is None else self.support

    def host_support(self) -> TokenSet:
        """A copy of the support that can be read without stalling a GPU."""
        return torch.ones(self.vocab_size, dtype=torch.bool) if self.support is None else self._host.of(self.support)

    def interior(self, t: Times, z: Tokens) -> TokenTimes:
        """Lifted times, kept 1e-12 off the ends of the domain, where rates may be infinite."""
        low, high = self.domain
        return as_token_times(t, z).clamp(low + TIME_EPS, high - TIME_EPS)

    @property
    def device(self) -> torch.device:
        """Where its tensors live."""
        return next(chain(self.buffers(), self.parameters()), torch.empty(0)).device

    def __repr__(self) -> str:
        try:
            states = self.vocab_size
            data = states if self.support is None else int(self.support.sum())
        except Exception:  # a half-built process still prints
            return f"{type(self).__name__}()"
        more = self.extra_repr() or f"{states} tokens" + (f", {data} in data" if data < states else "")
        return f"{type(self).__name__}({more})"
