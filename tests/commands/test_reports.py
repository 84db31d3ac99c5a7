"""What commands report: valid JSON with all that a repetition needs, labelled intervals, and sentences for odd numbers."""

import dataclasses
import importlib
import json
import re
from pathlib import Path
from types import UnionType
from typing import get_args, get_origin, get_type_hints

import pytest
import torch

import noiselab
from noiselab.commands.main import COMMANDS, main, run
from noiselab.data import pack
from noiselab.evaluation import generative_perplexity, validation_bound
from noiselab.files import as_json, write_json
from noiselab.pipeline import Pipeline

pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning")


def strict(text):
    """The content of JSON by the standard, which knows no NaN and no Infinity."""

    def refuse(name):
        raise AssertionError(f"{name} is not JSON")

    return json.loads(text, parse_constant=refuse)


@pytest.fixture
def texts(tmp_path):
    """A file that fills a single window, so that no standard error is known, and a longer one."""
    short, long = tmp_path / "short.txt", tmp_path / "long.txt"
    short.write_text("the cat sat")
    long.write_text("the cat sat on the mat and the dog on the log " * 8)
    return str(short), str(long)


def calls(models, samples, texts):
    """Arguments of each command that reports, and the options that its results depend on."""
    few = ["--seeds", "2", "--samples", "2", "--sampling-steps", "2", "--steps", "2", "--temperatures", "0.3"]
    return {
        "evaluate bound": ([models[0], texts[0], "--seed", "5", "--nodes", "3"], {"seed": 5, "nodes": 3, "repeats": 4}),
        "evaluate perplexity": ([str(samples), "--judge", models[1]], {"start": True, "judge": models[1]}),
        "evaluate correction": ([models[0], "--judge", models[1], *few], {"seeds": 2, "temperatures": [0.3]}),
        "inspect": ([models[0]], {"model": models[0], "seed": 0}),
    }


@pytest.mark.parametrize("command", ["evaluate bound", "evaluate perplexity", "evaluate correction", "inspect"])
def test_json_is_valid_and_says_how_it_was_made(command, models, samples, texts, tmp_path, capsys):
    arguments, options = calls(models, samples, texts)[command]
    out = tmp_path / "found.json"
    capsys.readouterr()
    returned = run(command, [*arguments, "--device", "cpu", "--json", "--out", str(out)])
    printed, written = strict(capsys.readouterr().out), strict(out.read_text())
    assert printed == written and set(written) == set(returned)
    assert written["command"] == command and written["version"] == noiselab.__version__
    assert options.items() <= written["options"].items() and written["options"]["device"] == "cpu"
    if command == "evaluate bound":
        assert written["error"] is None  # of a single window, no error is known


def test_numbers_that_json_lacks_are_null(tmp_path):
    content = {"a": float("nan"), "b": [1.5, float("inf"), (float("-inf"), "NaN")], "c": {"d": 1}, "e": True}
    want = {"a": None, "b": [1.5, None, [None, "NaN"]], "c": {"d": 1}, "e": True}
    assert strict(as_json(content)) == want
    write_json(tmp_path / "x.json", content)
    assert strict((tmp_path / "x.json").read_text()) == want


def test_intervals_are_labelled_and_are_95_percent(models, samples, texts, capsys):
    run("evaluate bound", [models[0], texts[1], "--seed", "3", "--device", "cpu"])
    said = capsys.readouterr().out
    pipe = Pipeline.from_pretrained(models[0])
    blocks = pack([Path(texts[1]).read_text(encoding="utf-8")], pipe.tokenizer, 16)
    random = torch.Generator().manual_seed(3)
    bound = validation_bound(pipe.process, pipe.denoiser, blocks, repeats=4, generator=random)
    found = re.search(
        r"at most ([\d.]+) ± ([\d.]+) nats per token \(95 % interval over windows\); at most perplexity", said
    )
    assert float(found[1]) == pytest.approx(bound.nelbo, abs=1e-3)
    assert float(found[2]) == pytest.approx(1.96 * bound.error, abs=1e-3)
    run("evaluate perplexity", [str(samples), "--judge", models[1], "--device", "cpu"])
    said = capsys.readouterr().out
    judge = Pipeline.from_pretrained(models[1])
    x = torch.tensor([json.loads(line)["tokens"] for line in samples.read_text().splitlines()])
    judged = generative_perplexity(judge.network, x, start=judge.tokenizer.bos_token_id)
    found = re.search(r"([\d.]+) ± ([\d.]+) nats per token \(95 % interval over texts\)", said)
    assert float(found[1]) == pytest.approx(judged.nats, abs=1e-3)
    assert float(found[2]) == pytest.approx(1.96 * judged.error, abs=1e-3)
    run("evaluate bound", [models[1], texts[1], "--device", "cpu"])
    assert "at most" not in capsys.readouterr().out  # exact
    run("evaluate bound", [models[0], texts[0], "--device", "cpu"])
    assert "±" not in capsys.readouterr().out  # of a single window, no error is known
    run(*("evaluate correction", calls(models, samples, texts)["evaluate correction"][0]))
    assert "± is half of a 95 % confidence interval over 2 sets of samples." in capsys.readouterr().out


def ended(arguments, capsys):
    """The status, and what was written to standard error."""
    capsys.readouterr()
    with pytest.raises(SystemExit) as end:
        main(arguments)
    return end.value.code, capsys.readouterr()


def test_help_speaks_of_no_none(capsys):
    for command in set(COMMANDS) - {"train"}:
        said = ended([*command.split(), "--help"], capsys)[1].out
        assert "None" not in said and ("--device NAME" in said) is (command != "tokenize")


def numeric(command):
    """The options of a command that are numbers, and whether they are whole."""
    module = importlib.import_module(f"noiselab.commands.{command.replace(' ', '_')}")
    hints = get_type_hints(module.Options)
    for field in dataclasses.fields(module.Options):
        hint = hints[field.name]
        if get_origin(hint) is tuple or isinstance(hint, UnionType):
            hint = get_args(hint)[0]
        if hint in (int, float):
            yield field.name.replace("_", "-"), hint is int


CASES = [
    pytest.param(command, name, value, id=f"{command} {name} {value}")
    for command in ("generate", "correct", "evaluate bound", "evaluate perplexity", "evaluate correction", "inspect")
    for name, whole in numeric(command)
    for value in (("0", "-1") if whole else ("-1", "nan", "inf"))
]


@pytest.mark.parametrize(("command", "name", "value"), CASES)
def test_an_odd_number_ends_in_a_sentence_or_a_result(command, name, value, models, samples, texts, tmp_path, capsys):
    arguments = {
        "generate": [models[0], "--num-samples", "1", "--steps", "2"],
        "correct": [models[0], str(samples), "--steps", "2"],
        "inspect": [models[0], "--denoising", str(tmp_path / "page.html"), "--steps", "2"],
        **{name: arguments for name, (arguments, _) in calls(models, samples, texts).items() if name != "inspect"},
    }[command]
    status, said = ended([*command.split(), *arguments, f"--{name}", value, "--device", "cpu"], capsys)
    assert status in (0, 2)
    if status == 2:
        assert said.err.startswith("error: ") and said.err.count("\n") == 1 and f"got {value}" in said.err.lower()
    else:
        assert "nan" not in said.out.lower() and "[mask]" not in said.out.lower()
