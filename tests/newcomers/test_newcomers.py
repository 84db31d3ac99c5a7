"""Scripts that were written from the documentation alone, one for each thing that a user can add: each must run unchanged."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

HERE = Path(__file__).resolve().parent
ROOT = HERE.parents[1]
SCRIPTS = ("process", "mixing", "sampler", "corrector", "objective", "wrapper", "corpus", "recipe")
# One interpreter for all: most of a script's seconds are those of the imports.
RUN = """
import json, runpy, sys, traceback
errors = {}
for script in sys.argv[2:]:
    try:
        runpy.run_path(script, run_name="__main__")
    except BaseException:
        errors[script] = traceback.format_exc()
json.dump(errors, open(sys.argv[1], "w"))
"""


@pytest.fixture(scope="module")
def errors(tmp_path_factory):
    folder = tmp_path_factory.mktemp("newcomers")
    path = os.pathsep.join(filter(None, (str(ROOT), os.environ.get("PYTHONPATH"))))
    environment = os.environ | {"HF_HUB_OFFLINE": "1", "PYTHONPATH": path}
    command = [sys.executable, "-c", RUN, "errors.json", *(str(HERE / f"{name}.py") for name in SCRIPTS)]
    run = subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True)
    assert run.returncode == 0, run.stderr
    return json.loads((folder / "errors.json").read_text())


@pytest.mark.parametrize("name", SCRIPTS)
def test_script(name, errors):
    script = HERE / f"{name}.py"
    assert script.is_file(), f"tests/newcomers/{name}.py is missing"
    assert str(script) not in errors, errors.get(str(script))


@pytest.mark.long
def test_a_model_of_transformers_learns_to_correct_itself(tmp_path):
    """As in docs/guides/self_correcting.md."""
    path = os.pathsep.join(filter(None, (str(ROOT), os.environ.get("PYTHONPATH"))))
    environment = os.environ | {"HF_HUB_OFFLINE": "1", "PYTHONPATH": path}
    run = subprocess.run(
        [sys.executable, str(HERE / "self_correcting.py")],
        cwd=tmp_path,
        env=environment,
        capture_output=True,
        text=True,
    )
    assert run.returncode == 0, run.stderr
    assert "right of 20: {'answers': " in run.stdout
