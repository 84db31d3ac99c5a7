"""A process fails: the others end with its error, soon; checkpoints stay whole, and the run goes on as if nothing had been."""

import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest
from forked import free_port

HERE = Path(__file__).parent
ENVIRONMENT = {
    **os.environ,
    "OMP_NUM_THREADS": "1",
    "PYTHONPATH": os.pathsep.join([str(HERE.parents[1]), str(HERE)]),
}
pytestmark = pytest.mark.long


@pytest.fixture(scope="module")
def results(tmp_path_factory):
    done = subprocess.run(
        [sys.executable, str(HERE / "failing_ranks.py"), str(tmp_path_factory.mktemp("runs"))],
        env=ENVIRONMENT,
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout.splitlines()[-1])


OWN = {
    "data": "OSError: [Errno 5] row 7 cannot be read",
    "callback": "KeyError: 'a column'",
    "sharded": "KeyError: 'a column'",
    "disk": "OSError: [Errno 28] ",
}


@pytest.mark.parametrize("name", OWN)
def test_the_others_end_with_the_error_of_the_process_that_fails(results, name):
    (first, message, seconds), (second, own, before) = results[name]["ended"]
    assert first == second == 1
    assert own.splitlines()[-1].startswith(OWN[name])
    assert message.splitlines()[-1].split("ProcessError: ")[1] == f"process 1 failed with {own.splitlines()[-1]}"
    assert seconds < before + 5


def test_a_full_disk_is_named_with_the_checkpoint_that_is_whole(results):
    for name in ("disk", "disk in the background"):
        for status, errors, _ in results[name]["ended"]:
            last = errors.splitlines()[-1]
            assert status == 1 and "checkpoint-6 could not be written" in last and "No space left" in last
            assert "the last good checkpoint is" in last and "checkpoint-3. Started again" in last
        assert results[name]["kept"] == ["checkpoint-3"]


@pytest.mark.parametrize("name", ["killed", "killed, sharded"])
def test_a_process_that_is_killed_does_not_leave_the_others_waiting(results, name):
    (status, errors, seconds), (killed, _, before) = results[name]["ended"]
    assert killed == -signal.SIGKILL and status == 1 and seconds < before + 8
    assert "process 0 lost the connection to another, which has ended without an error" in errors.splitlines()[-1]


def test_a_process_that_catches_its_error_and_goes_on_does_not_leave_the_others_waiting(results):
    (status, errors, seconds), (_, others, later) = results["caught"]["ended"]
    assert status == 1 and seconds < later
    assert errors.splitlines()[-1] == "process 0 is ended: process 1 failed with KeyError: 'a column'"
    assert others.splitlines()[-1] == "goes on"


def test_the_run_goes_on_bit_for_bit(results):
    clean = results.pop("clean")["digest"]
    for name, found in results.items():
        assert found["again"] == [0, 0], name
        if "sharded" not in name:
            resumed = found["digest"].pop("resumed")
            assert found["digest"] == {name: clean[name] for name in ("weights", "average")}, name
            newest = {"checkpoint-3"} if "disk" in name else {"checkpoint-6"}
            # A process that is killed may not have written the newest one.
            assert resumed in newest | ({"checkpoint-3"} if name == "killed" else set()), name
    results["clean"] = {"digest": clean}


def torchrun(*arguments):
    command = [sys.executable, "-m", "torch.distributed.run", *arguments]
    return subprocess.Popen(command, env=ENVIRONMENT, stderr=subprocess.PIPE, text=True)


def test_torchrun_starts_killed_processes_again_and_the_run_goes_on(results, tmp_path):
    script = (str(HERE / "restarted.py"), str(tmp_path), "1")
    agent = torchrun("--standalone", "--nproc-per-node", "2", "--max-restarts", "1", *script)
    _, errors = agent.communicate(timeout=120)
    assert agent.returncode == 0, errors
    assert "exitcode: -9" in errors
    found = json.loads((tmp_path / "end.json").read_text())
    assert found == {**results["clean"]["digest"], "resumed": found["resumed"], "world": 2}
    assert found["resumed"] in ("checkpoint-3", "checkpoint-6")  # the newer one may not have been written


def test_two_machines_make_the_run_of_two_processes(results, tmp_path):
    """Two agents with one process each, which meet at one address."""
    meeting = ("--nnodes", "2", "--nproc-per-node", "1", "--rdzv-backend", "c10d", "--rdzv-id", "tests")
    place = ("--rdzv-endpoint", f"localhost:{free_port()}", str(HERE / "restarted.py"), str(tmp_path))
    agents = [torchrun(*meeting, *place) for _ in range(2)]
    for agent in agents:
        _, errors = agent.communicate(timeout=120)
        assert agent.returncode == 0, errors
    assert json.loads((tmp_path / "end.json").read_text()) == {**results["clean"]["digest"], "world": 2}


def test_two_machines_start_again_when_a_process_of_one_is_killed(results, tmp_path):
    """The other machine may count no restart of its own: its processes are started again because the first one's were."""
    meeting = ("--nnodes", "2", "--nproc-per-node", "1", "--max-restarts", "3", "--rdzv-backend", "c10d")
    place = ("--rdzv-id", "again", "--rdzv-endpoint", f"localhost:{free_port()}", str(HERE / "restarted.py"))
    agents = [torchrun(*meeting, *place, str(tmp_path), "1") for _ in range(2)]
    ended = [agent.communicate(timeout=200)[1] for agent in agents]
    assert [agent.returncode for agent in agents] == [0, 0] and any("exitcode: -9" in errors for errors in ended), ended
    found = json.loads((tmp_path / "end.json").read_text())
    assert found == {**results["clean"]["digest"], "resumed": found["resumed"], "world": 2}
