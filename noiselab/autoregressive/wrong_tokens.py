r"""What stands where a mistake was made: laws $\nu(\cdot \mid x, i)$ of wrong tokens.

A wrong token is never the right one: every law here leaves out $x_i$ and shares its mass among the others in proportion.
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

CHUNK = 128  # places at once: few enough for rows of the size of a large vocabulary


class WrongTokens(ABC):
    """A law of wrong tokens at the places of a text.

    A law is written in one method, `mass`; the others are shortcuts where rows of the size of the vocabulary cost too
    much. `possible` says where there is a wrong token at all.
    """

    least: int = 0
    """So many tokens have mass in every place of any text, or more; shortens `possible`."""

    chunk: int | None = CHUNK
    """Places at once; None for all of them, where each call costs as much as one for all places."""

    @abstractmethod
    def mass(self, x: TokenSequence, places: Int[Tensor, " place"]) -> Float[Tensor, "place state"]:
        """How likely each token is in each place, up to a factor and with the right token still among them.

        **Arguments:**

        - `x`: the text.
        - `places`: where in it.
        """

    def candidates(
        self, x: TokenSequence, places: Int[Tensor, " place"]
    ) -> tuple[Int[Tensor, " candidate"], Float[Tensor, "place candidate"]]:
        """What may stand in the places, as a list that is shorter than the vocabulary if it can be.

        **Arguments:**

        - `x`, `places`: as for `mass`.

        **Returns:** tokens in rising order, of which one may come several times, and their masses in each place; those of
        one token together are its `mass`.
        """
        mass = self.mass(x, places)
        return torch.arange(mass.shape[-1], device=x.device), mass

    def possible(self, x: TokenSequence) -> Bool[Tensor, " length"]:
        """Where there is a wrong token to write."""
        if self.least > 1:  # one of them may be the right one
            return torch.ones_like(x, dtype=torch.bool)
        found = [(mass > 0).any(-1) for _, mass in self._wrong(x, torch.arange(len(x), device=x.device))]
        return torch.cat([torch.empty(0, dtype=torch.bool, device=x.device), *found])

    def draw(
        self, x: TokenSequence, places: Int[Tensor, " place"], *, generator: Generator | None = None
    ) -> Int[Tensor, " place"]:
        """A wrong token for each place, where one is possible."""
        u = uniforms(len(places), generator=generator, device=x.device)
        found, first = [torch.empty(0, dtype=torch.long, device=x.device)], 0
        for tokens, mass in self._wrong(x, places):
            found.append(tokens[choose(mass, u[first : first + len(mass)])])
            first += len(mass)
        return torch.cat(found)

    def log_probability(
        self, x: TokenSequence, places: Int[Tensor, " place"], tokens: Int[Tensor, " place"]
    ) -> Float[Tensor, " place"]:
        """Log nu of tokens in places, float64; minus infinity for the right token, and where none is possible."""
        found, first = [torch.empty(0, dtype=torch.float64, device=x.device)], 0
        for candidates, mass in self._wrong(x, places):
            these = tokens[first : first + len(mass)]
            chosen = mass.masked_fill(candidates != these[:, None], 0).sum(-1)
            found.append(torch.where(chosen > 0, chosen.log() - mass.sum(-1).log(), -math.inf))
            first += len(mass)
        return torch.cat(found)

    def _wrong(self, x: Tensor, places: Tensor) -> Iterator[tuple[Tensor, Tensor]]:
        """Candidates and their masses without the right tokens, for some places after the others."""
        for some in places.split(self.chunk or max(1, len(places))) if len(places) else ():
            tokens, mass = self.candidates(x, some)
            yield tokens, mass.double().masked_fill(tokens == x[some, None], 0)


class Without(WrongTokens):
    """Another law of wrong tokens, without some of its tokens.

    **Arguments:**

    - `wrong`: the law.
    - `tokens`: what it shall not draw.
    """

    def __init__(self, wrong: WrongTokens, tokens: Sequence[int]) -> None:
        self.wrong, self.tokens = wrong, tuple(tokens)
        self.least, self.chunk = wrong.least - len(set(self.tokens)), wrong.chunk

    def mass(self, x: TokenSequence, places: Int[Tensor, " place"]) -> Float[Tensor, "place state"]:
        """The mass of the law, and nothing on the tokens left out."""
        mass = self.wrong.mass(x, places)
        out = [token for token in self.tokens if token < mass.shape[-1]]
        return mass.index_fill(-1, torch.tensor(out, dtype=torch.long, device=mass.device), 0)

    def candidates(
        self, x: TokenSequence, places: Int[Tensor, " place"]
    ) -> tuple[Int[Tensor, " candidate"], Float[Tensor, "place candidate"]]:
        """Those of the law, without mass on the tokens left out."""
        tokens, mass = self.wrong.candidates(x, places)
        out = torch.tensor(self.tokens, dtype=torch.long, device=tokens.device)
        return tokens, mass.masked_fill(torch.isin(tokens, out), 0)

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
        self.support = self.least = support

    def mass(self, x: TokenSequence, places: Int[Tensor, " place"]) -> Float[Tensor, "place state"]:
        """Ones."""
        return torch.ones(len(places), self.support, dtype=torch.float64, device=x.device)

    def draw(
        self, x: TokenSequence, places: Int[Tensor, " place"], *, generator: Generator | None = None
    ) -> Int[Tensor, " place"]:
        """One of the others."""
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
        """How many tokens are wrong; all, where the right one is not of the support, as the end of a step may be."""
        return self.support - (right < self.support).long()

    def __repr__(self) -> str:
        return f"UniformTokens({self.support})"


class UnigramTokens(WrongTokens):
    r"""Tokens as frequent as they are in a corpus, $\nu(v \mid x, i) = f_v / (1 - f_{x_i})$.

    **Arguments:**

    - `frequencies`: $f$, not negative, of sum 1; at least two positive.
    """

    def __init__(self, frequencies: TokenProbs) -> None:
        if (frequencies < 0).any() or int((frequencies > 0).sum()) < 2 or abs(float(frequencies.sum()) - 1) > 1e-4:
            raise ValueError(
                "frequencies must not be negative, two or more positive, their sum 1; "
                f"got a sum of {float(frequencies.sum()):.4g} and {int((frequencies > 0).sum())} positive"
            )
        self.frequencies = frequencies.double() / frequencies.double().sum()
        self.least = int((self.frequencies > 0).sum())

    def mass(self, x: TokenSequence, places: Int[Tensor, " place"]) -> Float[Tensor, "place state"]:
        """The frequencies, in every place."""
        return self.frequencies.to(x.device).expand(len(places), -1)

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

    def mass(self, x: TokenSequence, places: Int[Tensor, " place"]) -> Float[Tensor, "place state"]:
        """How often each token stands in the later places."""
        counts = torch.zeros(len(places), self.support, dtype=torch.float64, device=x.device)
        return counts.scatter_add(-1, x.expand(len(places), -1), self._later(x, places).double())

    def candidates(
        self, x: TokenSequence, places: Int[Tensor, " place"]
    ) -> tuple[Int[Tensor, " candidate"], Float[Tensor, "place candidate"]]:
        """The tokens of the text, once for each place where they stand; of mass 1 if it comes later."""
        tokens, order = x.sort()
        return tokens, self._later(x, places)[:, order].double()

    def _later(self, x: Tensor, places: Tensor) -> Tensor:
        """Which places of the text come later, and near enough."""
        ahead = torch.arange(len(x), device=x.device) - places[:, None]
        return (ahead > 0) & (ahead <= (len(x) if self.within is None else self.within))

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

    chunk = None

    def __init__(self, network: nn.Module, support: int, start: int, temperature: float | int = 1.0) -> None:
        if temperature <= 0:
            raise ValueError(f"temperature must be positive; got {temperature}")
        self.network, self.support, self.start, self.temperature = network, support, start, float(temperature)

    @torch.no_grad()
    def mass(self, x: TokenSequence, places: Int[Tensor, " place"]) -> Float[Tensor, "place state"]:
        """The model's prediction after the right tokens before each place."""
        before = torch.cat([x.new_tensor([self.start]), x[:-1]])
        device = next(iter(self.network.parameters()), x).device
        logits = logits_of(self.network(input_ids=before[None].to(device)))[0].to(x.device)[places, : self.support]
        return (logits.double() / self.temperature).softmax(-1)

    def possible(self, x: TokenSequence) -> Bool[Tensor, " length"]:
        """Everywhere."""
        return torch.ones_like(x, dtype=torch.bool)

    def __repr__(self) -> str:
        return f"ModelTokens({type(self.network).__name__}, {self.support}, start={self.start})"
