"""Commands in several processes print and write what one process does, once, and fail together."""

import json
import threading

import pytest
from several_processes import in_threads

from noiselab.commands import common
from noiselab.commands.main import main, run
from noiselab.distributed import ProcessError

WORLD = 3
pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning")


@pytest.fixture
def together(monkeypatch):
    """Runs a command in three threads that are processes to it."""

    mine, alone = threading.local(), common.join_processes
    monkeypatch.setattr(common, "join_processes", lambda device: getattr(mine, "own", None) or alone(device))

    def started(name, arguments):
        def work(own):
            mine.own = own
            return run(name, arguments)

        return in_threads(WORLD, work)

    return started


def both(together, name, arguments, out, capsys):
    """What one process and several print and write."""
    found = []
    for work in (lambda: run(name, arguments), lambda: together(name, arguments)):
        capsys.readouterr()
        results = work()
        errors = [one for one in results if isinstance(one, BaseException)] if isinstance(results, list) else []
        assert not errors, errors
        found.append((capsys.readouterr().out, out.read_bytes()))
        out.unlink()
    return found


@pytest.fixture
def texts(tmp_path):
    file = tmp_path / "texts.txt"
    file.write_text("\n".join(["the cat sat on the mat and the dog sat on the log"] * 12))
    return file


def test_generate(models, together, tmp_path, capsys):
    out = tmp_path / "out.jsonl"
    for model, more in ((models[0], ["--steps", "3"]), (models[1], ["--length", "7"])):
        prompts = ["--prompt", "the cat", "--prompt", "a"]
        for own in ([], prompts):
            arguments = [
                model,
                "--num-samples",
                "5",
                "--batch-size",
                "2",
                *more,
                *own,
                "--device",
                "cpu",
                "--out",
                str(out),
            ]
            alone, several = both(together, "generate", arguments, out, capsys)
            assert alone == several
            assert len(alone[1].splitlines()) == 5 * max(1, len(own) // 2)
            assert alone[0].count("written to") == 1


def test_texts_are_printed_once_and_in_order(models, together, capsys):
    arguments = [models[0], "--num-samples", "4", "--batch-size", "1", "--steps", "2", "--device", "cpu"]
    run("generate", arguments)
    alone = capsys.readouterr().out
    together("generate", arguments)
    assert capsys.readouterr().out == alone and len(alone.splitlines()) == 4


def test_correct(models, samples, together, tmp_path, capsys):
    out = tmp_path / "out.jsonl"
    arguments = [models[0], str(samples), "--steps", "3", "--temperature", "0.9", "--batch-size", "1"]
    alone, several = both(together, "correct", [*arguments, "--device", "cpu", "--out", str(out)], out, capsys)
    assert alone == several and "3 texts (3 with the tokens of the file)" in alone[0]


@pytest.mark.parametrize("which", [0, 1])
def test_evaluate_bound(models, texts, together, tmp_path, capsys, which):
    out = tmp_path / "out.json"
    arguments = [models[which], str(texts), "--batch-size", "2", "--device", "cpu", "--json", "--out", str(out)]
    alone, several = both(together, "evaluate bound", arguments, out, capsys)
    assert alone == several and json.loads(alone[0])["windows"] > 2 * WORLD


def test_evaluate_perplexity(models, samples, together, tmp_path, capsys):
    out = tmp_path / "out.json"
    for more in ([], ["--max-tokens", "5"]):
        arguments = [
            str(samples),
            "--judge",
            models[1],
            "--batch-size",
            "1",
            *more,
            "--device",
            "cpu",
            "--out",
            str(out),
        ]
        alone, several = both(together, "evaluate perplexity", arguments, out, capsys)
        assert alone == several and "perplexity" in alone[0]


def test_evaluate_correction(models, together, tmp_path, capsys):
    out = tmp_path / "out.json"
    arguments = [models[0], models[1], "--seeds", "4", "--samples", "2", "--sampling-steps", "2", "--steps", "2"]
    arguments = [arguments[0], "--judge", *arguments[1:], "--plot", str(tmp_path / "a.svg"), "--device", "cpu"]
    alone, several = both(together, "evaluate correction", [*arguments, "--out", str(out)], out, capsys)
    assert alone == several


def test_an_error_of_one_process_is_that_of_all(models, texts, together, tmp_path, monkeypatch):
    """The first process cannot write its file; the others end, too."""
    out = tmp_path / "out.json"

    def full(path, record):
        raise OSError("the disk is full")

    monkeypatch.setattr(common, "write_json", full)
    arguments = [models[0], str(texts), "--device", "cpu", "--out", str(out)]
    first, *others = together("evaluate bound", arguments)
    assert type(first) is OSError
    assert [str(other) for other in others] == ["process 0 failed with OSError: the disk is full"] * 2


def test_an_error_of_all_processes_is_printed_by_the_first(models, together):
    found = together("generate", [models[0], "--num-samples", "0", "--device", "cpu"])
    assert type(found[0]) is ValueError and "num-samples must be" in str(found[0])
    assert [type(other) for other in found[1:]] == [ProcessError] * 2


@pytest.mark.parametrize("rank", ["0", "1"])
def test_what_another_process_says_is_printed_by_the_first(rank, monkeypatch, capsys):
    monkeypatch.setattr("time.sleep", lambda seconds: None)

    def fails(name, arguments):
        raise ProcessError("process 2 failed with OSError: no")

    monkeypatch.setattr("noiselab.commands.main.run", fails)
    monkeypatch.setenv("RANK", rank)
    monkeypatch.setenv("WORLD_SIZE", "3")
    with pytest.raises(SystemExit) as ended:
        main(["generate", "nowhere"])
    assert ended.value.code == 2
    assert capsys.readouterr().err == ("error: process 2 failed with OSError: no\n" if rank == "0" else "")


@pytest.mark.parametrize("rank", ["0", "1"])
def test_help_is_printed_by_the_first(rank, monkeypatch, capsys):
    monkeypatch.setenv("RANK", rank)
    monkeypatch.setenv("WORLD_SIZE", "3")
    with pytest.raises(SystemExit):
        main(["evaluate", "bound", "--help"])
    assert bool(capsys.readouterr().out) == (rank == "0")


@pytest.mark.parametrize("name", ["inspect", "tokenize"])
def test_commands_of_one_process_are_refused(name, monkeypatch, capsys):
    monkeypatch.setenv("WORLD_SIZE", "2")
    with pytest.raises(SystemExit):
        main([name, "nowhere"])
    assert f"{name} runs in one process; start it without torchrun" in capsys.readouterr().err
