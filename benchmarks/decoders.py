"""Decoders where the truth is known: python benchmarks/decoders.py [--quick].

Every decoder of `decoder_list.py` at several settings under three noises, on two Markov chains (few followers for each
token, or many), with the exact denoiser and one that is wrong by a known amount: how far drawn sequences are from the data
against tokens per forward. Writes a table and figures into docs/assets/decoders.
"""

import argparse
import json
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import torch
from torch import Generator, Tensor

import noiselab as nl
from decoder_figures import save_figures, summarize, tabulate
from decoder_list import LENGTH, Decoder, decoders
from noiselab.bench.corrections import measure_law
from noiselab.bench.world import World
from noiselab.denoisers import ActiveOnly, CallCounter
from samplers import perturb_oracle

FOLDER = Path(__file__).parents[1] / "docs" / "assets" / "decoders"
MANY = (0.6, 0.16, 0.09, 0.06, 0.04, 0.03, 0.015, 0.005)  # probabilities of the eight followers of each token
SEEDS, GROUPS = (0, 1), 10
QUANTILE = 2.262  # of Student's distribution with GROUPS - 1 degrees of freedom, 97.5 %


@dataclass(frozen=True)
class DecoderRow:
    """What a decoder costs, and how far its sequences are from the data.

    **Arguments:**

    - `tokens_per_forward`: tokens of a sequence for each forward that it needed.
    - `divergence`, `divergence_error`: KL from the data in nats per token, and half of its 95 % interval. Of sequences that
      differ, that of a chain with their pairs, which is at most theirs; of a single sequence, its own.
    - `pairs`, `pairs_error`: total variation between the frequencies of pairs and the chain's.
    - `gap`: nats per token by which sequences are less probable than data.
    """

    world: str
    noise: str
    denoiser: str
    decoder: str
    setting: str
    sequences: int
    tokens_per_forward: float
    divergence: float
    divergence_error: float
    pairs: float
    pairs_error: float
    gap: float


def worlds(length: int = LENGTH) -> list[World]:
    """The chain with few followers of each token, and the one with many."""
    followed = World.random(states=8, length=length, followers=MANY, generator=Generator().manual_seed(0))
    return [World.sharp(length=length), World(followed.transition, length, name="soft")]


def measure(world: World, x: Tensor, *, single: bool = False) -> tuple[float, float, float]:
    """Divergence, pairs and gap of sequences."""
    law = measure_law(world, x)
    return (law.gap + world.entropy if single else law.divergence), law.pairs, law.gap


def jackknife(world: World, x: Tensor) -> tuple[float, float]:
    """Half of the 95 % intervals of divergence and pairs, by leaving out each group of sequences in turn."""
    groups = torch.arange(len(x)) % GROUPS
    left = torch.tensor([measure(world, x[groups != g])[:2] for g in range(GROUPS)], dtype=torch.float64)
    error = ((left - left.mean(0)).square().sum(0) * (GROUPS - 1) / GROUPS).sqrt() * QUANTILE
    return error[0].item(), error[1].item()


def run(
    decoder: Decoder, world: World, process: nl.InterpolatingProcess, denoiser: nl.Denoiser, sequences: int
) -> tuple[Tensor, float]:
    """Sequences of both seeds, and forwards per sequence: those in which it had a token to be predicted."""
    counter = CallCounter(ActiveOnly(denoiser))
    draw = decoder.make(process, counter)
    count = 2 if decoder.single else sequences
    x = torch.cat([draw((count, world.length), Generator().manual_seed(seed)) for seed in SEEDS])
    if decoder.single and (x != x[0]).any():
        raise ValueError(f"{decoder.name} must be a single sequence")
    return x, counter.active / len(x)


def compare(
    world: World,
    noise: str,
    label: str,
    make: Callable[[nl.InterpolatingProcess], nl.Denoiser],
    sequences: int,
    known: Sequence[Decoder] | None = None,
) -> list[DecoderRow]:
    """A row for each decoder under a noise, with a denoiser."""
    process = world.processes()[noise]
    denoiser, rows = make(process), []
    for decoder in decoders(noise) if known is None else known:
        x, forwards = run(decoder, world, process, denoiser, sequences)
        divergence, pairs, gap = measure(world, x, single=decoder.single)
        errors = (0.0, 0.0) if decoder.single else jackknife(world, x)
        rows.append(
            DecoderRow(
                world.name,
                noise,
                label,
                decoder.name,
                decoder.setting,
                1 if decoder.single else len(x),
                world.length / forwards,
                divergence,
                errors[0],
                pairs,
                errors[1],
                gap,
            )
        )
    return rows


def floors(world: World, sequences: int) -> tuple[float, float]:
    """Divergence and pairs of exact samples of this number."""
    generator = Generator().manual_seed(0)
    found = torch.tensor([measure(world, world.sample(sequences, generator=generator))[:2] for _ in range(8)])
    return found[:, 0].mean().item(), found[:, 1].mean().item()


def main() -> None:
    """Run all, print and write."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="few sequences")
    parser.add_argument("--sequences", type=int, default=500, help="of each of the two seeds")
    parser.add_argument("--folder", type=Path, default=FOLDER)
    parser.add_argument("--redraw", action="store_true", help="only write table and figures again, from rows.json")
    options = parser.parse_args()
    torch.set_num_threads(1)  # small tensors: more threads would only wait for each other
    sequences, start = 50 if options.quick else options.sequences, time.process_time()
    options.folder.mkdir(parents=True, exist_ok=True)
    stored = options.folder / "rows.json"
    rows: list[DecoderRow] = []
    if options.redraw:
        rows = [DecoderRow(**row) for row in json.loads(stored.read_text(encoding="utf-8"))]
    for world in () if options.redraw else worlds():
        for label, make in (("exact denoiser", world.oracle), ("wrong by 0.5", perturb_oracle(0.5, world))):
            for noise in world.processes():
                rows += compare(world, noise, label, make, sequences)
                print(f"{world.name} chain, {label}, {noise}: {time.process_time() - start:.0f} s of CPU", flush=True)
    stored.write_text(json.dumps([asdict(row) for row in rows], indent=1), encoding="utf-8")
    most = max(row.sequences for row in rows)
    chance = {world.name: floors(world, most) for world in worlds()}
    (options.folder / "table.md").write_text(tabulate(rows, chance), encoding="utf-8")
    (options.folder / "answer.md").write_text(summarize(rows), encoding="utf-8")
    save_figures(rows, chance, options.folder)


if __name__ == "__main__":
    main()
