"""Worlds in which samples are measured exactly: likelihood, n-grams and errors against the known law of a Markov chain."""

import functools
import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float
from torch import Generator, Tensor

from ..denoisers import MarkovOracle
from ..likelihood import every_sequence
from ..process import InterpolatingProcess
from ..processes import gidd, masked, uniform
from ..typing import Tokens

LAWS_OF_SEQUENCES = 4096  # maximum number of possible sequences for a chi-square test
REPEATS = 8  # sets of exact samples averaged for a floor


@dataclass(frozen=True)
class SampleMeasures:
    r"""Measures of samples against a known chain.

    **Arguments:**

    - `gap`, `error`: nats per token by which the samples are less likely than the data, $-E[\log p(x)]/L - H/L$, and
      its standard error. Below 0 they are more likely than the data, as at a low temperature; then compare `entropy`.
      Infinite if a sample is impossible.
    - `entropy`: the entropy of a token given the previous one, from pairs in the samples, minus that of the data, in
      nats. Below 0 samples are less diverse.
    - `pairs`, `triples`: total variation between the frequencies of n-grams and their law, averaged over positions, in [0, 1].
    - `pairs_floor`, `triples_floor`: the average for the same number of exact samples, which is the resolution of the
      measure.
    - `forbidden`: the fraction of forbidden (impossible or rare) transitions.
    - `flawless`: the fraction of sequences without a forbidden transition.
    - `nats`: the mean -log p of an allowed transition. If it is below that of exact samples, the most likely
      transitions are too frequent.
    - `residue`: the fraction of tokens outside the data (remaining masks). All measures but `gap` count them as one
      more state.
    - `pvalue`: the p-value of a chi-square test against the law of whole sequences; NaN if there are too many
      sequences.
    """

    gap: float
    error: float
    entropy: float
    pairs: float
    pairs_floor: float
    triples: float
    triples_floor: float
    forbidden: float
    flawless: float
    nats: float
    residue: float
    pvalue: float


class World:
    r"""A Markov chain as data: the law of sequences and n-grams and the exact denoiser are known.

    A sequence with a transition of probability 0 is certainly wrong. Few-step samples can contain one, and in such a context
    `MarkovOracle` ignores as few tokens as possible. To sample with a prediction that is exact everywhere, make forbidden
    transitions rare but possible, as in `World.sharp`.

    **Arguments:**

    - `transition`: row v is the law of the token after v. The first token is uniform.
    - `length`: the length of a sequence.
    - `rare`: transitions of at most this probability are called forbidden.
    - `name`: the name, for tables.

    **Example:**

    ```python
    import torch
    import noiselab as nl
    from noiselab.bench.world import World

    world = World.sharp()
    process = world.processes()["gidd"]
    x = nl.AncestralSampler(process, world.oracle(process)).sample(
        (500, world.length), steps=8, generator=torch.Generator().manual_seed(0)
    )
    found = world.measure(x)
    assert found.gap > 0.02 and found.pairs > 2 * found.pairs_floor
    ```
    """

    def __init__(
        self, transition: Float[Tensor, "state state"], length: int, *, rare: float | int = 0.0, name: str = "chain"
    ):
        self.transition, self.length, self.rare, self.name = transition.double(), length, rare, name
        self.states = len(transition)
        self.initial = torch.full((self.states,), 1 / self.states, dtype=torch.float64)
        # Used only for the chain, which does not depend on the noise.
        self.chain = self.oracle(masked(vocab_size=self.states + 1, mask_id=self.states))
        self.floors = functools.lru_cache(maxsize=64)(self._floors)

    @classmethod
    def random(
        cls,
        *,
        states: int = 10,
        length: int = 32,
        followers: Sequence[float] = (0.8, 0.15, 0.05),
        generator: Generator | None = None,
    ) -> "World":
        """A chain in which each state has random followers of these probabilities; all other transitions are impossible."""
        if len(followers) > states or abs(sum(followers) - 1) > 1e-9:
            raise ValueError(f"followers must sum to 1 and be at most {states}; got {tuple(followers)}")
        transition = torch.zeros(states, states, dtype=torch.float64)
        for row in transition:
            row[torch.randperm(states, generator=generator)[: len(followers)]] = torch.tensor(followers).double()
        return cls(transition, length)

    @classmethod
    def sharp(
        cls,
        *,
        states: int = 8,
        length: int = 16,
        followers: Sequence[float] = (0.8, 0.15, 0.05),
        rare: float | int = 1e-4,
        seed: int = 0,
    ) -> "World":
        """A chain with few likely followers of each token; every other one has the probability `rare`."""
        generator = Generator().manual_seed(seed)
        followed = World.random(states=states, length=length, followers=followers, generator=generator).transition
        return cls((1 - states * rare) * followed + rare, length, rare=1.01 * rare, name="sharp")

    @classmethod
    def soft(cls, *, states: int = 8, length: int = 16, seed: int = 0) -> "World":
        """A chain with rows drawn uniformly from all distributions (Dirichlet of concentration 1): all transitions are
        possible.
        """
        u = torch.rand(states, states, generator=Generator().manual_seed(seed), dtype=torch.float64)
        mass = -torch.log1p(-u).clamp(max=-1e-4)
        return cls(mass / mass.sum(-1, keepdim=True), length, name="soft")

    @classmethod
    def tiny(cls, *, states: int = 3, length: int = 4, seed: int = 0) -> "World":
        """A chain with so few possible sequences that the law of whole sequences can be tested."""
        small = cls.soft(states=states, length=length, seed=seed)
        return cls(small.transition, length, name="tiny")

    def processes(self) -> dict[str, InterpolatingProcess]:
        """Masking, the hybrid of p_uniform 0.2, and uniform noise, for this vocabulary; the mask is the last token."""
        size, mask = self.states + 1, self.states
        return {
            "masked": masked(vocab_size=size, mask_id=mask),
            "gidd": gidd(vocab_size=size, mask_id=mask, p_uniform=0.2),
            "uniform": uniform(vocab_size=self.states),
        }

    def oracle(self, process: InterpolatingProcess) -> MarkovOracle:
        """The exact denoiser under a noise process."""
        return MarkovOracle(self.initial, self.transition, process)

    def sample(self, count: int, *, generator: Generator | None = None) -> Tokens:
        """Sample sequences of the chain."""
        return self.chain.sample(count, self.length, generator=generator)

    @property
    def entropy(self) -> float:
        """The entropy of a sequence in nats per token, a lower bound on the loss of any model."""
        return self.chain.entropy(self.length) / self.length

    @property
    def forbidden(self) -> Bool[Tensor, "state state"]:
        """The transitions that count as errors."""
        return self.transition <= self.rare

    def ngrams(self, n: int) -> Float[Tensor, " ngrams"]:
        """The law of n neighbours, averaged over positions, in lexical order; n from 1 to `length`."""
        if not 1 <= n <= self.length:
            raise ValueError(f"n must lie in [1, {self.length}], the length; got {n}")
        law, total = self.initial, torch.zeros_like(self.initial)
        for _ in range(self.length - n + 1):
            total, law = total + law, law @ self.transition
        law = total / total.sum()
        for _ in range(n - 1):
            law = law[..., None] * self.transition
        return law.flatten()

    def law(self) -> Float[Tensor, " sequences"]:
        """The probability of every sequence, in the order of `every_sequence(states, length)`."""
        return self.chain.log_prob(every_sequence(self.states, self.length)).exp()

    def variation(self, x: Tokens, n: int) -> float:
        """Total variation between the n-grams of samples and their law."""
        want = torch.zeros([self.states + 1] * n, dtype=torch.float64)
        want[(slice(self.states),) * n] = self.ngrams(n).view([self.states] * n)
        return (frequencies(x.clamp(max=self.states), n, self.states + 1) - want.flatten()).abs().sum().item() / 2

    def _floors(self, count: int) -> tuple[float, float]:
        """The total variation of pairs and of triples that `count` exact samples have on average."""
        generator = Generator().manual_seed(0)
        sets = [self.sample(count, generator=generator) for _ in range(REPEATS)]
        pairs, triples = ([self.variation(x, n) for x in sets] for n in (2, 3))
        return sum(pairs) / REPEATS, sum(triples) / REPEATS

    def measure(self, x: Tokens) -> SampleMeasures:
        """Measure samples; exact up to sampling noise.

        **Raises:** `ValueError` if the sequences have another length.
        """
        if x.shape[1] != self.length:
            raise ValueError(f"samples must have length {self.length}; got {x.shape[1]}")
        x = x.cpu()
        nats = -self.chain.log_prob(x) / self.length
        known = torch.nn.functional.pad(self.forbidden, (0, 1, 0, 1), value=True)
        states = x.clamp(max=self.states)
        pairs = frequencies(states, 2, self.states + 1)
        wrong = known[states[:, :-1], states[:, 1:]]
        law = torch.nn.functional.pad(self.transition, (0, 1, 0, 1))[states[:, :-1], states[:, 1:]]
        pairs_floor, triples_floor = self.floors(len(x))
        whole = self.states**self.length <= LAWS_OF_SEQUENCES and bool((x < self.states).all())
        return SampleMeasures(
            gap=nats.mean().item() - self.entropy,
            error=nats.std().item() / len(x) ** 0.5,
            entropy=conditional_entropy(pairs) - conditional_entropy(self.ngrams(2)),
            pairs=self.variation(x, 2),
            pairs_floor=pairs_floor,
            triples=self.variation(x, 3),
            triples_floor=triples_floor,
            forbidden=wrong.double().mean().item(),
            flawless=(~wrong).all(-1).double().mean().item(),
            nats=math.nan if wrong.all() else -law[~wrong].log().mean().item(),
            residue=(x >= self.states).double().mean().item(),
            pvalue=chi_square(x, self.law()) if whole else torch.nan,
        )

    def __repr__(self) -> str:
        return f"World({self.name}, {self.states} states, length {self.length}, {self.entropy:.3f} nats a token)"


def frequencies(x: Tokens, n: int, states: int) -> Float[Tensor, " ngrams"]:
    """The frequency of each n-gram of states in sequences, in lexical order."""
    length = x.shape[1] - n + 1
    index = torch.zeros_like(x[:, :length])
    for i in range(n):
        index = index * states + x[:, i : i + length]
    return torch.bincount(index.flatten(), minlength=states**n).double() / index.numel()


def conditional_entropy(pairs: Float[Tensor, " pairs"]) -> float:
    """The entropy of the second of two neighbours given the first, in nats."""
    states = round(len(pairs) ** 0.5)
    law = pairs.view(states, states)
    return (torch.special.entr(law).sum() - torch.special.entr(law.sum(-1)).sum()).item()


def chi_square(x: Tokens, law: Float[Tensor, " sequences"], *, least: float | int = 5) -> float:
    """The p-value of Pearson's chi-square test: the probability that exact samples deviate at least this much.

    **Arguments:**

    - `x`: samples.
    - `law`: the probability of every sequence, in the order of `every_sequence(states, length)`.
    - `least`: the minimum expected count; sequences below it are pooled, the rarest first.

    **Returns:** the p-value; 0 if a sample is impossible.

    **Raises:** `ValueError` if a token is not a state.

    **Example:**

    ```python
    import torch
    from noiselab.bench.world import chi_square

    coins = torch.randint(2, (4000, 3), generator=torch.Generator().manual_seed(0))
    assert chi_square(coins, torch.full((8,), 1 / 8)) > 0.001
    assert chi_square(coins, torch.tensor([0.2, 0.1, 0.1, 0.1, 0.1, 0.1, 0.1, 0.2])) < 1e-6
    ```
    """
    states = round(len(law) ** (1 / x.shape[1]))
    if x.numel() and (x.min() < 0 or x.max() >= states):
        raise ValueError(f"tokens must lie in [0, {states}); got {x.min().item()} to {x.max().item()}")
    law = law.double() / law.double().sum()
    seen = frequencies(x, x.shape[1], states) * len(x)
    if (seen[law == 0] > 0).any():
        return 0.0
    expected, order = (law * len(x)).sort()
    seen = seen[order]
    pooled = int((expected < least).sum())
    # The pool itself must be large enough.
    while 0 < pooled < len(law) and expected[:pooled].sum() < least:
        pooled += 1
    cells = [(seen[:pooled].sum()[None], expected[:pooled].sum()[None])] if pooled else []
    cells.append((seen[pooled:], expected[pooled:]))
    got, want = (torch.cat(parts) for parts in zip(*cells, strict=True))
    if len(want) < 2:
        return 1.0
    statistic = ((got - want) ** 2 / want).sum()
    return torch.special.gammaincc(torch.tensor((len(want) - 1) / 2).double(), statistic / 2).item()
