"""The recipes of problems with mistakes, from training to tables, with networks that are too small to solve any."""

import dataclasses
import json
import math
import random

import pytest
from test_recipes import load

import problems.models
from noiselab.autoregressive import StepDetector
from noiselab.tasks.igsm import PerfectDetector, Words, draw_small
from problems.streams import ProblemStream

TINY = [
    *("demo", "--cpu", "True", "--steps", "6", "--warmup", "1", "--batch", "4", "--micro-batch", "4", "--layers", "1"),
    *("--width", "16", "--heads", "2", "--length", "200", "--problems", "3", "--log-every", "1", "--seeds", "1", "2"),
]


@pytest.mark.long
def test_learning_from_mistakes_and_regret(tmp_path, capsys, monkeypatch):
    mean_length = ProblemStream.mean_length
    monkeypatch.setattr(ProblemStream, "mean_length", lambda self: mean_length(self, rows=60))
    folder = tmp_path / "run"
    recipe = load("learn_from_mistakes")
    arms = ["--only", "error-free", "LoRA 4, retry 0.5"]
    arguments = [*TINY, *arms, "--ops", "3", "--gidd-length", "90", "--block", "30", "--output", str(folder)]
    rows = recipe.main(arguments)
    names = ["error-free", "GIDD+", "LoRA 4, retry 0.5", "GIDD+ corrected"]
    assert [(row["arm"], row["seed"]) for row in rows] == [(name, seed) for name in names for seed in (1, 2)]
    for row in rows:
        reference = next(r for r in rows if r["arm"] == "error-free" and r["seed"] == row["seed"])
        assert list(row["cells"]) == ["as in training", "3 operations"]
        for cell, found in row["cells"].items():
            assert len(found["verdicts"]) == 3 and found["right"] == sum(found["verdicts"]) / 3
            assert found["gain"]["mean"] == pytest.approx(found["right"] - reference["cells"][cell]["right"])
    printed = capsys.readouterr().out
    # The same number of tokens for all: with one mistake a step in the mean there are fewer problems.
    assert "error-free, seed 1: 6 steps" in printed and "LoRA 4, retry 0.5, seed 1: 5 steps" in printed
    assert json.loads((folder / "table.json").read_text())["rows"] == rows
    assert (folder / "accuracy.png").read_bytes().startswith(b"\x89PNG")

    assert recipe.main(arguments) == rows  # what is trained is found again
    assert "steps of" not in capsys.readouterr().out
    beside = recipe.main([*arguments, "--only", "error-free", "--gidd", "False", "--parallel", "2"])
    assert beside == rows[:2] and (folder / "seed_2" / "error-free.log").is_file()
    capsys.readouterr()

    recipe = load("regret")
    few = [
        "--hard",
        "3",
        "--gidd-length",
        "90",
        "--block",
        "30",
        "--probe-steps",
        "2",
        "--beams",
        "2",
        "--retries",
        "1",
        "2",
        "--taught",
        "LoRA 4, retry 0.5",
    ]
    rows = recipe.main([*TINY, *few, "--output", str(folder)])
    printed = capsys.readouterr().out
    assert "error-free, seed" not in printed and "probe, seed 1: 4" in printed
    assert {row["decoding"] for row in rows} == {
        "greedy",
        "2 beams",
        *(f"regret, {d}" for d in ("probe", "probe with attention", "improbability", "entropy", "always")),
        *(f"regret, {d}" for d in ("backspaces of LoRA 4, retry 0.5", "GIDD+")),
        *(f"regret, perfect, at most {n}" for n in (1, 2)),
        "trained on LoRA 4, retry 0.5, greedy",
    }
    content = json.loads((folder / "regret.json").read_text())
    assert content["rows"] == rows and all(0 <= row.get("right", 0) <= 1 for row in content["detection"])
    assert (folder / "regret.png").read_bytes().startswith(b"\x89PNG")
    with pytest.raises(ValueError, match="parallel must be at least 1"):
        load("learn_from_mistakes").main([*TINY, "--parallel", "0", "--output", str(folder)])
    with pytest.raises(ValueError, match="only must be among"):
        load("learn_from_mistakes").main([*TINY, "--only", "nobody", "--output", str(folder)])


def test_a_resumed_run_may_belong_to_another_table_but_not_to_another_model():
    recipe = problems.models
    demo, arm = recipe.PRESETS["demo"][1], recipe.ARMS["retry 0.5"]
    others = dataclasses.replace(
        demo, only=("error-free",), seeds=(7,), problems=3, ops=(4,), parameters=None, parallel=9
    )
    assert recipe.select_settings(others, arm) == recipe.select_settings(demo, arm)
    assert recipe.select_settings(others, None) == recipe.select_settings(demo, None)
    for change in ({"layers": 3}, {"most": 5}, {"optimization": dataclasses.replace(demo.optimization, steps=7)}):
        assert recipe.select_settings(dataclasses.replace(demo, **change), arm) != recipe.select_settings(demo, arm)
    assert recipe.select_settings(demo, recipe.ARMS["retry 0.5 unscored"]) != recipe.select_settings(demo, arm)
    json.dumps(recipe.select_settings(demo, arm))


def test_how_well_detectors_know_the_models_own_steps():
    recipe, words = load("regret"), Words("logic")
    problems = [draw_small(random.Random(seed), level="logic", ops=4) for seed in range(10)]
    solutions = [words.encode(problem.answer) for problem in problems]
    for number in (2, 5):  # the last step comes second: it cannot be found yet
        problem = problems[number]
        solutions[number] = words.encode([*problem.step(0), *problem.step(3), *problem.step(1)])
    verdicts = [problem.check(words.decode(s)) for problem, s in zip(problems, solutions, strict=True)]
    assert [verdict.step for verdict in verdicts] == [1 if number in (2, 5) else None for number in range(10)]
    options = recipe.PRESETS["demo"][1]

    def found(detector):
        return recipe.measure_detector(detector, options.sure, False, problems, solutions, verdicts, options, words)

    right = found(PerfectDetector(problems, words))
    assert (right["steps"], right["errors"], right["area"], right["alarms"]) == (8 * 4 + 2 * 2, 2, 1.0, 0.0)
    assert right["recall"] == 1.0 and right["caught"][1] > 0.99
    always = found(recipe.Always([words.full_stop]))
    assert always["area"] == 0.5 and always["alarms"] == 1.0
    known = PerfectDetector(problems, words)

    class Opposite(StepDetector):
        def score_step(self, text):
            return 1 - known.score_step(text)

    assert found(Opposite([words.full_stop]))["area"] == 0.0
    assert recipe.choose_threshold("entropy", 0.5) == 0.5
    assert recipe.choose_threshold("improbability", 0.75) == pytest.approx(math.log(4))


def test_counts_of_the_table_are_those_of_right_solutions():
    """A run that solves nothing has no retries to count: three in one run and none solved in another are three, not 1.5."""
    recipe = load("learn_from_mistakes")
    gain = {"mean": 0.0, "half": 0.1}

    def run(arm, right, retries):
        cell = {"right": right, "low": 0.0, "high": 1.0, "gain": gain, "retries": retries, "unnecessary": 0.0}
        return {"arm": arm, "cells": {"as in training": cell, "11 operations": cell}}

    rows = [run("solves", 0.5, 3.0), run("solves", 0.0, 0.0), run("never", 0.0, 0.0)]
    solves, never = recipe.tabulate_arms(rows).splitlines()[2:4]
    assert solves.endswith("| 3.00 | 3.00 | 0.00 |") and never.endswith("|  |  |  |")
    assert recipe.tabulate_arms(rows).endswith("does not cover another training run.")
