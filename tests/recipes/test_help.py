"""The help of every command and recipe describes optional values by the value, and None is still understood."""

import importlib.util
import runpy
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import pytest

from noiselab.commands.main import COMMANDS, run
from noiselab.training.flags import parse_flags
from noiselab.training.options import as_yaml, command_line

RECIPES = Path(__file__).parents[2] / "recipes"
NAMES = sorted(file.stem for file in RECIPES.glob("*.py") if "__main__" in file.read_text())


def presets(name):
    spec = importlib.util.spec_from_file_location(f"help_of_{name}", RECIPES / f"{name}.py")
    module = sys.modules[spec.name] = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return list(getattr(module, "PRESETS", []))[:1]


def test_there_are_recipes():
    assert len(NAMES) >= 12 and not set(NAMES) & {"common"}


@pytest.mark.parametrize("name", NAMES)
def test_help_of_recipes(name, monkeypatch, capsys):
    file = str(RECIPES / f"{name}.py")
    monkeypatch.setattr(sys, "argv", [file, *presets(name), "--help"])
    with pytest.raises(SystemExit) as ended:
        runpy.run_path(file, run_name="__main__")
    said = capsys.readouterr().out
    assert ended.value.code == 0 and "--help" in said and "{None}" not in said


@pytest.mark.filterwarnings("ignore::DeprecationWarning")
@pytest.mark.parametrize("name", COMMANDS)
def test_help_of_commands(name, capsys):
    if name == "train":
        run(name, ["--help"])
    else:
        with pytest.raises(SystemExit):
            run(name, ["--help"])
    said = capsys.readouterr().out
    assert "usage" in said and "{None}" not in said


@dataclass(frozen=True)
class Own:
    rate: float | None = 0.5
    """a rate"""
    kind: Literal["a", "b"] | None = None
    """a kind"""
    pair: tuple[int, int] | None = (1, 2)
    """two numbers"""
    file: Path | None = None
    """a file"""
    either: int | str | None = None
    """a number or a word"""


@pytest.mark.parametrize(
    ("words", "want"),
    [
        ("", Own()),
        ("--rate None --pair None", Own(None, None, None)),
        ("--rate 2 --kind b --pair 3 4 --file None", Own(2.0, "b", (3, 4))),
        ("--file x/y --either 7", Own(file=Path("x/y"), either=7)),
        ("--either seven --kind None", Own(either="seven")),
    ],
)
def test_none_is_understood(words, want):
    assert parse_flags(Own, words.split()) == want


@pytest.mark.parametrize("words", ["--rate fast", "--kind c", "--pair 1 2 3", "--rate"])
def test_other_values_are_refused(words, capsys):
    with pytest.raises(SystemExit) as ended:
        parse_flags(Own, words.split())
    assert ended.value.code == 2 and words.split()[0] in capsys.readouterr().err


def test_help_names_the_value_and_its_default(capsys):
    with pytest.raises(SystemExit):
        parse_flags(Own, ["--help"])
    said = " ".join(capsys.readouterr().out.split())
    for words in (
        "--rate FLOAT",
        "--kind {a,b}",
        "--pair INT INT",
        "--file PATH",
        "--either INT|STR",
        "(default: 0.5)",
    ):
        assert words in said, said


def test_settings_of_a_file_may_be_null(tmp_path):
    file = tmp_path / "settings.yaml"
    file.write_text(as_yaml(Own(rate=None, pair=None)))
    assert command_line({"own": ("own", Own())}, ["own", "--config", str(file)]) == Own(rate=None, pair=None)
