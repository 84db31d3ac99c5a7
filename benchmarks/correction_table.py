"""Everything that corrects, in one table: python benchmarks/correction_table.py [--quick].

A Markov chain whose law is known; masks, hybrid and uniform noise; the exact denoiser, and small networks trained on the
chain, three training seeds each. Every corrector gets the same true sequences with forced errors, and the same samples of 8
steps of its network; autoregressive models with backspaces get the same true sequences, and samples of their own. Writes
rows.json, table.md and answer.md into docs/assets/corrections. About nine minutes on one core.

`--render` writes the tables and the sentences again from rows.json.
"""

import argparse
import copy
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import Literal, NamedTuple

import torch

import noiselab as nl
from correction_backspaces import ANEW, FROM_THERE, backspace_revisers, train_backspaces
from correction_edits import EditReviser
from correction_networks import plain_network, taught_by_drafts, with_quality_head
from correction_pages import as_text, read_rows, write_pages
from noiselab.bench import World, force_errors
from noiselab.bench.corrections import (
    CorrectionMeasures,
    CorrectionSummary,
    measure_correction,
    summarize_corrections,
    tabulate_corrections,
)
from noiselab.correctors import (
    BalancedCorrector,
    BestGuessReviser,
    CorrectorReviser,
    DenoiserDetector,
    DFMCorrector,
    DraftCorrector,
    ForwardBackwardCorrector,
    QualityDetector,
    RemaskingCorrector,
    ResamplingReviser,
    SuspectCorrector,
)
from noiselab.denoisers import EarliestTime, Temperature
from noiselab.denoisers.one_by_one import OneByOne
from noiselab.evaluation import threshold_at
from noiselab.files import write_text
from noiselab.revisions import Detector, Reviser
from noiselab.samplers import (
    DraftSampler,
    JointThresholdSampler,
    PathPlanningSampler,
    RemaskingSampler,
    ThresholdSampler,
)

FOLDER = Path(__file__).parents[1] / "docs" / "assets" / "corrections"
EDITS = "edit"  # the noise of autoregressive models: wrong tokens, each followed by a backspace
FEW = 8  # steps of the samples that are corrected
EARLIEST = 1e-3  # the earliest time at which the networks were trained
AGAIN = 0.3  # the time to which sequences are noised to be generated again


def _revised(corrector: nl.Corrector, *, steps: int = 128) -> Reviser:
    """The steps of a corrector, at the lower end of time."""
    return CorrectorReviser(corrector, steps=steps, batch_size=512)


METHODS: dict[str, Callable[["Case"], Reviser]] = {
    "last jump": lambda case: ResamplingReviser(case.sampler(), time=0.01, steps=0, noise=False),
    "best guess, 5 % alarms": lambda case: BestGuessReviser(
        case.denoiser, threshold=case.threshold, time=case.time, support=case.process.support
    ),
    "GIDD, as published": lambda case: _revised(case.gidd()),
    "GIDD, one token": lambda case: _revised(case.gidd(), steps=1),
    "GIDD, two tokens": lambda case: _revised(case.gidd(), steps=2),
    "random Gibbs, 16 moves": lambda case: _revised(nl.GibbsCorrector(case.process, case.careful), steps=16),
    "informed Gibbs, 2 moves": lambda case: _revised(case.gibbs("unlikely"), steps=2),
    "informed Gibbs, 8 moves": lambda case: _revised(case.gibbs("unlikely"), steps=8),
    "Gibbs by margin, 2 moves": lambda case: _revised(case.gibbs("margin"), steps=2),
    "Gibbs at unsure places, 2 moves": lambda case: _revised(case.gibbs("unsure"), steps=2),
    "noised and generated again": lambda case: ResamplingReviser(case.sampler(), time=AGAIN, steps=8),
    "ReMDM sampler": lambda case: ResamplingReviser(
        RemaskingSampler(case.process, case.denoiser, amount=0.05), time=AGAIN, steps=8
    ),
    "ReMDM loop": lambda case: ResamplingReviser(
        nl.PredictorCorrector(case.sampler(), RemaskingCorrector(case.process, case.denoiser, amount=0.05)),
        time=AGAIN,
        steps=8,
    ),
    "path planning (P2)": lambda case: ResamplingReviser(
        PathPlanningSampler(case.process, case.denoiser), time=AGAIN, steps=8
    ),
    "joint thresholds (LLaDA2.1)": lambda case: ResamplingReviser(
        JointThresholdSampler(case.process, case.denoiser, most_edits=16), time=AGAIN, steps=8
    ),
    "edits by threshold, 0.5": lambda case: EditReviser(case.process, case.careful, 0.5),
    "edits by threshold, 0.9": lambda case: EditReviser(case.process, case.careful, 0.9),
    "draft sampler (ProSeCo)": lambda case: ResamplingReviser(
        DraftSampler(case.process, case.denoiser), time=AGAIN, steps=8
    ),
    "threshold decoder, 0.9": lambda case: ResamplingReviser(
        ThresholdSampler(case.process, case.denoiser), time=AGAIN, steps=8
    ),
    "forward-backward, 4 rounds": lambda case: _revised(
        ForwardBackwardCorrector(case.process, case.denoiser, span=0.1), steps=4
    ),
    "DFM corrector": lambda case: ResamplingReviser(
        nl.PredictorCorrector(case.sampler(), DFMCorrector(case.process, case.denoiser)), time=AGAIN, steps=8
    ),
    "balanced": lambda case: _revised(BalancedCorrector(case.process, case.careful)),
    "balanced, temperature 0.7": lambda case: _revised(BalancedCorrector(case.process, Temperature(case.careful, 0.7))),
    "balanced, temperature 0.5": lambda case: _revised(BalancedCorrector(case.process, Temperature(case.careful, 0.5))),
}
BALANCED = ("balanced", "balanced, temperature 0.7", "balanced, temperature 0.5")
ONE_BY_ONE = ("best guess, 5 % alarms", "GIDD, two tokens", "informed Gibbs, 2 moves", *BALANCED)
"""Methods that are also run with each token masked while it is scored, which costs an evaluation for each token."""


class Case(NamedTuple):
    """One denoiser of one noise, and the sequences that it corrects.

    **Arguments:**

    - `process`, `denoiser`: the noise, and the exact or trained denoiser of the methods.
    - `time`: the earliest time at which it is evaluated.
    - `samples`: of few steps; `forced`, `others`: true sequences with forced errors, to measure and to choose thresholds.
    """

    world: World
    process: nl.InterpolatingProcess
    denoiser: nl.Denoiser
    time: float
    samples: torch.Tensor
    forced: nl.bench.ForcedErrors
    others: nl.bench.ForcedErrors

    @property
    def careful(self) -> nl.Denoiser:
        """The denoiser at no earlier time than it was trained at."""
        return EarliestTime(self.denoiser, self.time)

    @property
    def threshold(self) -> float:
        """That of 5 % false alarms."""
        return threshold_at(self.detector(self.others.tokens), self.others.wrong)

    @property
    def detector(self) -> Detector:
        """The improbability of each token."""
        return DenoiserDetector(self.denoiser, time=self.time)

    def sampler(self) -> nl.Sampler:
        """The sampler of the samples."""
        return nl.AncestralSampler(self.process, self.denoiser)

    def gibbs(self, positions: Literal["unlikely", "margin", "unsure"]) -> nl.GibbsCorrector:
        """Moves at positions that the prediction chooses."""
        return nl.GibbsCorrector(self.process, self.careful, positions=positions)

    def gidd(self) -> nl.SelfCorrection:
        """The published settings."""
        return nl.SelfCorrection(self.denoiser, support=self.process.support)


def make_case(
    world: World, process: nl.InterpolatingProcess, denoiser: nl.Denoiser, time: float, size: int, seed: int
) -> Case:
    """Samples of the denoiser, and true sequences with forced errors; the same of a seed for every denoiser."""
    random, tokens = torch.Generator().manual_seed(seed), torch.arange(world.states)
    forced, others = (force_errors(world.sample(size, generator=random), tokens, 0.1, generator=random) for _ in "ab")
    samples = nl.AncestralSampler(process, denoiser).sample((size, world.length), steps=FEW, generator=random)
    return Case(world, process, denoiser, time, samples, forced, others)


def revisers_of(
    world: World, noise: str, process: nl.InterpolatingProcess, trained: nl.Denoiser, size: int, seed: int, steps: int
) -> Iterator[tuple[str, str, Case, Reviser, Detector]]:
    """The denoiser, the method, the case and what is measured."""
    low = process.domain[0]
    exact = make_case(world, process, world.oracle(process), low, size, seed)
    network = make_case(world, process, trained, EARLIEST, size, seed)
    for label, case in (("exact", exact), ("trained", network)):
        for method, make in METHODS.items():
            try:
                yield label, method, case, make(case), case.detector
            except ValueError as refused:  # a method that does not take this noise
                if seed == 0 and label == "exact":
                    print(f"{noise}: {method} is left out: {refused}")
    if noise != "masked":
        return
    hidden = network._replace(denoiser=OneByOne(trained, mask_id=world.states, passes=world.length))
    for method in ONE_BY_ONE:
        yield "trained, each token masked in turn", method, hidden, METHODS[method](hidden), hidden.detector
    quality = with_quality_head(world, process, copy.deepcopy(trained), steps // 2, seed)
    head = QualityDetector(quality, time=EARLIEST)
    threshold = threshold_at(head(network.others.tokens), network.others.wrong)
    suspects = SuspectCorrector(process, quality, head, threshold=threshold)
    yield "trained to correct", "quality head (PRISM), 5 % alarms", network, _four(suspects), head
    drafts = taught_by_drafts(world, process, copy.deepcopy(trained), steps // 2, seed)
    case = network._replace(denoiser=drafts)
    yield (
        "trained to correct",
        "draft corrector (ProSeCo)",
        network,
        _four(DraftCorrector(process, drafts), settles=True),
        case.detector,
    )
    editing = case._replace(process=world.processes()["gidd"])  # noise that makes visible tokens wrong, as drafts are
    methods = ["draft sampler (ProSeCo)", "GIDD, two tokens", "balanced", "balanced, temperature 0.7"]
    methods += ["edits by threshold, 0.5", "edits by threshold, 0.9"]
    for method in methods:
        reviser = METHODS[method](editing if method.startswith("edits") else case)
        yield "trained to correct", f"{method}, on ProSeCo's network", case, reviser, case.detector


def _four(corrector: nl.Corrector, *, settles: bool = False) -> Reviser:
    """At most four steps at the earliest time."""
    return CorrectorReviser(corrector, time=EARLIEST, steps=4, settles=settles, batch_size=512)


def measure_all(
    world: World, training_steps: int, size: int, seeds: int, kept: Path | None, noises: Sequence[str]
) -> list[CorrectionSummary]:
    """The rows of all methods, with the exact denoiser and with trained networks."""
    found: dict[tuple[str, str, str], list[CorrectionMeasures]] = {}
    for noise in noises:
        if noise == EDITS:
            measure_backspaces(world, training_steps, size, seeds, found)
            continue
        process = world.processes()[noise]
        for seed in range(seeds):
            begun = time.process_time()
            trained = plain_network(world, noise, process, training_steps, seed, kept)
            taken = time.process_time() - begun
            for label, method, case, reviser, detector in revisers_of(
                world, noise, process, trained, size, seed, training_steps
            ):
                random = torch.Generator().manual_seed(seed)
                row = measure_correction(world, reviser, case.forced, case.samples, detector=detector, generator=random)
                found.setdefault((noise, label, method), []).append(row)
            print(f"{noise}, seed {seed}: {taken:.0f} s + {time.process_time() - begun - taken:.0f} s", flush=True)
    ordered = sorted(found.items(), key=lambda item: list(dict.fromkeys(key[:2] for key in found)).index(item[0][:2]))
    return [summarize_corrections(*place, sets) for place, sets in ordered]


def measure_backspaces(
    world: World, steps: int, size: int, seeds: int, found: dict[tuple[str, str, str], list[CorrectionMeasures]]
) -> None:
    """The rows of models with backspaces, entered into `found`."""
    for seed in range(seeds):
        begun = time.process_time()
        trained = train_backspaces(world, steps, seed)
        taken = time.process_time() - begun
        for label, method, case, reviser, detector in backspace_revisers(world, trained, size, seed):
            random = torch.Generator().manual_seed(seed)
            row = measure_correction(world, reviser, case.forced, case.samples, detector=detector, generator=random)
            if method == ANEW:
                row = replace(row, mended=torch.nan, miscorrected=torch.nan, harmed=torch.nan)
            if method == FROM_THERE:
                row = replace(row, evaluations=row.evaluations + world.length + 1)
            found.setdefault((EDITS, label, method), []).append(row)
        print(f"{EDITS}, seed {seed}: {taken:.0f} s + {time.process_time() - begun - taken:.0f} s", flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="two seeds, short training, few sequences: a minute")
    parser.add_argument("--render", action="store_true", help="only write tables and sentences again from rows.json")
    parser.add_argument("--noises", nargs="+", default=["gidd", "uniform", "masked", EDITS], help="only these")
    parser.add_argument("--networks", type=Path, help="where the plain networks are kept, and read again")
    parser.add_argument("--out", type=Path, default=FOLDER, help="where the results go")
    options = parser.parse_args()
    torch.set_num_threads(1)  # small tensors: more threads would only wait for each other
    options.out.mkdir(parents=True, exist_ok=True)
    if not options.render:
        begun = time.process_time()
        settings = {"training_steps": 50, "size": 100, "seeds": 2} if options.quick else {}
        settings = {"training_steps": 1500, "size": 300, "seeds": 3} | settings
        rows = measure_all(World.sharp(), **settings, kept=options.networks, noises=options.noises)
        settings["minutes"] = round((time.process_time() - begun) / 60, 1)
        write_text(options.out / "rows.json", as_text({"settings": settings, "rows": [asdict(row) for row in rows]}))
    rows, settings = read_rows(options.out / "rows.json")
    write_pages(rows, settings, options.out)
    print(tabulate_corrections(rows))


if __name__ == "__main__":
    main()
