"""How much to correct, where the truth is known: python benchmarks/how_much.py [--quick].

Samples of few steps are corrected token by token, by five rules, and measured after each step: four Markov chains, hybrid and
uniform noise, 4 to 64 steps of the ancestral sampler, the exact denoiser and one that is wrong by a known amount. Writes
rows.json, table.md, answer.md and a figure into docs/assets/how_much. About five minutes on one core.

`--render` writes the tables, the sentences and the figure again from rows.json.
"""

import argparse
import json
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch

import noiselab as nl
from how_much_tables import write_pages
from noiselab.bench.corrections import measure_law
from noiselab.bench.world import World
from noiselab.correctors import BalancedCorrector
from noiselab.denoisers import CallCounter, Perturbed, Temperature
from noiselab.evaluation.intervals import interval
from noiselab.files import write_text

FOLDER = Path(__file__).parents[1] / "docs" / "assets" / "how_much"
STEPS = 16  # of each correction
JUMP = 0.01  # the time of the last jump, and of GIDD's rule
Walk = Callable[[nl.InterpolatingProcess, nl.Denoiser, torch.Tensor, torch.Generator], Iterator[torch.Tensor]]


def by_gidd(temperature: float) -> Walk:
    """GIDD's rule without its stopping criterion."""

    def walk(
        process: nl.InterpolatingProcess, denoiser: nl.Denoiser, x: torch.Tensor, random: torch.Generator
    ) -> Iterator[torch.Tensor]:
        rule = nl.SelfCorrection(denoiser, time=JUMP, temperature=temperature, support=process.support)
        return rule.walk(x, steps=STEPS, generator=random, stop=False)

    return walk


def by_gibbs(positions: str, temperature: float) -> Walk:
    """Gibbs moves at the lower end of time."""

    def walk(
        process: nl.InterpolatingProcess, denoiser: nl.Denoiser, x: torch.Tensor, random: torch.Generator
    ) -> Iterator[torch.Tensor]:
        rule: Any = nl.GibbsCorrector(process, Temperature(denoiser, temperature), positions=positions)  # type: ignore[arg-type]
        at = torch.full((len(x),), process.domain[0], dtype=torch.float64)
        for _ in range(STEPS):
            x = rule.step(x, at, generator=random)
            yield x

    return walk


def by_jumps(
    process: nl.InterpolatingProcess, denoiser: nl.Denoiser, x: torch.Tensor, random: torch.Generator
) -> Iterator[torch.Tensor]:
    """The last step of a sampler, repeated."""
    sampler, at = nl.AncestralSampler(process, denoiser), torch.full((len(x),), JUMP, dtype=torch.float64)
    for _ in range(STEPS):
        x = sampler.clean(x, at, generator=random)
        yield x


def by_balance(level: float, temperature: float = 1.0) -> Walk:
    """Balanced jumps, with their stopping criterion."""

    def walk(
        process: nl.InterpolatingProcess, denoiser: nl.Denoiser, x: torch.Tensor, random: torch.Generator
    ) -> Iterator[torch.Tensor]:
        rule = BalancedCorrector(process, Temperature(denoiser, temperature), level=level)
        return rule.walk(x, steps=STEPS, generator=random)

    return walk


RULES: dict[tuple[str, str], Walk] = {
    ("GIDD", "temperature 0.1"): by_gidd(0.1),
    ("GIDD", "temperature 0.5"): by_gidd(0.5),
    ("GIDD", "temperature 1"): by_gidd(1.0),
    ("informed Gibbs", "temperature 0.5"): by_gibbs("unlikely", 0.5),
    ("informed Gibbs", "temperature 1"): by_gibbs("unlikely", 1.0),
    ("random Gibbs", "temperature 0.5"): by_gibbs("random", 0.5),
    ("random Gibbs", "temperature 1"): by_gibbs("random", 1.0),
    ("last jump", "temperature 1"): by_jumps,
    ("balanced", "level 0.001"): by_balance(0.001),
    ("balanced", "level 0.01"): by_balance(0.01),
    ("balanced", "level 0.1"): by_balance(0.1),
    ("balanced", "level 0.01, temperature 0.7"): by_balance(0.01, 0.7),
    ("balanced", "level 0.01, temperature 0.5"): by_balance(0.01, 0.5),
}


def worlds() -> dict[str, World]:
    """Two chains with few followers of each token, and two with many."""
    return {
        "sharp": World.sharp(seed=0),
        "sharp, another": World.sharp(seed=1),
        "soft": World.soft(seed=0),
        "soft, another": World.soft(seed=1),
    }


def run_case(
    world: World, process: nl.InterpolatingProcess, denoiser: nl.Denoiser, start: int, sequences: int, seed: int
) -> list[dict[str, Any]]:
    """The law after each step of each rule, from one set of samples."""
    random = torch.Generator().manual_seed(seed)
    counter = CallCounter(denoiser)
    x = nl.AncestralSampler(process, denoiser).sample((sequences, world.length), steps=start, generator=random)
    found = []
    for (rule, setting), walk in RULES.items():
        states = [measure_law(world, x)]
        counter.reset()
        for z in walk(process, counter, x, random):
            states.append(measure_law(world, z))
        more = STEPS + 1 - len(states)  # a rule that has stopped stays where it is
        row: dict[str, Any] = {"rule": rule, "setting": setting, "start": start}
        for name in ("gap", "divergence", "pairs"):
            values = [getattr(one, name) for one in states]
            row[name] = values + values[-1:] * more
        row["evaluations"] = counter.sequences / sequences
        found.append(row)
    return found


def mean_of(sets: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """The mean of a rule's measures over sets of samples; "half" is half of the 95 % interval after the last step."""
    row = {name: sets[0][name] for name in ("rule", "setting", "start")}
    row["evaluations"] = round(sum(one["evaluations"] for one in sets) / len(sets), 3)
    for name in ("gap", "divergence", "pairs"):
        row[name] = [round(sum(values) / len(sets), 5) for values in zip(*(one[name] for one in sets), strict=True)]
    row["half"] = {name: round(interval([one[name][-1] for one in sets]).half, 5) for name in ("gap", "pairs")}
    return row


def run_all(chains: Mapping[str, World], starts: Sequence[int], seeds: Sequence[int], sequences: int) -> list[dict]:
    """All cases; the wrong denoiser for the first chain only."""
    rows = []
    for chain, world in chains.items():
        for noise, process in world.processes().items():
            if noise == "masked":
                continue
            exact = world.oracle(process)
            denoisers: dict[str, nl.Denoiser] = {"exact": exact}
            if chain == "sharp":
                errors = torch.Generator().manual_seed(0)
                denoisers["wrong by 0.5"] = Perturbed(exact, 0.5, vocab_size=process.vocab_size, generator=errors)
            for name, denoiser in denoisers.items():
                begun = time.monotonic()
                for start in starts:
                    about = {"chain": chain, "noise": noise, "denoiser": name}
                    sets = [run_case(world, process, denoiser, start, sequences, seed) for seed in seeds]
                    rows += [about | mean_of(same) for same in zip(*sets, strict=True)]
                print(f"{chain} chain, {noise} noise, {name}: {time.monotonic() - begun:.0f} s", flush=True)
    return rows


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="one chain, two seeds, few sequences: a minute")
    parser.add_argument(
        "--render", action="store_true", help="only write tables, sentences and figure again from rows.json"
    )
    parser.add_argument("--out", type=Path, default=FOLDER, help="where the results go")
    options = parser.parse_args()
    torch.set_num_threads(1)  # small tensors: more threads would only wait for each other
    options.out.mkdir(parents=True, exist_ok=True)
    if not options.render:
        begun, chains = time.process_time(), worlds()
        if options.quick:
            rows = run_all({"sharp": chains["sharp"]}, (8,), (0, 1), 100)
        else:
            rows = run_all(chains, (4, 8, 16, 32, 64), (0, 1, 2), 1000)
        minutes = round((time.process_time() - begun) / 60, 1)
        text = json.dumps({"minutes": minutes, "rows": rows}, separators=(",", ":"))
        write_text(options.out / "rows.json", text.replace("},{", "},\n{") + "\n")
    written = json.loads((options.out / "rows.json").read_text(encoding="utf-8"))
    print(write_pages(written["rows"], written["minutes"], options.out))


if __name__ == "__main__":
    main()
