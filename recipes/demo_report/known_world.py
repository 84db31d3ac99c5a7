"""Self-correction on a Markov chain, where bounds and samples can be compared with exact values.

Each state has a few possible next states and all other transitions are forbidden, so errors are counted without a judge.
One small network is trained on hybrid noise, another on masking alone. Each generates samples in few steps and then
self-corrects them.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass, field

import torch
from torch import Generator

from noiselab.bench.world import SampleMeasures, World
from noiselab.correctors import SelfCorrection
from noiselab.denoisers.base import Denoiser
from noiselab.evaluation.bound import Bound, validation_bound
from noiselab.networks.dit import DiT, DiTConfig
from noiselab.networks.huggingface import TransformersDenoiser
from noiselab.objectives import Dynamic, Objective, elbo
from noiselab.process import InterpolatingProcess
from noiselab.processes import gidd, masked
from noiselab.revisions import Outcome, count_outcome
from noiselab.samplers import AncestralSampler
from noiselab.training import Place, noised_loss


@dataclass(frozen=True)
class WorldResult:
    """Measurements of one process in the known world.

    **Arguments:**

    - `name`, `process`: the name in tables, and the process as text.
    - `bound`, `exact`: bounds of the trained network and of the exact denoiser, on the same sequences.
    - `data`, `samples`, `corrected`: measures of true sequences, of samples, and of these after self-correction.
    - `changed`: share of sampled tokens that self-correction changed.
    - `trace`: share of forbidden transitions before self-correction and after each of its steps.
    - `damaged`, `repaired`: measures of true sequences with some tokens replaced, before and after self-correction.
    - `outcome`: how many tokens self-correction made right or wrong, among the replaced ones and among the others.
    - `oracle_outcome`, `oracle_repaired`: the same with the exact denoiser; None where it is undefined.
    """

    name: str
    process: str
    bound: Bound
    exact: Bound
    data: SampleMeasures
    samples: SampleMeasures
    corrected: SampleMeasures
    changed: float
    trace: tuple[float, ...] = field(repr=False)
    damaged: SampleMeasures
    repaired: SampleMeasures
    outcome: Outcome
    oracle_outcome: Outcome | None = None
    oracle_repaired: SampleMeasures | None = None


def train_in_world(
    world: World, process: InterpolatingProcess, *, steps: int, seed: int = 0, objective: Objective = elbo
) -> Denoiser:
    """Train a small network on sequences of the world; each step draws new ones.

    **Arguments:**

    - `process`, `objective`: the noise, and the weights of the loss.
    - `steps`: optimizer steps of 32 sequences.
    - `seed`: seed of the weights, sequences and noise.
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


def measure_denoiser(
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

    - `name`: the name in tables.
    - `samples`: number of sequences of each kind.
    - `sampling_steps`: steps of the sampler; with few steps, tokens drawn at the same time contradict one another.
    - `correction_steps`: maximum number of self-correction steps; time 0.01, temperature 0.1, one token per step, as published.
    - `damage`: the share of tokens of true sequences that are replaced by random other tokens, for `outcome`.
    - `seed`: seed of all randomness.
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
    # If visible tokens are clean (masking), the exact denoiser keeps them all, and it is undefined for contradicting tokens.
    known: tuple[Outcome, SampleMeasures] | None = None
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


def study_known_world(
    *,
    train_steps: int = 500,
    samples: int = 400,
    sampling_steps: int = 16,
    seed: int = 0,
    progress: Callable[[str], None] | None = None,
) -> tuple[World, list[WorldResult]]:
    """Run the whole experiment: hybrid noise with p_uniform 0.2, and masking alone as the control.

    Masking is the control because its networks are never trained to predict visible tokens.

    **Arguments:**

    - `train_steps`: optimizer steps of each of the two networks.
    - `samples`, `sampling_steps`, `seed`: as for `measure_denoiser`.
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
        results.append(
            measure_denoiser(world, name, process, denoiser, samples=samples, sampling_steps=sampling_steps, seed=seed)
        )
    return world, results
