"""Functions fit one screen, the top level has the names of the first hour, old names are gone, no two tests share a name."""

import ast
import importlib
import subprocess
import sys
from pathlib import Path

import pytest

import noiselab

LINES, NAMES = 60, 45
OLD = [
    ("noiselab", "Mass"),
    ("noiselab", "lift"),
    ("noiselab", "AskedOnly"),
    ("noiselab", "Counting"),
    ("noiselab", "average"),
    ("noiselab", "TokenBlocks"),
    ("noiselab.samplers", "GibbsCorrector"),
    ("noiselab.denoisers", "DiT"),
    ("noiselab.evaluation", "sampler_bench"),
    ("noiselab.process", "lift"),
]
OLD_MODULES = [
    "noiselab.samplers.moves",
    "noiselab.samplers.events",
    "noiselab.samplers.leaping",
    "noiselab.samplers.planned",
    "noiselab.denoisers.dit",
    "noiselab.autoregressive.writing",
    "noiselab.autoregressive.memory",
    "noiselab.evaluation.known_world",
    "noiselab.tracing.looks",
]


def long_bodies(text: str) -> list[str]:
    """Functions with more than `LINES` lines below their docstring."""
    found = []
    for node in ast.walk(ast.parse(text)):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            body = node.body[1:] if ast.get_docstring(node, clean=False) is not None else node.body
            if body and node.end_lineno - body[0].lineno + 1 > LINES:
                found.append(f"{node.name}: {node.end_lineno - body[0].lineno + 1} lines")
    return found


def test_no_body_is_longer_than_a_screen():
    root = Path(noiselab.__file__).parent
    found = {str(path.relative_to(root)): long_bodies(path.read_text(encoding="utf-8")) for path in root.rglob("*.py")}
    assert {path: bodies for path, bodies in found.items() if bodies} == {}


def like_names(root: Path, *others: Path) -> dict[str, list[str]]:
    """Names of modules that pytest finds in several folders: it imports all by their names alone."""
    folders = {root, *others} | {path.parent for path in root.rglob("test_*.py")}
    found: dict[str, list[str]] = {}
    for folder in sorted(folders):
        for path in sorted(folder.glob("*.py")):
            found.setdefault(path.name, []).append(folder.name)
    return {name: where for name, where in found.items() if len(where) > 1 and name != "conftest.py"}


def test_every_module_of_the_tests_has_its_own_name(tmp_path):
    tests = Path(__file__).parents[1]
    assert like_names(tests, tests.parent / "recipes") == {}
    for name in ("a/test_x.py", "b/test_x.py", "a/y.py", "y.py", "a/conftest.py", "conftest.py", "c/y.py"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).touch()
    assert like_names(tmp_path) == {"test_x.py": ["a", "b"], "y.py": [tmp_path.name, "a"]}


def test_a_long_body_is_seen():
    body = "    x = 1\n"
    assert long_bodies("def f():\n" + LINES * body) == []
    assert long_bodies('def f():\n    """A\n    docstring."""\n' + LINES * body) == []
    assert long_bodies("class A:\n  def f():\n" + (LINES + 1) * body) == [f"f: {LINES + 1} lines"]


def test_the_top_level_has_few_names_and_all_are_there():
    assert len(noiselab.__all__) <= NAMES
    assert len(noiselab.__all__) == len(set(noiselab.__all__))
    assert all(getattr(noiselab, name) is not None for name in noiselab.__all__)


def test_pipelines_load_when_asked_for():
    program = (
        "import sys, noiselab; assert 'noiselab.pipeline' not in sys.modules; "
        "from noiselab import GiddPipeline, Pipeline; assert issubclass(GiddPipeline, Pipeline)"
    )
    subprocess.run([sys.executable, "-c", program], check=True)


@pytest.mark.parametrize(("module", "name"), OLD)
def test_an_old_name_is_an_import_error(module, name):
    with pytest.raises(ImportError, match=f"cannot import name '{name}' from '{module}'"):
        exec(f"from {module} import {name}", {})


@pytest.mark.parametrize("module", OLD_MODULES)
def test_an_old_module_is_an_import_error(module):
    with pytest.raises(ModuleNotFoundError, match=f"No module named '{module}'"):
        importlib.import_module(module)
