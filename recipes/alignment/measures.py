"""Errors of transformers and simple baselines on ranked answers, for `in_context_alignment.py`."""

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
    """Models, data and evaluation of the comparison."""

    shape: Shape = field(default_factory=Shape)
    """architecture of the transformer of the first arm"""
    dim: int = 5
    """dimension of questions and answers"""
    answers: int = 16
    """number of answers in a training context; predictions are scored after 2 or more answers"""
    batch: int = 32
    """contexts per optimizer step"""
    steps: int = 3_000
    """number of optimizer steps"""
    learning_rate: float = 1e-3
    """highest learning rate"""
    laws: tuple[Literal["line", "scattered"], ...] = ("line", "scattered")
    """distributions of answers: on a line with the reward as coordinate, as published, or scattered about a line"""
    only: tuple[str, ...] = ("transformer", "linear attention", "no feed-forward", "1 head", "6 heads", "2 layers")
    """arms to train on the line; only the first of them is trained on scattered answers"""
    seeds: tuple[int, ...] = (1, 2, 3)
    """seeds of training"""
    contexts: int = 4_096
    """number of contexts in the evaluation"""
    parallel: int = 1
    """number of runs at the same time"""
    cpu: bool = False
    """do not use a GPU"""
    output: Path = Path("runs/in_context_alignment")
    """folder of the results"""


PRESETS = {
    "demo": (
        "three to five minutes per run on two CPU cores",
        Alignment(Shape(layers=4, width=48), batch=128, steps=2_000, learning_rate=2e-3),
    ),
    "published": (
        "the published sizes, on a GPU",
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
    """The number of answers after which arms are compared: 15, as published, or fewer if contexts are shorter."""
    return min(15, options.answers - 1)


def measure_runs(options: Alignment, jobs: list[tuple[str, str, int]]) -> Iterable[dict[str, Any]]:
    """Yield the errors of each distribution, arm and seed."""
    if options.parallel == 1:
        yield from (measure_run(options, job) for job in jobs)
    else:
        with ProcessPoolExecutor(options.parallel, mp_context=get_context("spawn")) as pool:
            yield from pool.map(partial(measure_run, options), jobs)


def measure_run(options: Alignment, job: tuple[str, str, int]) -> dict[str, Any]:
    """The errors of one network; results of an earlier run are reused, otherwise the network is trained now."""
    law, name, seed = job
    file = options.output / f"{law}, {name}, seed {seed}.json"
    same = replace(options, only=(), seeds=(), laws=(), parallel=1, output=Path())
    settings = json.loads(json.dumps(asdict(same), default=str))
    if file.exists():
        kept = json.loads(file.read_text(encoding="utf-8"))
        if kept["settings"] != settings:
            raise ValueError(f"{file} has other settings; choose another --output or remove it")
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
    """The evaluation contexts for each share of wrong rewards, the same for every arm and seed."""
    count = count_answers_read(options) + 1
    return {
        noise: LAWS[law](options.dim).draw(
            options.contexts, count, noise=noise, generator=Generator().manual_seed(1_000_003)
        )
        for noise in NOISES
    }


def measure_baselines(options: Alignment, law: str) -> dict[str, dict[str, list[float]]]:
    """Errors of the baselines without training, after each number of answers."""
    found: dict[str, dict[str, list[float]]] = {}
    for noise, drawn in draw_contexts(options, law).items():
        # The published baseline takes fewer steps if more rewards are wrong.
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
    """One minus the cosine similarity, for each context; 0 is best, 1 is chance."""
    return 1 - torch.cosine_similarity(said, best, dim=-1)
