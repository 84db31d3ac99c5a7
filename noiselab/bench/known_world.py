"""A world where everything is known: text is a Markov chain, so a model's bound and its samples have exact answers.

Each state has a few followers and all other transitions are forbidden, so a mistake is a mistake, whatever a judge
might say. A small network is trained on hybrid noise, another on masks alone, each samples in few steps and then
corrects itself.
"""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

import torch
from jaxtyping import Float
from torch import Generator, Tensor

from ..correctors import SelfCorrection
from ..denoisers.base import Denoiser
from ..denoisers.oracle import MarkovOracle
from ..evaluation.bound import Bound, validation_bound
from ..networks.dit import DiT, DiTConfig
from ..networks.huggingface import TransformersDenoiser
from ..objectives import Dynamic, Objective, elbo
from ..process import InterpolatingProcess
from ..processes import gidd, masked
from ..revisions import Outcome, count_outcome
from ..samplers import AncestralSampler
from ..training import Place, noised_loss
from ..typing import Tokens


@dataclass(frozen=True)
class Measures:
    """What is wrong with sequences of a known chain, exactly.

    **Arguments:**

    - `forbidden`: the share of transitions that cannot happen.
    - `flawless`: the share of sequences without one.
    - `nats`: mean -log p of an allowed transition; the chain's own is its entropy per transition. Less means that the
      likeliest transitions are too frequent.
    - `distance`: total variation between the frequencies of pairs of neighbours and their true law, in [0, 1].
    """

    forbidden: float
    flawless: float
    nats: float
    distance: float


class World:
    """A Markov chain with forbidden transitions, as data.

    **Arguments:**

    - `transition`: row v is the law of the state after v, [n, n]. The first state is uniform.
    - `length`: of a sequence.

    **Example:**

    ```python
    import torch
    from noiselab.bench.known_world import World

    world = World.random(states=6, length=16, generator=torch.Generator().manual_seed(0))
    x = world.sample(10, generator=torch.Generator().manual_seed(1))
    assert world.measure(x).forbidden == 0
    ```
    """

    def __init__(self, transition: Float[Tensor, "state state"], length: int):
        self.transition, self.length = transition.double(), length
        self.states = len(transition)
        self.initial = torch.full((self.states,), 1 / self.states, dtype=torch.float64)
        # Only for the chain itself, which is the same whatever the noise.
        self.chain = self.oracle(masked(vocab_size=self.states + 1, mask_id=self.states))

    @classmethod
    def random(
        cls,
        *,
        states: int = 10,
        length: int = 32,
        followers: Sequence[float] = (0.8, 0.15, 0.05),
        generator: Generator | None = None,
    ) -> "World":
        """A chain in which each state has random followers of these probabilities."""
        if len(followers) > states or abs(sum(followers) - 1) > 1e-9:
            raise ValueError(f"followers must sum to 1 and be at most {states}; got {tuple(followers)}")
        transition = torch.zeros(states, states, dtype=torch.float64)
        for row in transition:
            row[torch.randperm(states, generator=generator)[: len(followers)]] = torch.tensor(followers).double()
        return cls(transition, length)

    def oracle(self, process: InterpolatingProcess) -> MarkovOracle:
        """The exact denoiser under a noise process."""
        return MarkovOracle(self.initial, self.transition, process)

    def sample(self, count: int, *, generator: Generator | None = None) -> Tokens:
        """Sequences of the chain."""
        return self.chain.sample(count, self.length, generator=generator)

    @property
    def entropy(self) -> float:
        """Of a sequence, in nats per token: what the best possible model pays."""
        return self.chain.entropy(self.length) / self.length

    @property
    def pairs(self) -> Float[Tensor, "state state"]:
        """The true frequencies of pairs of neighbours, averaged over positions."""
        law, total = self.initial, torch.zeros_like(self.transition)
        for _ in range(self.length - 1):
            total, law = total + law[:, None] * self.transition, law @ self.transition
        return total / (self.length - 1)

    def measure(self, x: Tokens) -> Measures:
        """Everything that is wrong with sequences; tokens that are no states make all of their transitions forbidden."""
        size = max(self.states, int(x.max()) + 1)
        law = torch.zeros(size, size, dtype=torch.float64)
        law[: self.states, : self.states] = self.transition
        probability = law[x[:, :-1], x[:, 1:]]
        allowed = probability > 0
        seen = torch.zeros(size, size, dtype=torch.float64)
        seen.view(-1).index_add_(0, (x[:, :-1] * size + x[:, 1:]).flatten(), torch.ones_like(probability).flatten())
        true = torch.zeros_like(seen)
        true[: self.states, : self.states] = self.pairs
        return Measures(
            forbidden=(~allowed).double().mean().item(),
            flawless=allowed.all(-1).double().mean().item(),
            nats=-probability[allowed].log().mean().item() if allowed.any() else math.nan,
            distance=(seen / seen.sum() - true).abs().sum().item() / 2,
        )


@dataclass(frozen=True)
class WorldResult:
    """One process in the known world.

    **Arguments:**

    - `name`, `process`: which.
    - `bound`, `exact`: of the trained network and of the exact denoiser, on the same sequences.
    - `data`, `samples`, `corrected`: measures of true sequences, of samples, and of these after self-correction.
    - `changed`: share of sampled tokens that self-correction changed.
    - `trace`: share of forbidden transitions before self-correction and after each of its steps.
    - `damaged`, `repaired`: measures of true sequences with some tokens replaced, before and after self-correction.
    - `outcome`: of the tokens that were replaced and of those that were not, how many became right or wrong.
    - `oracle_outcome`, `oracle_repaired`: the same with the exact denoiser, where it can be asked.
    """

    name: str
    process: str
    bound: Bound
    exact: Bound
    data: Measures
    samples: Measures
    corrected: Measures
    changed: float
    trace: tuple[float, ...] = field(repr=False)
    damaged: Measures
    repaired: Measures
    outcome: Outcome
    oracle_outcome: Outcome | None = None
    oracle_repaired: Measures | None = None


def train_in_world(
    world: World, process: InterpolatingProcess, *, steps: int, seed: int = 0, objective: Objective = elbo
) -> Denoiser:
    """Train a small network on sequences of the world, drawn anew for each step.

    **Arguments:**

    - `process`, `objective`: the noise, and the weights of the loss.
    - `steps`: optimizer steps of 32 sequences.
    - `seed`: of the weights and of everything drawn.
    """
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        network = DiT(
            DiTConfig(
                vocab_size=process.vocab_size,
                max_seq_len=world.length,
                hidden_size=64,
                num_hidden_layers=2,
                num_attention_heads=4,
                timestep_cond_dim=32,
            )
        )
    optimizer = torch.optim.AdamW(network.parameters(), lr=4e-3, betas=(0.9, 0.98), weight_decay=0.0)
    warmup = max(1, steps // 12)
    schedule = torch.optim.lr_scheduler.LambdaLR(
        optimizer, lambda step: min(1.0, (step + 1) / warmup) * (0.52 + 0.5 * math.cos(math.pi * step / steps))
    )
    generator = Generator().manual_seed(seed)
    data = world.sample(32 * steps, generator=generator)
    for step, x in enumerate(data.split(32)):
        place = Place(step, seed=seed)
        loss = noised_loss(
            network, {"input_ids": x}, process=process, objective=objective, place=place, time_range=(1e-3, 1 - 1e-3)
        )
        loss.backward()
        torch.nn.utils.clip_grad_norm_(network.parameters(), 1.0)
        optimizer.step()
        optimizer.zero_grad()
        schedule.step()
    return TransformersDenoiser(network.eval())


def study(
    world: World,
    name: str,
    process: InterpolatingProcess,
    denoiser: Denoiser,
    *,
    samples: int = 400,
    sampling_steps: int = 16,
    correction_steps: int = 64,
    damage: float = 0.05,
    seed: int = 0,
) -> WorldResult:
    """Measure a denoiser in the known world: its bound, its samples, and what self-correction does to them.

    **Arguments:**

    - `name`: for the table.
    - `samples`: how many sequences of each kind.
    - `sampling_steps`: few, so that tokens drawn at the same time contradict one another.
    - `correction_steps`: at most; time 0.01, temperature 0.1, one token a step, as published.
    - `damage`: the share of tokens of true sequences that are replaced by others at random, for the outcome.
    - `seed`: of everything drawn.
    """
    generator = Generator().manual_seed(seed)
    held_out = world.sample(2 * samples, generator=generator)
    low = 1e-3
    bounds = [
        validation_bound(process, d, held_out, low=low, batch_size=512, generator=Generator().manual_seed(seed))
        for d in (denoiser, world.oracle(process))
    ]
    shape = (samples, world.length)
    sampled = AncestralSampler(process, denoiser).sample(shape, steps=sampling_steps, generator=generator)
    correction = SelfCorrection(denoiser, support=process.support)
    walk = list(correction.walk(sampled, steps=correction_steps, generator=generator))

    truth = held_out[:samples]
    other = (truth + torch.randint(1, world.states, shape, generator=generator)) % world.states
    damaged = torch.where(torch.rand(shape, generator=generator) < damage, other, truth)
    repaired = correction.correct(damaged, steps=correction_steps, generator=generator)
    # Where noise reveals tokens, the exact denoiser believes them all, and contradictions leave it no answer.
    known: tuple[Outcome, Measures] | None = None
    if not process.is_clean(truth[:1], torch.full((1,), correction.time)).any():
        exact = SelfCorrection(world.oracle(process), support=process.support)
        restored = exact.correct(damaged, steps=correction_steps, generator=generator)
        known = count_outcome(damaged, restored, truth), world.measure(restored)
    return WorldResult(
        name=name,
        process=repr(process),
        bound=bounds[0],
        exact=bounds[1],
        data=world.measure(truth),
        samples=world.measure(sampled),
        corrected=world.measure(walk[-1]),
        changed=(sampled != walk[-1]).double().mean().item(),
        trace=tuple(world.measure(z).forbidden for z in (sampled, *walk)),
        damaged=world.measure(damaged),
        repaired=world.measure(repaired),
        outcome=count_outcome(damaged, repaired, truth),
        oracle_outcome=None if known is None else known[0],
        oracle_repaired=None if known is None else known[1],
    )


def known_world(
    *,
    train_steps: int = 500,
    samples: int = 400,
    sampling_steps: int = 16,
    seed: int = 0,
    progress: Callable[[str], None] | None = None,
) -> tuple[World, list[WorldResult]]:
    """The whole experiment: hybrid noise of p_uniform 0.2, and masking alone as the control.

    Masking is a control because its networks are never asked about a token that they can see.

    **Arguments:**

    - `train_steps`: for each of the two networks.
    - `samples`, `sampling_steps`, `seed`: as for `study`.
    - `progress`: called with a line before each part.
    """
    world = World.random(generator=Generator().manual_seed(seed))
    size, mask = world.states + 1, world.states
    results = []
    hybrid: tuple[InterpolatingProcess, Objective] = (
        gidd(vocab_size=size, mask_id=mask, p_uniform=0.2),
        Dynamic.gidd(vocab_size=size, p_uniform=0.2),
    )
    alone: tuple[InterpolatingProcess, Objective] = (masked(vocab_size=size, mask_id=mask), elbo)
    for name, (process, objective) in {"hybrid noise": hybrid, "masking alone": alone}.items():
        if progress is not None:
            progress(f"{name}: {train_steps} training steps, {samples} samples")
        denoiser = train_in_world(world, process, steps=train_steps, seed=seed, objective=objective)
        results.append(study(world, name, process, denoiser, samples=samples, sampling_steps=sampling_steps, seed=seed))
    return world, results
