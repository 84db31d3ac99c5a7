"""What the bound does not see: the excess of the bound and of the samples of trained networks, exactly, for six noises.

    python recipes/unseen_by_the_bound.py                      # about 3 core-hours: 6 noises x 3 widths x 5 seeds
    python recipes/unseen_by_the_bound.py --seeds 1            # a part; processes may run side by side with other seeds
    python recipes/unseen_by_the_bound.py --page True          # the tables and figures of docs/studies from the finished rows
    python recipes/unseen_by_the_bound.py --check True         # two networks by other code (numpy, rates of jumps): 5 minutes

A world of 729 texts whose law is known. Each network is one file in OUT, and is not trained again, nor are those whose rows the
documentation has: interrupt and go on at will. `--page True` adds new files to the documentation's.
"""

import itertools
import json
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

from noiselab.files import write_json
from noiselab.training.flags import parse_flags
from noiselab.training.options import run_recipe
from unseen import by_hand
from unseen.measures import measure_network
from unseen.networks import train_network
from unseen.page import read_rows, write_page
from unseen.world import LENGTH, NOISES, build_process, data_law, entropy

CHECKED = (("masks", 24, 1), ("0.1", 24, 1))  # noise, width and seed of the networks that other code measures, too


@dataclass(frozen=True)
class Options:
    """The excess of bound and samples of small networks, exactly."""

    out: Path = Path("runs/unseen")
    """folder of the results, one file for each network"""
    noises: tuple[str, ...] = NOISES
    """masks, uniform, or the share of uniform tokens of hybrid noise"""
    widths: tuple[int, ...] = (24, 48, 96)
    """widths of the networks, multiples of 24"""
    seeds: tuple[int, ...] = (1, 2, 3, 4, 5)
    """seeds of training"""
    steps: int = 4000
    """optimizer steps"""
    batch: int = 256
    """texts in a step"""
    sampler_steps: tuple[int, ...] = (2, 4, 8, 16, 32, 64)
    """numbers of ancestral steps; the last two give the limit"""
    nodes: int = 32
    """times of the integral of the bound"""
    page: bool = False
    """only write the tables and figures of the documentation from the files in OUT"""
    check: bool = False
    """measure two networks also by other code, and write both numbers"""
    assets: Path = Path("docs/assets/unseen")
    """folder of the tables and figures of the documentation"""


def main(options: Options) -> list[dict[str, Any]]:
    """Train and measure what is missing; returns the rows."""
    for noise in options.noises:
        if noise not in NOISES:
            raise ValueError(f"noises must be among {list(NOISES)}; got {noise!r}")
    if options.page:
        return write_page(options.out, options.assets)
    if options.check:
        return check(options)
    rows = []
    kept = {(row["noise"], row["width"], row["seed"]): row for row in read_rows(options.assets)}
    for seed, width, noise in itertools.product(options.seeds, options.widths, options.noises):
        path = options.out / f"{noise}-{width}-{seed}.json"
        row = kept.get((noise, width, seed))
        if path.exists():
            row = require_same(options, json.loads(path.read_text(encoding="utf-8")), path)
        elif row is None or not is_same(options, row):
            row = run(options, noise, width, seed)
            write_json(path, row)
        rows.append(row)
        print(
            f"{noise:8} width {width} seed {seed}: bound +{rows[-1]['bound']:.4f}, samples +{rows[-1]['limit']:.4f}",
            flush=True,
        )
    return rows


def run(options: Options, noise: str, width: int, seed: int) -> dict[str, Any]:
    """One network: its settings, and its measures in nats per token above the entropy of the data."""
    law, process, begin = data_law(), build_process(noise), time.process_time()
    denoiser = train_network(process, law, width, steps=options.steps, batch=options.batch, seed=seed)
    trained = time.process_time()
    measures = measure_network(process, denoiser, law, steps=options.sampler_steps, nodes=options.nodes)
    return {
        **settings(options, noise, width, seed),
        "parameters": sum(p.numel() for p in denoiser.parameters()),
        "entropy": entropy(law),
        **measures,
        "seconds": {"training": trained - begin, "measuring": time.process_time() - trained},
    }


def settings(options: Options, noise: str, width: int, seed: int) -> dict[str, Any]:
    """What a row depends on."""
    numbers = {"training_steps": options.steps, "batch": options.batch, "nodes": options.nodes}
    return {"noise": noise, "width": width, "seed": seed, **numbers, "sampler_steps": list(options.sampler_steps)}


def is_same(options: Options, row: dict[str, Any]) -> bool:
    """Whether a row was made with the same settings."""
    wanted = settings(options, row["noise"], row["width"], row["seed"])
    return all(row.get(name) == value for name, value in wanted.items())


def require_same(options: Options, row: dict[str, Any], path: Path) -> dict[str, Any]:
    """The row, if it was made with the same settings."""
    if not is_same(options, row):
        wanted = settings(options, row["noise"], row["width"], row["seed"])
        found = {name: row.get(name) for name in wanted}
        raise ValueError(f"{path} was made with other settings, {found}; choose another --out for {wanted}")
    return row


def check(options: Options) -> list[dict[str, Any]]:
    """Bound and law of two networks, trained again, by the library and by other code."""
    law, rows = data_law(), []
    for noise, width, seed in CHECKED:
        process = build_process(noise)
        denoiser = train_network(process, law, width, steps=options.steps, batch=options.batch, seed=seed)

        def predict(z: np.ndarray, t: float, denoiser=denoiser) -> np.ndarray:
            with torch.no_grad():
                logits = denoiser(torch.from_numpy(z), torch.full((len(z),), t, dtype=torch.float64)).double()
            return logits[..., : by_hand.TOKENS].softmax(-1).numpy()

        ours = measure_network(process, denoiser, law, steps=(4, 8), nodes=options.nodes)
        data = law.numpy()
        other = by_hand.sampler_law(noise, predict, 8)
        rows.append(
            {
                **settings(options, noise, width, seed),
                "bound": ours["bound"],
                "bound_by_other_code": by_hand.bound(noise, predict, data) / LENGTH - entropy(law),
                "samples_8": ours["steps"]["8"],
                "samples_8_by_other_code": float((data * np.log(data / other)).sum() / LENGTH),
            }
        )
        print(rows[-1], flush=True)
    write_json(options.assets / "check.json", {"rows": rows})
    return rows


if __name__ == "__main__":
    run_recipe(lambda: main(parse_flags(Options)))
