import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from toy_training import Rows, Stream, make

HERE = Path(__file__).parent
pytestmark = pytest.mark.long
OPTIONS = {"dropout": 0.0, "max_steps": 6, "save_steps": 2}


@pytest.fixture(scope="module")
def root(tmp_path_factory):
    return tmp_path_factory.mktemp("processes")


@pytest.fixture(scope="module")
def results(root):
    environment = {
        **os.environ,
        "OMP_NUM_THREADS": "1",
        "PYTHONPATH": os.pathsep.join([str(HERE.parents[1]), str(HERE)]),
    }
    launch = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2"]
    done = subprocess.run(
        [*launch, str(HERE / "two_processes.py"), str(root)], env=environment, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    return json.loads((root / "results.json").read_text())


def close(found, wanted, limit):
    for a, b in zip(found, wanted, strict=True):
        torch.testing.assert_close(torch.tensor(a), torch.as_tensor(b).detach().flatten(), rtol=0, atol=limit)


@pytest.mark.long_for("16-1")
@pytest.mark.parametrize(("batch", "accumulation"), [(8, 2), (4, 4), (16, 1)])
def test_two_processes_make_the_steps_of_one_with_the_joint_batch(results, tmp_path, batch, accumulation):
    """Padding differs between rows, hence the number of real tokens between processes and micro-steps."""
    first = []
    trainer = make(
        tmp_path,
        **OPTIONS,
        per_device_train_batch_size=batch,
        gradient_accumulation_steps=accumulation,
        eval_strategy="steps",
        eval_steps=3,
        per_device_eval_batch_size=8,
        extra={"eval_dataset": Rows(13, seed=5)},
    )
    step = trainer.training_step

    def training_step(*args, **kwargs):
        loss = step(*args, **kwargs)
        if trainer.state.global_step == 0 and trainer.micro == trainer.accumulation:
            first.extend(p.grad.clone() for p in trainer.model.parameters() if p.grad is not None)
        return loss

    trainer.training_step = training_step
    trainer.train()
    joint = results["joint"]
    close(joint["gradients"], first, 2e-6)
    close(joint["weights"], trainer.model.parameters(), 2e-5)
    close(joint["average"], trainer.average.ema.shadow_params, 2e-5)
    history = trainer.state.log_history
    assert joint["losses"] == pytest.approx([e["loss"] for e in history if "loss" in e], rel=1e-5)
    assert joint["evaluated"] == pytest.approx([e["eval_loss"] for e in history if "eval_loss" in e], rel=1e-4)


def test_times_are_stratified_over_micro_steps_processes_and_rows(results):
    here, there = (torch.tensor(t).view(6, 2, 4) for t in results["joint"]["times"])  # step, micro-step, row
    assert not torch.isclose(here, there).any()
    times = torch.cat([here, there], dim=1).flatten(1).sort().values
    share = (times - 1e-4) / (1 - 2e-4)
    assert torch.equal((share * 16).floor(), torch.arange(16.0).expand(6, 16))  # one in each of 16 intervals
    assert len(set(times[:, 0].tolist())) == 6  # another shift at each step


def test_a_stream_is_dealt_out_to_the_processes(results, tmp_path):
    one = make(tmp_path, data=Stream(Rows(24)), **OPTIONS, per_device_train_batch_size=8)
    one.train()
    close(results["stream"], one.model.parameters(), 2e-5)


def test_damage_to_what_the_second_process_wrote_takes_both_back(results):
    (whole, hurt, resumed, drawn), (whole2, hurt2, resumed2, drawn2) = results["hurt"]
    assert resumed == resumed2 == "checkpoint-4"
    assert whole == hurt == whole2 == hurt2
    assert drawn != drawn2  # the processes do not drop the same units


def test_a_loss_that_is_not_finite_on_one_process_stops_both(results):
    for error in results["not finite"]:
        assert error.startswith("NonFiniteLoss: the loss of optimizer step 4 is not finite")
        assert "checkpoint-2" in error


def test_sharding_that_would_silently_not_happen_is_refused(results):
    assert "FSDP must be available" in results["fsdp"]


def test_another_number_of_processes_is_refused(results, root):
    trainer = make(root / "joint", **OPTIONS, per_device_train_batch_size=8)
    with pytest.raises(ValueError) as refused:
        trainer.train()
    assert "processes: 2 in the checkpoint, 1 now" in str(refused.value)
    assert "per_device_train_batch_size: 4 in the checkpoint, 8 now" in str(refused.value)
