"""The decoders that benchmarks/decoders.py compares, each with its settings, for masks, hybrid and uniform noise."""

from collections.abc import Callable, Mapping
from typing import Any, NamedTuple, TypeAlias

import torch
from torch import Generator, Tensor

import noiselab as nl
from noiselab.samplers import (
    AncestralSampler,
    BlockSampler,
    CommittingSampler,
    ConfidenceSampler,
    ConfidenceThreshold,
    DraftSampler,
    EntropyBound,
    EntropyBoundedSampler,
    EntropyThreshold,
    Factor,
    FirstHittingSampler,
    JointThresholdSampler,
    LocalMaxima,
    PathPlanningSampler,
    Quota,
    RemaskingSampler,
    RenoisingSampler,
    Sampler,
    SlidingBlockSampler,
    StableConfidence,
    ThresholdSampler,
    power_grid,
)

LENGTH, BLOCK = 32, 8
EDITS = 16  # steps of a full sequence in which it is edited at most
Draw: TypeAlias = Callable[[tuple[int, int], Generator], Tensor]
"""Sequences of a shape, with a generator."""


class Decoder(NamedTuple):
    """A decoder at one setting.

    **Arguments:**

    - `name`, `setting`: what it is called; decoders of one name are a line of the figure.
    - `make`: from a process and a denoiser, what draws sequences.
    - `single`: whether every sequence is the same.
    """

    name: str
    setting: str
    make: Callable[[nl.InterpolatingProcess, nl.Denoiser], Draw]
    single: bool = False


def in_steps(sampler: Sampler, steps: int, *, squared: bool = False) -> Draw:
    """What draws with a sampler in even steps, or at squared times."""
    times = power_grid(sampler.process, steps) if squared else None
    return lambda shape, generator: sampler.sample(
        shape, steps=None if squared else steps, times=times, generator=generator
    )


def balanced(draw: Draw, process: nl.InterpolatingProcess, denoiser: nl.Denoiser) -> Draw:
    """What draws, and then makes balanced jumps."""
    corrector = nl.correctors.BalancedCorrector(process, denoiser)
    return lambda shape, generator: corrector.correct(draw(shape, generator), generator=generator)


def informed(draw: Draw, process: nl.InterpolatingProcess, denoiser: nl.Denoiser) -> Draw:
    """What draws, and then draws the least probable token of each sequence again."""
    corrector = nl.correctors.GibbsCorrector(process, denoiser, positions="unlikely")

    def corrected(shape: tuple[int, int], generator: Generator) -> Tensor:
        x = draw(shape, generator)
        return corrector.step(x, torch.zeros(len(x), dtype=torch.float64), generator=generator)

    return corrected


RULES: Mapping[str, Mapping[str, Callable[[], Any]]] = {
    "quota, most confident": {f"{n}": lambda n=n: Quota(n) for n in (1, 2, 4, 8)},
    "confidence": {f"{p}": lambda p=p: ConfidenceThreshold(p) for p in (1, 0.9, 0.8, 0.7, 0.6, 0.5, 0.4)},
    "confidence of the drawn token": {
        f"{p}": lambda p=p: ConfidenceThreshold(p, confidence="proposed") for p in (1, 0.9, 0.7, 0.5)
    },
    "entropy": {f"{h}": lambda h=h: EntropyThreshold(h) for h in (0, 0.7, 1.0, 1.3, 1.6)},
    "entropy bound": {f"{h}": lambda h=h: EntropyBound(h) for h in (0, 0.5, 1, 2, 4)},
    "factor": {f"{f}": lambda f=f: Factor(f) for f in (0, 0.5, 1, 2, 3)},
    "local maxima": {f"{p}": lambda p=p: LocalMaxima(p, max(p, 0.9)) for p in (0.9, 0.7, 0.5, 0.3)},
    "stable": {f"{p}": lambda p=p: StableConfidence(0.05, p) for p in (0.95, 0.8, 0.5)},
}
"""Rules of `ThresholdSampler` by name, each with its settings; tokens are drawn."""


def decoders(noise: str) -> list[Decoder]:
    """The decoders for `masked`, `gidd` or `uniform` noise."""
    return {"masked": _of_masks, "gidd": _of_hybrid_noise, "uniform": _of_uniform_noise}[noise]()


def _of_masks() -> list[Decoder]:
    found = [
        Decoder("ancestral", f"{n} steps", lambda p, d, n=n: in_steps(AncestralSampler(p, d), n))
        for n in (64, 32, 16, 8, 4)
    ]
    found.append(Decoder("first hitting", "", lambda p, d: in_steps(FirstHittingSampler(p, d), 1)))
    for name, rules in RULES.items():
        for setting, rule in rules.items():
            found.append(Decoder(name, setting, lambda p, d, rule=rule: in_steps(_by(rule(), p, d), LENGTH)))
    for n in (32, 16, 8, 4):
        make = lambda p, d, n=n: in_steps(ConfidenceSampler(p, d, "entropy"), n)  # noqa: E731
        found.append(Decoder("least entropy first", f"{n} steps", make))
    for h in (0, 0.5, 1, 2, 4):
        make = lambda p, d, h=h: in_steps(EntropyBoundedSampler(p, d, h), LENGTH)  # noqa: E731
        found.append(Decoder("EntropyBoundedSampler", f"{h}", make))
    for p in (0.8, 0.7, 0.6, 0.5):
        rule = ConfidenceThreshold(p)
        found += [
            Decoder(
                "confidence, with credit", f"{p}",
                lambda p, d, r=rule: in_steps(_by(r, p, nl.denoisers.Credit(d)), LENGTH),
            ),
            Decoder("confidence, blocks of 8", f"{p}", lambda p, d, r=rule: in_steps(BlockSampler(_by(r, p, d), BLOCK), BLOCK)),
            Decoder(
                "confidence, sliding blocks of 8", f"{p}",
                lambda p, d, r=rule: in_steps(SlidingBlockSampler(_by(r, p, d), BLOCK, share=0.5), BLOCK),
            ),
            Decoder(
                "drafts (most probable)", f"{p}",
                lambda p, d, r=rule: in_steps(DraftSampler(p, d, r, every=2, passes=2, block_size=BLOCK), LENGTH), True,
            ),
        ]  # fmt: skip
    for n in (8, 4, 2):
        make = lambda p, d, n=n: in_steps(BlockSampler(AncestralSampler(p, d), BLOCK), n)  # noqa: E731
        found.append(Decoder("ancestral, blocks of 8", f"{n} steps", make))
    for n in (32, 16, 8):
        found.append(Decoder("remasking", f"{n} steps", lambda p, d, n=n: in_steps(RemaskingSampler(p, d), n)))
        # Without remasking: a network for masks cannot rank visible tokens, which would need a planner.
        make = lambda p, d, n=n: in_steps(PathPlanningSampler(p, d, stochasticity=0), n)  # noqa: E731
        found.append(Decoder("path planning, stochasticity 0", f"{n} steps", make))
    return found


def _by(rule: Any, process: nl.InterpolatingProcess, denoiser: nl.Denoiser) -> ThresholdSampler:
    return ThresholdSampler(process, denoiser, rule, draw=True)


def _of_hybrid_noise() -> list[Decoder]:
    found = _of_any_noise()
    for p in (0.9, 0.7, 0.5):
        for edit in (None, 0.9, 0.5):
            name = "joint thresholds, no edits" if edit is None else f"joint thresholds, edits above {edit}"

            def make(process: Any, denoiser: Any, p: float = p, edit: float | None = edit) -> Draw:
                sampler = JointThresholdSampler(process, denoiser, p, edit, most_edits=EDITS)
                return in_steps(sampler, LENGTH + EDITS)

            found.append(Decoder(name, f"{p}", make, True))
    return found


def _of_uniform_noise() -> list[Decoder]:
    found = _of_any_noise()
    for edit in (None, 0.9):
        for n in (64, 32, 16, 8):
            name = "committing" if edit is None else f"committing, edits above {edit}"
            make = lambda p, d, n=n, e=edit: in_steps(CommittingSampler(p, d, 0.9, e), n)  # noqa: E731
            found.append(Decoder(name, f"{n} steps", make))
    return found


def _of_any_noise() -> list[Decoder]:
    """Ancestral steps and renoising, with correctors after them."""
    found: list[Decoder] = []
    for n in (64, 32, 16, 8, 4):
        found.append(Decoder("ancestral", f"{n} steps", lambda p, d, n=n: in_steps(AncestralSampler(p, d), n)))
    for n in (64, 32, 16, 8, 4):
        make = lambda p, d, n=n: in_steps(AncestralSampler(p, d), n, squared=True)  # noqa: E731
        found.append(Decoder("ancestral, squared times", f"{n} steps", make))
        for name, correct in {"balanced jumps": balanced, "one informed Gibbs move": informed}.items():
            both = lambda p, d, make=make, correct=correct: correct(make(p, d), p, d)  # noqa: E731
            found.append(Decoder(f"ancestral, {name} after", f"{n} steps", both))
    for name, settings in {
        "renoising, bound 0.1": {"bound": 0.1},
        "renoising, bound 1": {"bound": 1},
        "renoising, confidence 0.7": {"accept": ConfidenceThreshold(0.7)},
    }.items():
        for n in (64, 32, 16, 8):
            make = lambda p, d, n=n, s=settings: in_steps(RenoisingSampler(p, d, draw=True, **s), n)  # noqa: E731
            found.append(Decoder(name, f"{n} steps", make))
    heat = 0.4 + 0.4 * nl.t

    def published(process: Any, denoiser: Any) -> Draw:
        return in_steps(RenoisingSampler(process, denoiser, 0.1, temperature=heat, stability=1), 48)

    def and_balanced(process: Any, denoiser: Any) -> Draw:
        return balanced(in_steps(RenoisingSampler(process, denoiser, 1, draw=True), 16), process, denoiser)

    return [
        *found,
        Decoder("renoising as in DiffusionGemma", "48 steps", published),
        Decoder("renoising, bound 1, balanced jumps after", "16 steps", and_balanced),
    ]
