"""Trains and evaluates networks that solve problems, in sequence or in parallel, for `learn_from_mistakes.py`."""

from collections.abc import Iterable, Iterator
from concurrent.futures import ProcessPoolExecutor
from contextlib import redirect_stderr, redirect_stdout
from functools import partial
from multiprocessing import get_context
from typing import Any

import transformers

from noiselab.tasks.igsm import Words

from .models import (
    ARMS,
    ProblemModels,
    draw_columns,
    folder_name,
    load_or_train_arm,
    load_or_train_gidd,
    solve_with_gidd,
)
from .solving import solve, summarize_verdicts

DIFFUSION = ("GIDD+", "GIDD+ corrected")


def measure_arms(options: ProblemModels, names: Iterable[str]) -> Iterator[dict[str, Any]]:
    """Yield the row of every arm and seed; arms that start from the network of another arm come last."""
    for later in (False, True):
        jobs = [(name, seed) for name in names if needs_another(name) is later for seed in options.seeds]
        if options.parallel == 1 or not jobs:
            yield from (measure_arm(options, job) for job in jobs)
        else:
            with ProcessPoolExecutor(options.parallel, mp_context=get_context("spawn")) as pool:
                yield from pool.map(partial(measure_arm_with_log, options), jobs)


def needs_another(name: str) -> bool:
    """Whether an arm starts from the network of another arm."""
    return ARMS[name].begin != "new" if name in ARMS else name == "GIDD+ corrected"


def measure_arm_with_log(options: ProblemModels, job: tuple[str, int]) -> dict[str, Any]:
    """Call `measure_arm` in a separate process, and write its output to a log file."""
    log = options.run.output / f"seed_{job[1]}" / f"{folder_name(job[0])}.log"
    log.parent.mkdir(parents=True, exist_ok=True)
    with log.open("a", encoding="utf-8") as file, redirect_stdout(file), redirect_stderr(file):
        return measure_arm(options, job)


def measure_arm(options: ProblemModels, job: tuple[str, int]) -> dict[str, Any]:
    """Train an arm, unless it is already trained, and solve the problems of all columns."""
    transformers.logging.set_verbosity_error()
    transformers.logging.disable_progress_bar()
    (name, seed), words = job, Words(options.level)
    network = (
        load_or_train_gidd(seed, options, words) if name in DIFFUSION else load_or_train_arm(name, seed, options, words)
    )
    row: dict[str, Any] = {"arm": name, "seed": seed, "cells": {}}
    for cell, problems in draw_columns(options).items():
        if name in DIFFUSION:
            verdicts = solve_with_gidd(network, problems, name == "GIDD+ corrected", options, words)
        else:
            verdicts = solve(network, problems, words, most=options.length)
        row["cells"][cell] = {
            **summarize_verdicts(verdicts)._asdict(),
            "verdicts": [verdict.right for verdict in verdicts],
        }
    return row
