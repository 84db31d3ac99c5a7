"""Mixings that change with time: a blend of others with time-dependent weights."""

from collections.abc import Mapping
from itertools import chain

import torch
from jaxtyping import Float
from torch import Tensor, nn

from ..categorical import _invert
from ..numerics import TIME_EPS
from ..schedules import Constant, ScheduleLike, as_schedule
from ..typing import Elementwise, ElementwiseProbs, PerToken, TokenProbs, Tokens, TokenSet, TokenTimes
from .base import Mixing, NoiseMass, check_weights, same_size
from .fixed import check_support


class Blend(Mixing):
    r"""A normalised sum of mixings with time-dependent weights.

    $$\pi_t = \sum_k \frac{w_k(t)}{\sum_j w_j(t)}\, u_k$$

    With it, noise can begin as frequent words and end as masks, while the process sets the amount of noise. The parts
    may be blends themselves. The bound reads the parts (`factors`), so nothing dense is built. Where all weights vanish
    at an end of time, their limit is used.

    **Arguments:**

    - `parts`: the weight $w_k$ of each mixing $u_k$: a schedule, a function of time or a number. The parameters of a
      schedule are trained with the process.
    - `support`: the tokens that may have mass, Bool of shape [state]; the process checks it.

    **Raises:** `ValueError` if mixings differ in size, a weight is negative, or all vanish at one time.

    **Example:**

    ```python
    import torch
    from noiselab import Blend, Interpolation, Unigram, Uniform, t

    words = Unigram(torch.tensor([0.5, 0.3, 0.2]))
    process = Interpolation(1 - t, {Blend({words: 1 - t, Uniform(3): t}): t})
    assert repr(process) == "Interpolation(1 - t, {Blend({Unigram(3): 1 - t, Uniform(3): t}): t})"
    assert torch.allclose(process.mixing(torch.zeros((), dtype=torch.float64)), words.row)
    ```
    """

    def __init__(self, parts: Mapping[Mixing, ScheduleLike], *, support: TokenSet | None = None):
        super().__init__(support)
        self.vocab_size = same_size(parts, "parts")
        if support is not None:
            check_support(support, self.vocab_size)
        self.parts = nn.ModuleList(parts)
        self.weights = nn.ModuleList(as_schedule(weight) for weight in parts.values())
        self.validate()

    def shares(self, t: Elementwise) -> Float[Tensor, "*batch parts"]:
        """The normalised weights; at the ends of time their limits."""
        weights = self._weights(t)
        return weights / weights.sum(-1, keepdim=True)

    def factors(self, t: TokenTimes) -> NoiseMass:
        """The parts and their shares."""
        return NoiseMass(self.shares(t), self._mixings(), t)

    def probs(self, t: Elementwise) -> ElementwiseProbs:
        """The weighted sum of the parts' rows."""
        return NoiseMass(self.shares(t), self._mixings(), t).dense()

    def at(self, z: Tokens, t: TokenTimes) -> Float[Tensor, "batch ..."]:
        """The weighted sum of the parts' probabilities."""
        return self.factors(t).at(z)

    def choose(self, u: PerToken, t: TokenTimes) -> Tokens:
        """By inverse CDF over the parts; the position of `u` within the part's share then selects the token."""
        part, inside = _invert(self.shares(t).expand(*u.shape, -1), u)
        first, *others = self._mixings()
        z = first.choose(inside, t)
        for k, mixing in enumerate(others, 1):
            z = torch.where(part == k, mixing.choose(inside, t), z)
        return z

    def profile(self, support: TokenSet) -> float | TokenProbs | None:
        """The common profile of all parts, or the blend of their profiles if the weights are numbers; else `None`."""
        profiles = [part.profile(support) for part in self._mixings()]
        if len(profiles) == 1:
            return profiles[0]
        if all(isinstance(profile, float) and profile == profiles[0] for profile in profiles):
            return profiles[0]
        if not all(isinstance(weight, Constant) for weight in self.weights):
            return None
        home = next(self.buffers(), torch.empty(0)).device
        total: float | Tensor = 0.0
        for share, profile in zip(self.shares(torch.zeros((), dtype=torch.float64)).tolist(), profiles, strict=True):
            if profile is None:
                return None
            total = total + share * (profile.to(home) if isinstance(profile, Tensor) else profile)
        return total

    def validate(self, times: int = 64) -> None:
        """Check the weights at `times` + 1 times.

        **Raises:** `ValueError` that says what fails and where.
        """
        home = next(chain(self.buffers(), self.parameters()), torch.empty(0)).device
        t = torch.sin(torch.linspace(0, torch.pi / 2, times + 1, dtype=torch.float64, device=home)) ** 2
        with torch.no_grad():
            check_weights(self._written(t), t, self.weights)

    def _weights(self, t: Tensor) -> Tensor:
        return self._written(t).clamp(min=0)

    def _written(self, t: Tensor) -> Tensor:
        """The weights as given; rounding may have made some negative."""
        inside = t.clamp(TIME_EPS, 1 - TIME_EPS)
        return torch.stack([weight(inside) for weight in self.weights], -1)

    def _mixings(self) -> tuple[Mixing, ...]:
        return tuple(part for part in self.parts if isinstance(part, Mixing))

    def __repr__(self) -> str:
        parts = ", ".join(f"{part}: {weight}" for part, weight in zip(self.parts, self.weights, strict=True))
        return f"Blend({{{parts}}})"
