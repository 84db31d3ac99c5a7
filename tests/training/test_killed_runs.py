import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

HERE = Path(__file__).parent
pytestmark = pytest.mark.long


@pytest.fixture(scope="module")
def results(tmp_path_factory):
    environment = {
        **os.environ,
        "OMP_NUM_THREADS": "1",
        "PYTHONPATH": os.pathsep.join([str(HERE.parents[1]), str(HERE)]),
    }
    done = subprocess.run(
        [sys.executable, str(HERE / "killed_runs.py"), str(tmp_path_factory.mktemp("runs"))],
        env=environment,
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout.splitlines()[-1])


def test_killed_and_damaged_runs_end_bit_for_bit_like_the_uninterrupted_one(results):
    assert len(results) > 15
    for name, result in results.items():
        clean = results["stream" if "stream" in name else "plain"]
        for what in ("weights", "average"):
            assert result[what] == clean[what], (name, what)
        expected = dict(clean["losses"])
        assert all(expected[step] == loss for step, loss in result["losses"]), name  # also steps that were made twice
        assert {step for step, _ in result["losses"]} == set(expected), name


def test_runs_were_killed_and_resumed_where_they_should(results):
    for name, result in results.items():
        assert result["killed"] == (None if name in ("plain", "stream") else signal.SIGKILL), name
        # A checkpoint is written while training goes on: a run that dies later may have it or not.
        earlier = {"after step 6": (None, 4), "within a later pass": (4, 8), "within a stream": (4, 8)}
        assert result["resumed"] in earlier.get(name, (result["expected"],)), name
