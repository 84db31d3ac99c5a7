"""Scripts that were written from the documentation alone, one for each thing that a user can add: each must run unchanged."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

HERE = Path(__file__).resolve().parent
ROOT = HERE.parents[1]
SCRIPTS = ("process", "mixing", "sampler", "corrector", "objective", "wrapper", "corpus", "recipe")


@pytest.mark.parametrize("name", SCRIPTS)
def test_script(name, tmp_path):
    script = HERE / f"{name}.py"
    assert script.is_file(), f"tests/newcomers/{name}.py is missing"
    path = os.pathsep.join(filter(None, (str(ROOT), os.environ.get("PYTHONPATH"))))
    environment = os.environ | {"HF_HUB_OFFLINE": "1", "PYTHONPATH": path}
    run = subprocess.run([sys.executable, str(script)], cwd=tmp_path, env=environment, capture_output=True, text=True)
    assert run.returncode == 0, run.stderr
