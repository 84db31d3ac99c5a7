"""A process whose partners are not there says so, and does not wait for long."""

import socket
import time
from concurrent.futures import ThreadPoolExecutor

import pytest
import torch.distributed as dist

from noiselab.commands.main import main
from noiselab.distributed import ProcessError, ending_together, failures, join_processes, joining


@pytest.fixture
def environment(monkeypatch):
    """Sets what torchrun sets, at a port where nobody is."""

    def let(**values):
        for name in (*joining.NAMES, "LOCAL_RANK", "TORCHELASTIC_USE_AGENT_STORE", "TORCHELASTIC_RESTART_COUNT"):
            monkeypatch.delenv(name, raising=False)
        for name, value in values.items():
            monkeypatch.setenv(name, str(value))

    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    monkeypatch.setattr(joining, "JOINING", 1.0)
    monkeypatch.setattr(joining, "NOTICE", 0.1)
    let.left = {"WORLD_SIZE": 3, "RANK": 0, "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port}
    return let


@pytest.mark.parametrize(
    ("more", "why"),
    [
        ({}, "no answer from process 1, 2"),  # a shell in which another script was started by hand
        ({"RANK": 2}, "nobody answers"),
        (
            {"TORCHELASTIC_USE_AGENT_STORE": "True"},
            "nobody answers",
        ),  # a notebook that torchrun has started, which has ended
    ],
)
def test_a_process_without_the_others_says_so_and_ends(more, why, environment, capsys):
    environment(**{**environment.left, **more})
    begun = time.monotonic()
    with pytest.raises(ProcessError, match=rf"got no answer from the others within .* minutes: {why} .*WORLD_SIZE"):
        join_processes("cpu")
    assert time.monotonic() - begun < 10
    said = capsys.readouterr().err
    assert said.count("waits for the others") == 1 and why in said and "WORLD_SIZE" in said


def test_in_a_block_and_in_a_command_it_is_the_same_error(environment, capsys, tmp_path):
    environment(**{**environment.left, "RANK": 1})
    with pytest.raises(ProcessError, match=r"process 1 of 3, .* got no answer from the others"), ending_together():
        join_processes("cpu")
    with pytest.raises(SystemExit):
        main(["generate", str(tmp_path), "--device", "cpu"])
    assert "error: process 1 of 3" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("values", "words"),
    [
        (
            {"WORLD_SIZE": 2},
            "RANK, MASTER_ADDR, MASTER_PORT is not set: start the script with torchrun, or unset WORLD_SIZE",
        ),
        ({"WORLD_SIZE": "two"}, "WORLD_SIZE must be a number, which torchrun sets; got 'two'"),
        ({"WORLD_SIZE": 2, "RANK": 2}, "RANK must be below WORLD_SIZE"),
        (
            {"WORLD_SIZE": 2, "RANK": 0, "MASTER_ADDR": "here", "MASTER_PORT": 99999},
            "MASTER_PORT must be the number of a port",
        ),
    ],
)
def test_an_environment_that_is_not_that_of_torchrun_is_described(values, words, environment):
    environment(**values)
    with pytest.raises(ValueError, match=words):
        join_processes("cpu")
    with pytest.raises(ValueError, match=words), ending_together():
        join_processes("cpu")


@pytest.mark.parametrize("left", [{"RANK": 1}, {"RANK": 1, "WORLD_SIZE": 1}, {"RANK": 1, "WORLD_SIZE": ""}])
def test_one_process_is_the_first_whatever_is_left_of_another_start(left, environment, capsys):
    environment(**left)
    own = join_processes("cpu")
    assert own.first and own.world == 1
    with pytest.raises(SystemExit):
        main(["generate", "--help"])
    assert "num-samples" in capsys.readouterr().out


@pytest.fixture
def store(environment):
    """Connects to one store, as torchrun keeps it while it starts its processes again."""
    port = environment.left["MASTER_PORT"]
    server = dist.TCPStore("127.0.0.1", port, is_master=True, wait_for_workers=False)
    environment(**environment.left)
    yield lambda: dist.TCPStore("127.0.0.1", port, wait_for_workers=False)
    del server


def meet_in_threads(store, world):
    waiting = [joining._Waiting(rank, world) for rank in range(world)]
    with ThreadPoolExecutor(world) as pool:
        found = [pool.submit(joining._invite, store(), waiting[0])]
        time.sleep(0.3)  # the first process sees what is left of an earlier start before the others ask
        found += [pool.submit(joining._ask, store(), waiting[rank]) for rank in range(1, world)]
        return [one.result() for one in found]


def test_each_meeting_has_one_name_of_its_own_whatever_earlier_ones_have_left(store):
    """One process of an earlier start asked and was killed before it had its answer, one after it."""
    store().set("asks 1", "killed")
    first = meet_in_threads(store, 3)
    store().set("asks 2", "killed")
    second = meet_in_threads(store, 3)
    assert len(set(first)) == len(set(second)) == 1 and first[0] != second[0]


def test_an_error_of_a_process_that_was_started_anew_is_none_of_this_start(store, environment, monkeypatch):
    """torchrun counts the restarts of each machine, so that the machine that did not fail has the number of before."""
    environment(**{**environment.left, "RANK": 1, "TORCHELASTIC_RESTART_COUNT": 0})
    board = failures._Board(7)
    board.write("process 1 failed with an old error")
    environment(**environment.left)
    other = failures._Board(7)
    assert other.read() == "process 1 failed with an old error"
    monkeypatch.setattr(failures, "_start", "another")
    environment(**{**environment.left, "RANK": 1, "TORCHELASTIC_RESTART_COUNT": 0})
    anew = failures._Board(7)
    assert anew.read() is None and other.read() is None
    anew.write("process 1 failed with a new error")
    assert other.read() == "process 1 failed with a new error"
