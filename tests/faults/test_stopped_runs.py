"""Two runs in one folder, and SIGTERM, which clusters send before they kill."""

import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest
import torch

sys.path.insert(0, str(Path(__file__).parents[1] / "training"))

from toy_training import digest, make

from noiselab.training import Callback
from noiselab.training import checkpoints as ck

TRAINING = Path(__file__).parents[1] / "training"
OPTIONS = {"steps": 10, "save_every": 4}


class At(Callback):
    """Calls a function after a step."""

    def __init__(self, step, call):
        self.step, self.call = step, call

    def on_step(self, trainer):
        if trainer.step == self.step:
            self.call()


@pytest.fixture(scope="module")
def clean(tmp_path_factory):
    run = make(tmp_path_factory.mktemp("clean"), **OPTIONS)
    run.train()
    return digest(run)


def test_a_second_run_in_the_folder_of_a_running_one_is_refused(tmp_path, clean):
    refused = []

    def second():
        with torch.random.fork_rng(devices=[]):  # the dropout of the first draws from the same generator
            with pytest.raises(ValueError, match="one run at a time; another run is using") as error:
                make(tmp_path, **OPTIONS).train()
            refused.append(error)
            make(tmp_path / "inner", **OPTIONS).train()  # another folder is free

    first = make(tmp_path, **OPTIONS, callbacks=[At(5, second)])
    first.train()
    assert refused and digest(first) == clean
    again = make(tmp_path, **OPTIONS)
    again.train()  # free since the first has ended
    assert again.resumed.name == "checkpoint-10"


def test_the_folder_is_free_after_a_run_that_failed(tmp_path):
    def fail():
        raise RuntimeError("mine")

    with pytest.raises(RuntimeError, match="mine"):
        make(tmp_path, **OPTIONS, callbacks=[At(5, fail)]).train()
    make(tmp_path, **OPTIONS).train()


def test_sigterm_saves_a_checkpoint_and_ends_the_run(tmp_path, clean, capsys):
    before = signal.getsignal(signal.SIGTERM)
    run = make(tmp_path, **OPTIONS, callbacks=[At(5, lambda: os.kill(os.getpid(), signal.SIGTERM))])
    with pytest.raises(SystemExit) as ended:
        run.train()
    assert ended.value.code == 143 and signal.getsignal(signal.SIGTERM) == before
    assert "stopped by SIGTERM" in capsys.readouterr().err
    step = run.step
    assert step in (5, 6)  # the step in which the signal is seen
    assert ck.last_intact(tmp_path).name == f"checkpoint-{step}"
    again = make(tmp_path, **OPTIONS)
    again.train()
    assert again.resumed.name == f"checkpoint-{step}" and digest(again) == clean


def test_a_handler_of_the_program_is_called_too(tmp_path):
    seen = []
    before = signal.signal(signal.SIGTERM, lambda *_: seen.append("mine"))
    try:
        run = make(tmp_path, **OPTIONS, callbacks=[At(5, lambda: os.kill(os.getpid(), signal.SIGTERM))])
        with pytest.raises(SystemExit):
            run.train()
    finally:
        signal.signal(signal.SIGTERM, before)
    assert seen == ["mine"] and ck.last_intact(tmp_path) is not None


SCRIPT = """
import os, signal, sys
from toy_training import make
from noiselab.training import Callback
class At(Callback):
    def on_step(self, trainer):
        if trainer.step == 5:
            os.killpg(0, signal.SIGTERM)
make(sys.argv[1], steps=10, save_every=4, workers=2, callbacks=[At()]).train()
"""


@pytest.mark.long
def test_sigterm_to_the_whole_job_does_not_end_the_workers_first(tmp_path):
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join([str(TRAINING.parents[1]), str(TRAINING)])}
    done = subprocess.run(
        [sys.executable, "-c", SCRIPT, str(tmp_path / "run")],
        env=environment,
        capture_output=True,
        text=True,
        start_new_session=True,
    )
    assert done.returncode == 143, done.stderr
    assert "Traceback" not in done.stderr and "stopped by SIGTERM" in done.stderr
    folder = ck.last_intact(tmp_path / "run")
    assert json.loads((folder / "progress.json").read_text())["step"] in (5, 6)


def test_what_a_killed_save_left_is_deleted_once_there_is_another_checkpoint(tmp_path, clean):
    for step in (4, 8):  # killed in the first save of two starts
        (tmp_path / f"checkpoint-{step}").mkdir()
        (tmp_path / f"checkpoint-{step}" / "model.safetensors").write_bytes(bytes(1000))
    run = make(tmp_path, **OPTIONS)
    run.train()
    assert run.resumed is None and digest(run) == clean
    assert sorted(path.name for path in tmp_path.iterdir() if path.is_dir()) == [
        *("checkpoint-10", "checkpoint-4", "checkpoint-8")
    ]
