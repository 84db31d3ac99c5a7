r"""What stands where a mistake was made: laws $\nu(\cdot \mid x, i)$ of wrong tokens.

A wrong token is never the right one: every law here leaves out $x_i$ and shares its mass among the others in proportion.
"""

import math
from abc import ABC, abstractmethod
from collections.abc import Sequence
from typing import Any

import torch
from jaxtyping import Bool, Float, Int
from torch import Generator, Tensor, nn

from ..categorical import choose, uniforms


class WrongTokens(ABC):
    """A law of wrong tokens at the places of a text.

    A law is written in one method, `mass`; the others are shortcuts where rows of the size of the vocabulary cost too
    much. `possible` says where there is a wrong token at all.
    """

    @abstractmethod
    def mass(self, x: Int[Tensor, " length"], places: Int[Tensor, " place"]) -> Float[Tensor, "place state"]:
        """How likely each token is in each place, up to a factor and with the right token still among them.

        **Arguments:**

        - `x`: the text.
        - `places`: where in it.
        """

    def possible(self, x: Int[Tensor, " length"]) -> Bool[Tensor, " length"]:
        """Where there is a wrong token to write."""
        return self._wrong(x, torch.arange(len(x), device=x.device)).sum(-1) > 0

    def draw(
        self, x: Int[Tensor, " length"], places: Int[Tensor, " place"], *, generator: Generator | None = None
    ) -> Int[Tensor, " place"]:
        """A wrong token for each place, where one is possible."""
        return choose(self._wrong(x, places), uniforms(len(places), generator=generator, device=x.device))

    def log_probability(
        self, x: Int[Tensor, " length"], places: Int[Tensor, " place"], tokens: Int[Tensor, " place"]
    ) -> Float[Tensor, " place"]:
        """Log nu of tokens in places, float64; minus infinity for the right token."""
        mass = self._wrong(x, places)
        inside = (tokens >= 0) & (tokens < mass.shape[-1])
        chosen = mass.gather(-1, torch.where(inside, tokens, 0)[:, None])[:, 0]
        return torch.where(inside, chosen, 0).log() - mass.sum(-1).log()

    def _wrong(self, x: Tensor, places: Tensor) -> Tensor:
        mass = self.mass(x, places).double()
        right = torch.arange(mass.shape[-1], device=x.device) == x[places, None]
        return mass.masked_fill(right, 0)


class Without(WrongTokens):
    """Another law of wrong tokens, without some of its tokens.

    **Arguments:**

    - `wrong`: the law.
    - `tokens`: what it shall not draw.
    """

    def __init__(self, wrong: WrongTokens, tokens: Sequence[int]) -> None:
        self.wrong, self.tokens = wrong, tuple(tokens)

    def mass(self, x: Int[Tensor, " length"], places: Int[Tensor, " place"]) -> Float[Tensor, "place state"]:
        """The mass of the law, and nothing on the tokens left out."""
        mass = self.wrong.mass(x, places)
        out = [token for token in self.tokens if token < mass.shape[-1]]
        return mass.index_fill(-1, torch.tensor(out, dtype=torch.long, device=mass.device), 0)

    def __repr__(self) -> str:
        return f"Without({self.wrong}, {self.tokens})"


class UniformTokens(WrongTokens):
    """Any other token alike.

    **Arguments:**

    - `support`: how many tokens texts are made of, 0 to `support` - 1; at least 2.
    """

    def __init__(self, support: int) -> None:
        if support < 2:
            raise ValueError(f"wrong tokens need at least 2 tokens; got {support}")
        self.support = support

    def mass(self, x: Int[Tensor, " length"], places: Int[Tensor, " place"]) -> Float[Tensor, "place state"]:
        """Ones."""
        return torch.ones(len(places), self.support, dtype=torch.float64, device=x.device)

    def possible(self, x: Int[Tensor, " length"]) -> Bool[Tensor, " length"]:
        """Everywhere."""
        return torch.ones_like(x, dtype=torch.bool)

    def draw(
        self, x: Int[Tensor, " length"], places: Int[Tensor, " place"], *, generator: Generator | None = None
    ) -> Int[Tensor, " place"]:
        """One of the others."""
        u = uniforms(len(places), generator=generator, device=x.device)
        drawn = (u * (self.support - 1)).long().clamp(max=self.support - 2)
        return drawn + (drawn >= x[places]).long()

    def log_probability(
        self, x: Int[Tensor, " length"], places: Int[Tensor, " place"], tokens: Int[Tensor, " place"]
    ) -> Float[Tensor, " place"]:
        """Minus the logarithm of the number of other tokens."""
        allowed = (tokens != x[places]) & (tokens >= 0) & (tokens < self.support)
        found = torch.full(tokens.shape, -math.log(self.support - 1), dtype=torch.float64, device=x.device)
        return found.masked_fill(~allowed, -math.inf)

    def __repr__(self) -> str:
        return f"UniformTokens({self.support})"


class UnigramTokens(WrongTokens):
    r"""Tokens as frequent as they are in a corpus, $\nu(v \mid x, i) = f_v / (1 - f_{x_i})$.

    **Arguments:**

    - `frequencies`: $f$, not negative, of sum 1; at least two positive.
    """

    def __init__(self, frequencies: Float[Tensor, " state"]) -> None:
        if (frequencies < 0).any() or int((frequencies > 0).sum()) < 2 or abs(float(frequencies.sum()) - 1) > 1e-4:
            raise ValueError(
                "frequencies must not be negative, two or more positive, their sum 1; "
                f"got a sum of {float(frequencies.sum()):.4g} and {int((frequencies > 0).sum())} positive"
            )
        self.frequencies = frequencies.double() / frequencies.double().sum()

    def mass(self, x: Int[Tensor, " length"], places: Int[Tensor, " place"]) -> Float[Tensor, "place state"]:
        """The frequencies, in every place."""
        return self.frequencies.to(x.device).expand(len(places), -1)

    def possible(self, x: Int[Tensor, " length"]) -> Bool[Tensor, " length"]:
        """Everywhere."""
        return torch.ones_like(x, dtype=torch.bool)

    def __repr__(self) -> str:
        return f"UnigramTokens({len(self.frequencies)})"


class LaterTokens(WrongTokens):
    """A token that comes later in the same text: the mistake of saying something too early.

    Each later place that does not hold the right token is equally likely; behind the last one there is none.

    **Arguments:**

    - `support`: how many tokens texts are made of.
    - `within`: how many places ahead at most; all of them by default.

    **Source:** "retry_weak", Ye et al. (2024), arXiv 2408.16293, section 6.
    """

    def __init__(self, support: int, within: int | None = None) -> None:
        if within is not None and within < 1:
            raise ValueError(f"within must be a positive number of places; got {within}")
        self.support, self.within = support, within

    def mass(self, x: Int[Tensor, " length"], places: Int[Tensor, " place"]) -> Float[Tensor, "place state"]:
        """How often each token stands in the later places."""
        ahead = torch.arange(len(x), device=x.device) - places[:, None]
        later = (ahead > 0) & (ahead <= (len(x) if self.within is None else self.within))
        counts = torch.zeros(len(places), self.support, dtype=torch.float64, device=x.device)
        return counts.scatter_add(-1, x.expand(len(places), -1), later.double())

    def __repr__(self) -> str:
        return f"LaterTokens({self.support}{'' if self.within is None else f', within={self.within}'})"


class ModelTokens(WrongTokens):
    r"""What an autoregressive model would write there instead: its own kind of mistakes.

    **Arguments:**

    - `network`: a causal model, called with `input_ids`; returns logits, or something that has them.
    - `support`: how many tokens texts are made of; its other tokens are left out.
    - `start`: the token before each text.
    - `temperature`: of its prediction, positive.
    """

    def __init__(self, network: nn.Module, support: int, start: int, temperature: float | int = 1.0) -> None:
        if temperature <= 0:
            raise ValueError(f"temperature must be positive; got {temperature}")
        self.network, self.support, self.start, self.temperature = network, support, start, float(temperature)

    @torch.no_grad()
    def mass(self, x: Int[Tensor, " length"], places: Int[Tensor, " place"]) -> Float[Tensor, "place state"]:
        """The model's prediction after the right tokens before each place."""
        before = torch.cat([x.new_tensor([self.start]), x[:-1]])
        device = next(iter(self.network.parameters()), x).device
        output: Any = self.network(input_ids=before[None].to(device))
        logits = (output if isinstance(output, Tensor) else output.logits)[0].to(x.device)[places, : self.support]
        return (logits.double() / self.temperature).softmax(-1)

    def possible(self, x: Int[Tensor, " length"]) -> Bool[Tensor, " length"]:
        """Everywhere."""
        return torch.ones_like(x, dtype=torch.bool)

    def __repr__(self) -> str:
        return f"ModelTokens({type(self.network).__name__}, {self.support}, start={self.start})"
