"""Processes composed of a signal and a weighted sum of noises."""

from collections.abc import Mapping
from typing import no_type_check

import torch
from jaxtyping import Float
from torch import Tensor, nn

from ..mixing import Absorbing, Mixing, NoiseMass
from ..mixing.base import check_weights, same_size
from ..numerics import require_token_set
from ..schedules import ScheduleLike, as_schedule
from ..typing import Elementwise, ElementwiseProbs, TokenSet, TokenTimes
from .interpolating import InterpolatingProcess
from .validation import interior_times


class Interpolation(InterpolatingProcess):
    r"""A process composed of a signal and any number of noises with non-negative weights, normalised.

    $$C_t = w_0 + \sum_k w_k, \qquad \alpha_t = w_0 / C_t, \qquad b_t = \sum_k (w_k / C_t)\, u_k$$

    Only the ratios of the weights matter.

    **Arguments:**

    - `signal`: the weight $w_0$ of the clean token: a schedule, a function of time or a number.
    - `noises`: the weight $w_k$ of each mixing $u_k$.
    - `support`: the tokens that occur in data, Bool [state]. By default all except the tokens of `Absorbing` noises,
      alone or in a blend.
    - `domain`: the times at which the process is used; weights and rates are checked there.

    **Raises:** `ValueError` if mixings differ in size, a weight is negative, all weights vanish, or the process is not
    Markov (`validate`).

    **Source:** von Ruette et al. (2025), arXiv 2503.04482, generalised to any number of noises.

    **Example:**

    ```python
    import torch
    from noiselab import Absorbing, Interpolation, Unigram, t

    frequencies = torch.tensor([0.5, 0.3, 0.2, 0.0])
    process = Interpolation(1 - t, {Absorbing(3, 4): t, Unigram(frequencies): t**2})
    assert repr(process) == "Interpolation(1 - t, {Absorbing(3): t, Unigram(4): t ** 2})"
    ```
    """

    def __init__(
        self,
        signal: ScheduleLike,
        noises: Mapping[Mixing, ScheduleLike],
        *,
        support: TokenSet | None = None,
        domain: tuple[float, float] = (0.0, 1.0),
    ):
        super().__init__()
        self.vocab_size = same_size(noises, "noises")
        self.signal = as_schedule(signal)
        self.mixings = nn.ModuleList(noises)
        self.weights = nn.ModuleList(as_schedule(weight) for weight in noises.values())
        self.domain = domain
        special = [part.token for mixing in noises for part in mixing.modules() if isinstance(part, Absorbing)]
        if support is None and special:
            support = ~torch.isin(torch.arange(self.vocab_size), torch.tensor(special))
            if not support.any():
                raise ValueError("the support must not be empty; got absorbing noise on the whole vocabulary")
        self.support = None if support is None else require_token_set("support", support, self.vocab_size).clone()
        self.validate()

    def raw_weights(self, t: Elementwise) -> Float[Tensor, "*batch parts"]:
        """The weights, the signal's first; values that are negative by rounding are set to 0."""
        return self._written(t).clamp(min=0)

    def alpha(self, t: Elementwise) -> Elementwise:
        """The normalised weight of the signal."""
        return self._shares(t)[..., 0]

    def mixing(self, t: Elementwise) -> ElementwiseProbs:
        """The normalised noise, dense; at a time without noise, its limit from the right, or all parts evenly."""
        shares = self._shares(t)[..., 1:]
        # 0/0 where there is no noise yet; the limit is evaluated just inside.
        shares = torch.where(shares.sum(-1, keepdim=True) > 0, shares, self._shares(t + 1e-9)[..., 1:])
        # If there is still no noise, or too little for float64, no token is replaced, and any distribution is correct.
        shares = torch.where(shares.sum(-1, keepdim=True) > 0, shares, 1)
        # Normalised first, because products with weights near the smallest float would round to 0.
        return NoiseMass(shares / shares.sum(-1, keepdim=True), self._mixings(), t).dense()

    def noise(self, t: TokenTimes) -> NoiseMass:
        """The mixings with the normalised weights of the noises."""
        return NoiseMass(self._shares(t)[..., 1:], self._mixings(), t)

    def time_weights(self, t: TokenTimes) -> Float[Tensor, "batch times parts"] | None:
        """The normalised weights, the signal's first; `None` for a subclass with a signal or noise of its own."""
        kind = type(self)
        own = kind.alpha is not Interpolation.alpha or kind.noise is not Interpolation.noise
        return None if own else self._shares(t).double()

    def signal_and_noise(
        self, t: TokenTimes, weights: Float[Tensor, "batch times parts"] | None = None
    ) -> tuple[TokenTimes, NoiseMass]:
        """Both from one evaluation of the weights."""
        weights = self.time_weights(t) if weights is None else weights
        if weights is None:
            return super().signal_and_noise(t)
        return weights[..., 0], NoiseMass(weights[..., 1:], self._mixings(), t)

    def validate(self, times: int = 64) -> None:
        """Check the weights, then the conditions on every process.

        **Raises:** `ValueError` that states what fails and where.
        """
        low, high = self.domain
        grid = interior_times(self.domain, times).to(self.device)
        t = torch.cat([grid.new_tensor([low]), grid, grid.new_tensor([high])])
        with torch.no_grad():
            check_weights(self._written(t), t, (self.signal, *self.weights))
        super().validate(times)

    # Internal, called by the public methods, which check shapes.

    @no_type_check
    def _written(self, t: Tensor) -> Tensor:
        if not isinstance(t, Tensor):
            raise ValueError(f"t must be a tensor of times; got {t!r}")
        return torch.stack([self.signal._value(t), *(weight._value(t) for weight in self.weights)], -1)

    @no_type_check
    def _mixings(self) -> tuple[Mixing, ...]:
        return tuple(mixing for mixing in self.mixings if isinstance(mixing, Mixing))

    @no_type_check
    def _shares(self, t: Tensor) -> Tensor:
        weights = self.raw_weights(t)
        return weights / weights.sum(-1, keepdim=True)

    def __repr__(self) -> str:
        noises = ", ".join(f"{mixing}: {weight}" for mixing, weight in zip(self.mixings, self.weights, strict=True))
        return f"Interpolation({self.signal}, {{{noises}}})"
