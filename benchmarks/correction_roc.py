"""A quality head in one pass against one-by-one masking: python benchmarks/correction_roc.py [--quick].

The area under the ROC curve of PRISM's head, which scores all tokens of a text in one pass, beside its own network with
tokens hidden: one at a time, in a pass for each of the 16, and two, four and eight at a time in 8, 4 and 2 passes; the network
that sees all tokens; and the exact oracle. Wrong tokens are random ones, or draws of the network itself, some of which are
right. World and networks are those of benchmarks/correction_table.py, three training seeds; each is trained on with a head,
twice: with one mask of a text filled in for the head to judge, and with four. Writes roc.json and roc.md into
docs/assets/corrections; about three minutes on one core, half of it with networks that correction_table.py has kept.

`--render` writes the page again from roc.json.
"""

import argparse
import copy
import time
from pathlib import Path

import torch

from correction_networks import plain_network, with_quality_head
from correction_roc_pages import render
from noiselab.bench import World, force_errors
from noiselab.correctors import DenoiserDetector, QualityDetector
from noiselab.denoisers import Denoiser, QualityDenoiser
from noiselab.denoisers.one_by_one import OneByOne
from noiselab.evaluation import measure_detection
from noiselab.files import write_json, write_text
from noiselab.revisions import Detector
from noiselab.training import reveal

FOLDER = Path(__file__).parents[1] / "docs" / "assets" / "corrections"
EARLIEST = 1e-3  # the earliest time at which the networks were trained
REVEALED = (1, 4)  # masks that are filled in at once to train a head
PASSES = (16, 8, 4, 2)  # of the network, with tokens hidden
WRONG = 0.1  # the share of tokens that are replaced


def errors(world: World, denoiser: Denoiser, kind: str, texts: int, seed: int) -> tuple[torch.Tensor, torch.Tensor]:
    """True texts in which some tokens are replaced, and which of them are wrong."""
    random = torch.Generator().manual_seed(2000 + seed)
    x = world.sample(texts, generator=random)
    if kind == "random":
        forced = force_errors(x, torch.arange(world.states), WRONG, generator=random)
        return forced.tokens, forced.wrong
    process = world.processes()["masked"]
    chosen = torch.rand(x.shape, generator=random) < WRONG
    shown = torch.where(chosen, world.states, x)
    with torch.no_grad():
        logits = process.on_support(denoiser(shown, torch.full((texts,), WRONG, dtype=torch.float64)))
    z = reveal(logits, shown, chosen, world.length, generator=random)[0]
    return z, z != x


def detect(world: World, head: QualityDenoiser, texts: int, seed: int) -> dict[str, list[float]]:
    """Of each detector: its passes, and the areas under the curve of random errors and of the network's own."""
    oracle = world.oracle(world.processes()["masked"])
    detectors: dict[str, tuple[Detector, int]] = {"quality head": (QualityDetector(head, time=EARLIEST), 1)}
    for passes in PASSES:
        hidden = DenoiserDetector(OneByOne(head, world.states, passes), time=EARLIEST)
        detectors[f"its network, {world.length // passes} hidden at a time"] = (hidden, passes)
    detectors["its network, tokens visible"] = (DenoiserDetector(head, time=EARLIEST), 1)
    exact = DenoiserDetector(OneByOne(oracle, world.states, world.length))
    detectors["exact oracle, 1 hidden at a time"] = (exact, world.length)
    kinds = [errors(world, head, kind, texts, seed) for kind in ("random", "own")]
    return {
        name: [passes, *(measure_detection(detector(z), wrong).area for z, wrong in kinds)]
        for name, (detector, passes) in detectors.items()
    }


def run_all(seeds: int, steps: int, texts: int, kept: Path | None, path: Path) -> None:
    """Write the measures and the settings, after each seed."""
    world, begun, runs = World.sharp(), time.process_time(), []
    process = world.processes()["masked"]
    for seed in range(seeds):
        plain = plain_network(world, "masked", process, steps, seed, kept)
        found = {}
        for revealed in REVEALED:
            head = with_quality_head(world, process, copy.deepcopy(plain), steps // 2, seed, revealed=revealed)
            found[str(revealed)] = detect(world, head, texts, seed)
        runs.append({"detection": found})
        print(f"seed {seed}: {time.process_time() - begun:.0f} s so far", flush=True)
        write_json(path, {"settings": {"seeds": len(runs), "steps": steps, "texts": texts}, "runs": runs})


def main() -> None:
    """Train, measure and write."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="two seeds, short training: half a minute")
    parser.add_argument("--render", action="store_true", help="only write the page again from roc.json")
    parser.add_argument("--seeds", type=int, default=3, help="training seeds, at least two")
    parser.add_argument("--networks", type=Path, help="where correction_table.py has kept its networks")
    parser.add_argument("--out", type=Path, default=FOLDER, help="where the results go")
    options = parser.parse_args()
    torch.set_num_threads(1)  # small tensors: more threads would only wait for each other
    options.out.mkdir(parents=True, exist_ok=True)
    if not options.render:
        seeds, steps, texts = (2, 50, 64) if options.quick else (options.seeds, 1500, 1000)
        run_all(seeds, steps, texts, options.networks, options.out / "roc.json")
    text = render(options.out / "roc.json")
    write_text(options.out / "roc.md", text)
    print(text)


if __name__ == "__main__":
    main()
