"""Runs of two processes that are killed at random moments, again and again."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

HERE = Path(__file__).parent


@pytest.mark.long
def test_twenty_kills_of_two_processes_lose_nothing(tmp_path):
    environment = {
        **os.environ,
        "OMP_NUM_THREADS": "1",
        "PYTHONPATH": os.pathsep.join([str(HERE.parents[1]), str(HERE)]),
    }
    done = subprocess.run(
        [sys.executable, str(HERE / "killed_pairs.py"), str(tmp_path)], env=environment, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout.splitlines()[-1])
    assert found["kills"] >= 20 and found["killed"]
    assert all(result == found["whole"] for result in found["killed"].values())
    clean = dict(found["losses"].pop("whole"))
    for losses in found["losses"].values():
        assert all(clean[step] == loss for step, loss in losses)  # also steps that were made twice
        assert {step for step, _ in losses} == set(clean)
