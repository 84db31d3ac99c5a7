"""What transformers and simpler ways make of ranked answers, for `in_context_alignment.py`."""

import json
import time
from collections.abc import Iterable
from concurrent.futures import ProcessPoolExecutor
from dataclasses import asdict, dataclass, field, replace
from functools import partial
from multiprocessing import get_context
from pathlib import Path
from typing import Any, Literal

import torch
from torch import Generator, Tensor

from alignment import (
    AnswersOnALine,
    Ranked,
    RankedAnswers,
    ScatteredAnswers,
    best_answer,
    gradient_descent,
    line_end,
    mean_answer,
)
from noiselab.files import write_json

from .models import Shape, list_arms, train_network

NOISES = (0.0, 0.25, 0.5, 0.75, 1.0)
LAWS: dict[str, type[RankedAnswers]] = {"line": AnswersOnALine, "scattered": ScatteredAnswers}


@dataclass(frozen=True)
class Alignment:
    """What is trained, on what, and how it is compared."""

    shape: Shape = field(default_factory=Shape)
    """of the transformer of the first arm"""
    dim: int = 5
    """of questions and answers"""
    answers: int = 16
    """of a context in training; what is said is scored after each number of them from 2 on"""
    batch: int = 32
    """contexts of a step"""
    steps: int = 3_000
    """of the optimizer"""
    learning_rate: float = 1e-3
    """the highest"""
    laws: tuple[Literal["line", "scattered"], ...] = ("line", "scattered")
    """of answers: on a line with the reward as coordinate, as published; or scattered about it"""
    only: tuple[str, ...] = ("transformer", "linear attention", "no feed-forward", "1 head", "6 heads", "2 layers")
    """arms on a line; of the other law there is the first"""
    seeds: tuple[int, ...] = (1, 2, 3)
    """of training"""
    contexts: int = 4_096
    """that all are compared on"""
    parallel: int = 1
    """runs at once"""
    cpu: bool = False
    """whether a GPU is left alone"""
    output: Path = Path("runs/in_context_alignment")
    """where results go"""


PRESETS = {
    "demo": (
        "for two CPU cores: three to five minutes a run",
        Alignment(Shape(layers=4, width=48), batch=128, steps=2_000, learning_rate=2e-3),
    ),
    "published": (
        "the published sizes, for a GPU",
        Alignment(
            Shape(layers=20),
            answers=20,
            batch=256,
            learning_rate=1e-4,
            only=(
                "transformer",
                "linear attention",
                "no feed-forward",
                "1 head",
                "6 heads",
                "2 layers",
                "4 layers",
                "10 layers",
            ),
        ),
    ),
}


def count_answers_read(options: Alignment) -> int:
    """How many answers have been read where arms are compared: 15, as published, if there are that many."""
    return min(15, options.answers - 1)


def measure_runs(options: Alignment, jobs: list[tuple[str, str, int]]) -> Iterable[dict[str, Any]]:
    """The errors of every law, arm and seed."""
    if options.parallel == 1:
        yield from (measure_run(options, job) for job in jobs)
    else:
        with ProcessPoolExecutor(options.parallel, mp_context=get_context("spawn")) as pool:
            yield from pool.map(partial(measure_run, options), jobs)


def measure_run(options: Alignment, job: tuple[str, str, int]) -> dict[str, Any]:
    """The errors of one trained network: those of an earlier run, or trained now."""
    law, name, seed = job
    file = options.output / f"{law}, {name}, seed {seed}.json"
    same = replace(options, only=(), seeds=(), laws=(), parallel=1, output=Path())
    settings = json.loads(json.dumps(asdict(same), default=str))
    if file.exists():
        kept = json.loads(file.read_text())
        if kept["settings"] != settings:
            raise ValueError(f"{file} is of other settings; choose another --output or remove it")
        return kept
    if options.parallel > 1:
        torch.set_num_threads(max(1, torch.get_num_threads() // options.parallel))
    device = torch.device("cuda" if torch.cuda.is_available() and not options.cpu else "cpu")
    start = time.monotonic()
    network = train_network(
        LAWS[law](options.dim),
        list_arms(options.shape)[name],
        answers=options.answers,
        steps=options.steps,
        batch=options.batch,
        learning_rate=options.learning_rate,
        seed=seed,
        device=device,
    )
    seconds = time.monotonic() - start
    errors: dict[str, list[float]] = {}
    for noise, drawn in draw_contexts(options, law).items():
        with torch.no_grad():
            parts = zip(drawn.x.split(256), drawn.y.split(256), drawn.rewards.float().split(256), strict=True)
            said = torch.cat([network(*(part.to(device) for part in some)).cpu() for some in parts])
        errors[str(noise)] = [
            cosine_error(said[:, n], drawn.best).mean().item() for n in range(2, count_answers_read(options) + 1)
        ]
    row = {"law": law, "arm": name, "seed": seed, "errors": errors, "seconds": seconds, "settings": settings}
    write_json(file, row)
    return row


def draw_contexts(options: Alignment, law: str) -> dict[float, Ranked]:
    """What all are compared on, for each share of rewards told wrong: the same for every arm and seed."""
    count = count_answers_read(options) + 1
    return {
        noise: LAWS[law](options.dim).draw(
            options.contexts, count, noise=noise, generator=Generator().manual_seed(1_000_003)
        )
        for noise in NOISES
    }


def measure_baselines(options: Alignment, law: str) -> dict[str, dict[str, list[float]]]:
    """Errors after each number of answers, of what needs no training."""
    found: dict[str, dict[str, list[float]]] = {}
    for noise, drawn in draw_contexts(options, law).items():
        # The published baseline stops the earlier the more rewards are wrong.
        steps = int(50 - 25 * noise)
        for n in range(2, count_answers_read(options) + 1):
            x, y, rewards = drawn.x, drawn.y[:, :n], drawn.rewards[:, :n]
            said = {
                "gradient descent": gradient_descent(x, y, rewards, steps=steps, generator=Generator().manual_seed(n)),
                "mean": mean_answer(y),
                "best of n": best_answer(y, rewards),
                "line": line_end(y, rewards.float()),
            }
            for name, answer in said.items():
                found.setdefault(name, {}).setdefault(str(noise), []).append(
                    cosine_error(answer, drawn.best).mean().item()
                )
    return found


def cosine_error(said: Tensor, best: Tensor) -> Tensor:
    """One minus the cosine, of each context; 0 is best, 1 is chance."""
    return 1 - torch.cosine_similarity(said, best, dim=-1)
