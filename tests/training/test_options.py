from dataclasses import dataclass
from pathlib import Path

import pytest
import torch
import yaml

from noiselab.training.checks import check_optimization
from noiselab.training.feeding import Share
from noiselab.training.layout import Layout
from noiselab.training.options import (
    Data,
    Optimization,
    Run,
    as_yaml,
    command_line,
    numbers_of,
    run_recipe,
)


@dataclass(frozen=True)
class Toy:
    """A toy."""

    optimization: Optimization
    data: Data
    run: Run
    p_uniform: float = 0.2
    """a share"""


PRESETS = {
    "small": ("few steps", Toy(Optimization(10, 8, 4), Data(), Run(Path("small")))),
    "large": ("many steps", Toy(Optimization(1000, 8, 4, ema=0.9), Data(stream=True), Run(Path("large")))),
}


def test_presets_files_and_flags_each_override_the_one_before(tmp_path):
    file = tmp_path / "settings.yaml"
    file.write_text(
        "p_uniform: 0.1\nema: null\ndata:\n  length: 64\n  stream: false\nbetas: [0.5, 0.75]\nrun: {keep: 7}\nsteps: 5"
    )
    options = command_line(PRESETS, ["large", "--steps", "7", "--config", str(file), "--output", "there"])
    assert options.optimization == Optimization(7, 8, 4, ema=None, betas=(0.5, 0.75))
    assert options.data == Data(length=64, stream=False)
    assert options.run == Run(Path("there"), keep=7)
    assert options.p_uniform == 0.1


@pytest.mark.parametrize("name", PRESETS)
def test_printed_settings_are_a_file_that_gives_the_same_settings(tmp_path, name):
    file = tmp_path / "settings.yaml"
    file.write_text(as_yaml(PRESETS[name][1]))
    for preset in PRESETS:
        assert command_line(PRESETS, [preset, "--config", str(file)]) == PRESETS[name][1]
        assert command_line(PRESETS, [preset, f"--config={file}"]) == PRESETS[name][1]


@pytest.mark.parametrize(
    ("content", "complaint"),
    [("steps: many", "invalid choice|INT|int"), ("stepz: 3", "stepz"), ("stream: 3", "stream")],
)
def test_wrong_names_and_types_end_with_a_message(tmp_path, capsys, content, complaint):
    file = tmp_path / "settings.yaml"
    file.write_text(content)
    with pytest.raises(SystemExit):
        command_line(PRESETS, ["small", "--config", str(file)])
    said = capsys.readouterr()
    import re

    assert re.search(complaint, said.out + said.err)


def test_files_that_hold_no_settings_are_refused(tmp_path):
    (tmp_path / "list.yaml").write_text("- 1")
    with pytest.raises(ValueError, match="must hold settings by name"):
        command_line(PRESETS, ["small", "--config", str(tmp_path / "list.yaml")])
    with pytest.raises(ValueError, match="nothing found"):
        command_line(PRESETS, ["small", "--config", str(tmp_path / "none.yaml")])
    with pytest.raises(ValueError, match="followed by"):
        command_line(PRESETS, ["small", "--config"])


def test_help_says_what_each_field_is(capsys):
    with pytest.raises(SystemExit):
        command_line(PRESETS, ["small", "--help"])
    said = " ".join(capsys.readouterr().out.split())
    for words in (
        "a share",
        "sequences per optimizer step, over all processes",
        "(default: 10)",
        "few steps",
        "--config FILE.yaml",
    ):
        assert words in said


def layout(world):
    return Layout(torch.device("cpu"), 0, world)


def test_the_batch_is_divided_over_processes_and_micro_batches(tmp_path):
    run = Run(tmp_path)
    for world, batch, micro, size, accumulated in [
        (1, 24, 4, 4, 6),
        (2, 16, 16, 8, 1),
        (4, 16, None, 4, 1),
        (2, 16, 4, 4, 2),
    ]:
        share = check_optimization(Optimization(1, batch, micro), run, layout(world))
        assert (share.micro, share.accumulation) == (size, accumulated)
        rows = [Share(batch, size, rank, world).rows(m) for rank in range(world) for m in range(accumulated)]
        assert sorted(row for part in rows for row in part) == list(range(batch))
    with pytest.raises(ValueError, match=r"batch must be a multiple .* got 24, 5 and 1"):
        check_optimization(Optimization(100, 24, 5), run, layout(1))
    with pytest.raises(ValueError, match="batch must be a multiple of the number of processes; got 16 and 3"):
        check_optimization(Optimization(100, 16, 4), run, layout(3))


@pytest.mark.parametrize(
    ("settings", "complaint"),
    [
        ({"steps": 0}, "steps must be at least 1; got 0"),
        ({"log_every": 0}, "log_every must be at least 1; got 0"),
        ({"save_every": -1}, "save_every must be at least 0; got -1"),
        ({"keep": 1}, "keep must be at least 2; got 1"),
        ({"micro_batch": 0}, "micro_batch must be at least 1; got 0"),
    ],
)
def test_numbers_that_are_too_small_are_refused_by_name(tmp_path, settings, complaint):
    settings = dict(settings)
    optimization = {name: settings.pop(name, default) for name, default in (("steps", 1), ("micro_batch", 4))}
    with pytest.raises(ValueError, match=complaint):
        check_optimization(Optimization(batch=8, **optimization), Run(tmp_path, cpu=True, **settings), layout(1))


@pytest.mark.parametrize(
    ("error", "status", "said"),
    [
        (None, 0, ""),
        (ValueError("steps must be more"), 2, "error: steps must be more\n"),
        (FileNotFoundError(2, "nothing there", "x.txt"), 2, "error: [Errno 2] nothing there: 'x.txt'\n"),
        (KeyboardInterrupt(), 130, "interrupted; run the same command to continue from the newest checkpoint\n"),
    ],
)
def test_errors_of_the_user_end_with_one_line(capsys, error, status, said):
    def main():
        if error is not None:
            raise error

    with pytest.raises(SystemExit) as ended:
        run_recipe(main)
    assert ended.value.code == status and capsys.readouterr().err == said


def test_settings_of_the_run_do_not_count_among_the_numbers():
    numbers = numbers_of(PRESETS["small"][1])["options"]
    assert set(numbers) == {"optimization", "data", "p_uniform"} and not {"cache", "corpus", "held_out"} & set(
        numbers["data"]
    )
    assert yaml.safe_load(as_yaml(PRESETS["small"][1]))["run"]["output"] == "small"
