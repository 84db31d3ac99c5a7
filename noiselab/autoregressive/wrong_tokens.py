r"""Distributions $\nu(\cdot \mid x, i)$ of wrong tokens.

A wrong token is never the correct one: every distribution excludes $x_i$ and is renormalised over the other tokens.
"""

import math
from abc import ABC, abstractmethod
from collections.abc import Iterator, Sequence

import torch
from jaxtyping import Bool, Float, Int
from torch import Generator, Tensor, nn

from ..categorical import choose, uniforms
from ..networks.outputs import logits_of
from ..typing import TokenProbs, TokenSequence

CHUNK = 128  # positions evaluated at once, few enough for rows of a large vocabulary


class WrongTokens(ABC):
    """A distribution of wrong tokens at each position of a text.

    A subclass implements `mass`; the other methods may be overridden to avoid rows of the size of the vocabulary.
    `possible` gives the positions at which a wrong token exists.
    """

    least: int = 0
    """A lower bound on the number of tokens with mass at any position, used by `possible`."""

    chunk: int | None = CHUNK
    """The number of positions per call; `None` for all, if a call costs the same for any number."""

    @abstractmethod
    def mass(self, x: TokenSequence, places: Int[Tensor, " place"]) -> Float[Tensor, "place state"]:
        """The probability of each token at each position, up to a factor and including the correct token.

        **Arguments:**

        - `x`: the text.
        - `places`: the positions.
        """

    def candidates(
        self, x: TokenSequence, places: Int[Tensor, " place"]
    ) -> tuple[Int[Tensor, " candidate"], Float[Tensor, "place candidate"]]:
        """The candidate tokens for the positions, if possible as a list shorter than the vocabulary.

        **Arguments:**

        - `x`, `places`: as for `mass`.

        **Returns:** tokens in increasing order, possibly with repetitions, and their masses at each position; the
        masses of equal tokens sum to `mass`.
        """
        mass = self.mass(x, places)
        return torch.arange(mass.shape[-1], device=x.device), mass

    def possible(self, x: TokenSequence) -> Bool[Tensor, " length"]:
        """The mask of positions at which a wrong token exists."""
        if self.least > 1:  # one of them may be the correct one
            return torch.ones_like(x, dtype=torch.bool)
        found = [(mass > 0).any(-1) for _, mass in self._wrong(x, torch.arange(len(x), device=x.device))]
        return torch.cat([torch.empty(0, dtype=torch.bool, device=x.device), *found])

    def draw(
        self, x: TokenSequence, places: Int[Tensor, " place"], *, generator: Generator | None = None
    ) -> Int[Tensor, " place"]:
        """Draw a wrong token for each position where one is possible."""
        u = uniforms(len(places), generator=generator, device=x.device)
        found, first = [torch.empty(0, dtype=torch.long, device=x.device)], 0
        for tokens, mass in self._wrong(x, places):
            found.append(tokens[choose(mass, u[first : first + len(mass)])])
            first += len(mass)
        return torch.cat(found)

    def log_probability(
        self, x: TokenSequence, places: Int[Tensor, " place"], tokens: Int[Tensor, " place"]
    ) -> Float[Tensor, " place"]:
        """Log nu of tokens at positions, float64; minus infinity for the correct token, and where none is possible."""
        found, first = [torch.empty(0, dtype=torch.float64, device=x.device)], 0
        for candidates, mass in self._wrong(x, places):
            these = tokens[first : first + len(mass)]
            chosen = mass.masked_fill(candidates != these[:, None], 0).sum(-1)
            found.append(torch.where(chosen > 0, chosen.log() - mass.sum(-1).log(), -math.inf))
            first += len(mass)
        return torch.cat(found)

    def _wrong(self, x: Tensor, places: Tensor) -> Iterator[tuple[Tensor, Tensor]]:
        """Yield candidates and their masses without the correct tokens, in chunks of positions."""
        for some in places.split(self.chunk or max(1, len(places))) if len(places) else ():
            tokens, mass = self.candidates(x, some)
            yield tokens, mass.double().masked_fill(tokens == x[some, None], 0)


class Without(WrongTokens):
    """A distribution of wrong tokens that excludes some tokens.

    **Arguments:**

    - `wrong`: the distribution.
    - `tokens`: the tokens to exclude.
    """

    def __init__(self, wrong: WrongTokens, tokens: Sequence[int]) -> None:
        self.wrong, self.tokens = wrong, tuple(tokens)
        self.least, self.chunk = wrong.least - len(set(self.tokens)), wrong.chunk

    def mass(self, x: TokenSequence, places: Int[Tensor, " place"]) -> Float[Tensor, "place state"]:
        """The mass of the distribution, with 0 on excluded tokens."""
        mass = self.wrong.mass(x, places)
        out = [token for token in self.tokens if token < mass.shape[-1]]
        return mass.index_fill(-1, torch.tensor(out, dtype=torch.long, device=mass.device), 0)

    def candidates(
        self, x: TokenSequence, places: Int[Tensor, " place"]
    ) -> tuple[Int[Tensor, " candidate"], Float[Tensor, "place candidate"]]:
        """The candidates of the distribution, with mass 0 on excluded tokens."""
        tokens, mass = self.wrong.candidates(x, places)
        out = torch.tensor(self.tokens, dtype=torch.long, device=tokens.device)
        return tokens, mass.masked_fill(torch.isin(tokens, out), 0)

    def __repr__(self) -> str:
        return f"Without({self.wrong}, {self.tokens})"


class UniformTokens(WrongTokens):
    """Uniform wrong tokens.

    **Arguments:**

    - `support`: the number of tokens in texts, at least 2; texts consist of the tokens 0 to `support` - 1.
    """

    def __init__(self, support: int) -> None:
        if support < 2:
            raise ValueError(f"support must be at least 2 tokens; got {support}")
        self.support = self.least = support

    def mass(self, x: TokenSequence, places: Int[Tensor, " place"]) -> Float[Tensor, "place state"]:
        """Equal masses."""
        return torch.ones(len(places), self.support, dtype=torch.float64, device=x.device)

    def draw(
        self, x: TokenSequence, places: Int[Tensor, " place"], *, generator: Generator | None = None
    ) -> Int[Tensor, " place"]:
        """Draw one of the other tokens uniformly."""
        u = uniforms(len(places), generator=generator, device=x.device)
        others = self._others(x[places])
        drawn = torch.minimum((u * others).long(), others - 1)
        return drawn + (drawn >= x[places]).long()

    def log_probability(
        self, x: TokenSequence, places: Int[Tensor, " place"], tokens: Int[Tensor, " place"]
    ) -> Float[Tensor, " place"]:
        """Minus the logarithm of the number of other tokens."""
        allowed = (tokens != x[places]) & (tokens >= 0) & (tokens < self.support)
        return -self._others(x[places]).double().log().masked_fill(~allowed, math.inf)

    def _others(self, right: Tensor) -> Tensor:
        """The number of wrong tokens; all tokens if the correct one is outside the support, as the end of a step may
        be.
        """
        return self.support - (right < self.support).long()

    def __repr__(self) -> str:
        return f"UniformTokens({self.support})"


class UnigramTokens(WrongTokens):
    r"""Wrong tokens with the frequencies of a corpus, $\nu(v \mid x, i) = f_v / (1 - f_{x_i})$.

    **Arguments:**

    - `frequencies`: the frequencies $f$, non-negative, with sum 1 and at least two positive.
    """

    def __init__(self, frequencies: TokenProbs) -> None:
        if (frequencies < 0).any() or int((frequencies > 0).sum()) < 2 or abs(float(frequencies.sum()) - 1) > 1e-4:
            raise ValueError(
                "frequencies must be non-negative with sum 1 and at least two positive; "
                f"got a sum of {float(frequencies.sum()):.4g} and {int((frequencies > 0).sum())} positive"
            )
        self.frequencies = frequencies.double() / frequencies.double().sum()
        self.least = int((self.frequencies > 0).sum())

    def mass(self, x: TokenSequence, places: Int[Tensor, " place"]) -> Float[Tensor, "place state"]:
        """The frequencies, at every position."""
        return self.frequencies.to(x.device).expand(len(places), -1)

    def __repr__(self) -> str:
        return f"UnigramTokens({len(self.frequencies)})"


class LaterTokens(WrongTokens):
    """Tokens that occur later in the same text, which models mistakes of order.

    Each later position with a token other than the correct one is equally likely; at the last position no mistake is
    possible.

    **Arguments:**

    - `support`: the number of tokens in texts.
    - `within`: the maximum distance of later positions; unlimited by default.

    **Source:** "retry_weak", Ye et al. (2024), arXiv 2408.16293, section 6.
    """

    def __init__(self, support: int, within: int | None = None) -> None:
        if within is not None and within < 1:
            raise ValueError(f"within must be a positive number of positions; got {within}")
        self.support, self.within = support, within

    def mass(self, x: TokenSequence, places: Int[Tensor, " place"]) -> Float[Tensor, "place state"]:
        """The number of occurrences of each token at later positions."""
        counts = torch.zeros(len(places), self.support, dtype=torch.float64, device=x.device)
        return counts.scatter_add(-1, x.expand(len(places), -1), self._later(x, places).double())

    def candidates(
        self, x: TokenSequence, places: Int[Tensor, " place"]
    ) -> tuple[Int[Tensor, " candidate"], Float[Tensor, "place candidate"]]:
        """The tokens of the text, once for each position; with mass 1 if the position is later."""
        tokens, order = x.sort()
        return tokens, self._later(x, places)[:, order].double()

    def _later(self, x: Tensor, places: Tensor) -> Tensor:
        """The mask of later positions within the maximum distance."""
        ahead = torch.arange(len(x), device=x.device) - places[:, None]
        return (ahead > 0) & (ahead <= (len(x) if self.within is None else self.within))

    def __repr__(self) -> str:
        return f"LaterTokens({self.support}{'' if self.within is None else f', within={self.within}'})"


class ModelTokens(WrongTokens):
    r"""Wrong tokens sampled from an autoregressive model: mistakes that a model would make.

    **Arguments:**

    - `network`: a causal model, called with `input_ids`; returns logits or an object with `logits`.
    - `support`: the number of tokens in texts; other tokens of the model are excluded.
    - `start`: the token before each text.
    - `temperature`: the temperature of the prediction, positive.
    """

    chunk = None

    def __init__(self, network: nn.Module, support: int, start: int, temperature: float | int = 1.0) -> None:
        if temperature <= 0:
            raise ValueError(f"temperature must be positive; got {temperature}")
        self.network, self.support, self.start, self.temperature = network, support, start, float(temperature)

    @torch.no_grad()
    def mass(self, x: TokenSequence, places: Int[Tensor, " place"]) -> Float[Tensor, "place state"]:
        """The model's prediction at each position, given the correct tokens before it."""
        before = torch.cat([x.new_tensor([self.start]), x[:-1]])
        device = next(iter(self.network.parameters()), x).device
        logits = logits_of(self.network(input_ids=before[None].to(device)))[0].to(x.device)[places, : self.support]
        return (logits.double() / self.temperature).softmax(-1)

    def possible(self, x: TokenSequence) -> Bool[Tensor, " length"]:
        """All positions."""
        return torch.ones_like(x, dtype=torch.bool)

    def __repr__(self) -> str:
        return f"ModelTokens({type(self.network).__name__}, {self.support}, start={self.start})"
