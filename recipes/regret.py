"""Does retry-upon-regret help a model trained without mistakes? Accuracy of error detectors, and of decoding with them.

    python recipes/learn_from_mistakes.py demo --only "error-free" "retry 0.5"     # the models; missing ones are trained here
    python recipes/regret.py demo
    python recipes/regret.py demo --help                                           # all fields

A model decodes greedily. A step that a detector classifies as wrong is deleted and generated again, a limited number of times. Probes
are trained on the frozen model to predict whether a parameter can be computed next. The tables are printed and written to
OUTPUT/regret.json; the plot is OUTPUT/regret.png.
"""  # noqa: E501

import math
import random
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import torch
import transformers

from learn_from_mistakes import format_share
from noiselab.autoregressive import (
    BackspaceDetector,
    EntropyDetector,
    PooledDetector,
    Probe,
    RetryUponRegret,
    StepDetector,
    SurpriseDetector,
)
from noiselab.correctors import DenoiserDetector
from noiselab.denoisers import Denoiser
from noiselab.evaluation import (
    Interval,
    interval,
    measure_detection,
    paired_difference,
    wilson,
)
from noiselab.files import new_file, write_json
from noiselab.networks.huggingface import TransformersDenoiser
from noiselab.tasks.igsm import (
    CanNextDetector,
    PerfectDetector,
    Problem,
    Verdict,
    Words,
    can_next_examples,
    ends_of_steps,
)
from noiselab.training import Trainer, labelled, load_probe, probe_loss, save_probe
from noiselab.training.options import command_line, run_recipe
from problems import models as problem_models
from problems.models import ProblemModels, draw_at_level, draw_columns, load_or_train_arm, load_or_train_gidd
from problems.solving import check_solutions, encode_prompt, generate_solutions, solve, summarize_verdicts
from problems.streams import CanNextStream

PROBES = {"probe": (8, 0), "probe with attention": (32, 2)}
"""Ranks of the updates of the embedding, and of queries and values: the published versions 1 and 2."""


@dataclass(frozen=True)
class Regret(ProblemModels):
    """Settings of error detectors and of decoding. The other fields are those of the models."""

    probe_steps: int = 2_000
    """number of optimizer steps of a probe"""
    probe_learning_rate: float = 2e-3
    """learning rate of a probe"""
    retries: tuple[int, ...] = (1, 3, 10, 50)
    """maximum numbers of deleted steps per text with a perfect detector; 10 for the other detectors"""
    beams: tuple[int, ...] = (4, 16)
    """numbers of beams of beam search, for comparison"""
    hard: int = 8
    """number of operations of the test problems"""
    taught: str = "retry 0.5"
    """the arm of the model that was trained on mistakes, for comparison, and as a detector"""
    sure: float = 0.5
    """threshold of the detectors, as a probability of an error"""


PRESETS = {
    name: (text, Regret(**{key: getattr(options, key) for key in options.__dataclass_fields__}))
    for name, (text, options) in problem_models.PRESETS.items()
}


def main(arguments: Sequence[str] | None = None) -> list[dict[str, Any]]:
    """Train the missing models, evaluate, and write the tables; returns the rows of the second table."""
    options = command_line(PRESETS, arguments)
    if not options.seeds or options.probe_steps < 1 or min(options.retries, default=1) < 1:
        raise ValueError(
            "there must be seeds, and probe_steps and retries must be positive; "
            f"got {options.seeds}, {options.probe_steps} and {options.retries}"
        )
    transformers.logging.set_verbosity_error()
    transformers.logging.disable_progress_bar()
    words = Words(options.level)
    problems = list(draw_columns(replace(options, ops=(options.hard,))).values())[1]
    seen: list[dict[str, Any]] = []
    rows: list[dict[str, Any]] = []
    for seed in options.seeds:
        plain = load_or_train_arm("error-free", seed, options, words)
        solutions = generate_solutions(plain, problems, words, most=options.length)
        greedy = check_solutions(solutions, problems, words)
        solved = {"greedy": greedy}
        for beams in options.beams:
            solved[f"{beams} beams"] = solve(plain, problems, words, beams=beams, most=options.length, batch=64)
        taught = load_or_train_arm(options.taught, seed, options, words)
        detectors = build_detectors(plain, taught, seed, options, words)
        for name, detector in detectors.items():
            threshold = choose_threshold(name, options.sure)
            found = measure_detector(detector, threshold, name in PROBES, problems, solutions, greedy, options, words)
            seen.append({"detector": name, "seed": seed, **found})
        detectors["always"] = Always([words.full_stop])
        for name, detector in detectors.items():
            solved[f"regret, {name}"] = solve_with_regret(
                plain, detector, choose_threshold(name, options.sure), 10, problems, options, words
            )
        for retries in options.retries:
            name = f"regret, perfect, at most {retries}"
            solved[name] = solve_with_regret(
                plain, PerfectDetector(problems, words), options.sure, retries, problems, options, words
            )
        solved[f"trained on {options.taught}, greedy"] = solve(taught, problems, words, most=options.length)
        right = [verdict.right for verdict in greedy]
        for name, verdicts in solved.items():
            mine = [verdict.right for verdict in verdicts]
            summary = summarize_verdicts(verdicts)
            gain = asdict(paired_difference(mine, right))
            rows.append({"decoding": name, "seed": seed, **summary._asdict(), "gain": gain})
            print(f"{name}, seed {seed}: {summary.right:.1%}", flush=True)
        write_json(options.run.output / "regret.json", {"detection": seen, "rows": rows, "hard": options.hard})
    print("\n" + tabulate_detectors(seen) + "\n\n" + tabulate_decoding(rows, options.hard))
    plot_decoding(rows, options.run.output / "regret.png")
    return rows


def load_or_train_probe(
    name: str, ranks: tuple[int, int], network: Any, seed: int, options: Regret, words: Words
) -> Probe:
    """A probe, of an earlier run or trained now."""
    folder = options.run.output / f"seed_{seed}" / name.replace(" ", "_")
    file = folder / "probe.safetensors"
    if file.is_file():
        return load_probe(network, file).eval()
    transformers.set_seed(seed)
    probe = Probe(network, *ranks)
    print(f"\n{name}, seed {seed}: {probe.trained_size:,} numbers are trained", flush=True)
    optimization = replace(
        options.optimization,
        steps=options.probe_steps,
        learning_rate=options.probe_learning_rate,
        weight_decay=0.01,
        warmup=min(options.optimization.warmup, options.probe_steps // 10),
        optimizer="adamw",
        precision="float32",
        decay_all=False,
        ema=None,
        seed=seed,
    )
    rows = CanNextStream(
        partial(draw_at_level, options, None, "train"),
        words,
        options.length,
        batch=optimization.micro_batch or optimization.batch,
        balanced=True,
        seed=seed,
    )
    run = replace(options.run, output=folder / "run", resume="never", save_every=0)
    trainer = Trainer(probe, optimization, run, train_dataset=rows, loss=probe_loss, count=labelled)
    trainer.train(None)
    save_probe(probe, file)
    return probe.eval()


class Always(StepDetector):
    """Classifies every step as wrong."""

    def score_step(self, text: torch.Tensor) -> float:
        """Always 1."""
        return 1.0


class BlockDetector(StepDetector):
    """The improbability of a step under a diffusion model of blocks, in nats.

    The block is filled up to this step; the rest is noise, as during sampling.
    """

    def __init__(self, denoiser: Denoiser, length: int, words: Words) -> None:
        super().__init__([words.full_stop])
        tokens = DenoiserDetector(denoiser, time=0.5, length=length, filler=words.size)
        self.steps, self.length, self.start = PooledDetector(tokens, boundary=ends_of_steps(words)), length, words.start

    def score_step(self, text: torch.Tensor) -> float:
        """The score of the last step; 0 for texts that are longer than the rows of the model."""
        if len(text) >= self.length:
            return 0.0
        return self.steps.score_step(torch.cat([text.new_tensor([self.start]), text]))


IN_NATS = ("improbability", "GIDD+")
"""Detectors whose score is -log p of a token; the others are probabilities or shares."""


def choose_threshold(name: str, sure: float) -> float:
    """The threshold of a detector: `sure` as a probability p of an error, or the nats of a token of probability 1 - p."""
    return -math.log1p(-sure) if name in IN_NATS else sure


def build_detectors(plain: Any, taught: Any, seed: int, options: Regret, words: Words) -> dict[str, StepDetector]:
    """Build all detectors: probes of the model, its own uncertainty, and two other models."""
    boundary, found = ends_of_steps(words), dict[str, StepDetector]()
    for name, ranks in PROBES.items():
        found[name] = CanNextDetector(load_or_train_probe(name, ranks, plain, seed, options, words), words)
    found["improbability"] = PooledDetector(SurpriseDetector(plain, start=words.start), boundary=boundary)
    found["entropy"] = PooledDetector(EntropyDetector(plain, start=words.start), boundary=boundary)
    found[f"backspaces of {options.taught}"] = PooledDetector(
        BackspaceDetector(taught, words.back, start=words.start), boundary=boundary, pool=int(words.encode(["as"]))
    )
    if options.gidd:
        denoiser = TransformersDenoiser(load_or_train_gidd(seed, options, words))
        found["GIDD+"] = BlockDetector(denoiser, options.gidd_length, words)
    return found


def measure_detector(
    detector: StepDetector,
    threshold: float,
    probe: bool,
    problems: Sequence[Problem],
    solutions: Sequence[torch.Tensor],
    verdicts: Sequence[Verdict],
    options: Regret,
    words: Words,
) -> dict[str, Any]:
    """Accuracy of a detector on the model's own steps up to the first wrong one; for a probe, on drawn examples too."""
    scores, wrong = [], []
    for problem, solution, verdict in zip(problems, solutions, verdicts, strict=True):
        ends = (solution == words.full_stop).nonzero()[:, 0].tolist()
        last = len(ends) if verdict.step is None else verdict.step + 1
        for step, end in enumerate(ends[:last]):
            scores.append(detector.score_step(torch.cat([words.encode(problem.question), solution[: end + 1]])))
            wrong.append(step == verdict.step)
    found: dict[str, Any] = {"steps": len(wrong), "errors": sum(wrong)}
    if 0 < sum(wrong) < len(wrong):
        score, is_wrong = torch.tensor(scores, dtype=torch.float64), torch.tensor(wrong)
        found |= measure_detection(score, is_wrong)._asdict()
        found["caught"] = wilson(int((score[is_wrong] > threshold).sum()), sum(wrong))
        found["alarms"] = (score[~is_wrong] > threshold).double().mean().item()
    if probe:
        generator = random.Random("examples")
        examples = [can_next_examples(problem, words, generator, 4) for problem in problems]
        right = [
            (detector.score_step(row[1:]) < 0.5) == label
            for some in examples
            for row, label in zip(some.rows, some.labels.tolist(), strict=True)
        ]
        found["right"] = sum(right) / len(right)
    return found


def solve_with_regret(
    network: Any,
    detector: StepDetector,
    threshold: float,
    retries: int,
    problems: Sequence[Problem],
    options: Regret,
    words: Words,
) -> list[Verdict]:
    """Solve problems by retry-upon-regret with a detector; returns the verdicts."""
    sampler = RetryUponRegret(
        network,
        detector,
        vocab_size=words.size,
        boundary=[words.full_stop],
        start=words.start,
        threshold=threshold,
        retries=retries,
        temperature=0,
    )
    prompts = [encode_prompt(problem, words)[1:] for problem in problems]
    solutions = []
    for first in range(0, len(prompts), 250):
        part = prompts[first : first + 250]
        random_numbers = torch.Generator().manual_seed(first)
        length = max(map(len, part)) + options.length
        written = sampler.sample(part, length=length, end=words.end, generator=random_numbers)
        for prompt, text in zip(part, written.texts, strict=True):
            solution = text[len(prompt) :]
            solutions.append(solution[:-1] if len(solution) and solution[-1] == words.end else solution)
    return check_solutions(solutions, problems, words)


def tabulate_detectors(seen: list[dict[str, Any]]) -> str:
    """The accuracy of the detectors as a Markdown table."""
    lines = [
        "| detector | seed | right about any parameter | area | found at 5 % false alarms | caught when sure | alarms then "
        "| errors | steps |",
        "| --- | ---: | ---: | ---: | ---: | ---: | ---: | ---: | ---: |",
    ]
    for row in seen:
        said = [f"{row['right']:.2%}" if "right" in row else ""]
        if "area" in row:
            low, high = row["caught"]
            said += [f"{row['area']:.3f}", f"{row['recall']:.1%}", f"{low:.1%} to {high:.1%}", f"{row['alarms']:.1%}"]
        else:
            said += [""] * 4
        lines.append(f"| {row['detector']} | {row['seed']} | {' | '.join(said)} | {row['errors']} | {row['steps']} |")
    return "\n".join(lines)


def tabulate_decoding(rows: list[dict[str, Any]], hard: int) -> str:
    """The accuracy of each decoding method as a Markdown table."""
    lines = [
        f"| decoding | right, {hard} operations | more than greedy, points |",
        "| --- | ---: | ---: |",
    ]
    for name in dict.fromkeys(row["decoding"] for row in rows):
        own = [row for row in rows if row["decoding"] == name]
        gains = [row["gain"]["mean"] for row in own]
        gain = interval(gains) if len(own) > 1 else Interval(**own[0]["gain"])
        shares = format_share([row["right"] for row in own], own[0])
        lines.append(f"| {name} | {shares} | {100 * gain.mean:+.1f} ± {100 * gain.half:.1f} |")
    return "\n".join(lines)


def plot_decoding(rows: list[dict[str, Any]], file: Path) -> None:
    """Plot the accuracy of each decoding method as bars."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    names = list(dict.fromkeys(row["decoding"] for row in rows))[::-1]
    shares = [[100 * row["right"] for row in rows if row["decoding"] == name] for name in names]
    figure = Figure(figsize=(8, 0.35 * len(names) + 1), layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.subplots()
    axes.barh(names, [sum(share) / len(share) for share in shares], color="#4878a8")
    for place, share in enumerate(shares):
        axes.plot(share, [place] * len(share), "k.", markersize=4)
    axes.set(xlabel="right solutions, per cent", xlim=(0, 100))
    axes.grid(axis="x", alpha=0.3)
    with new_file(file) as temporary:
        figure.savefig(temporary, dpi=120, format="png")


if __name__ == "__main__":
    run_recipe(main)
