import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import torch
import two_processes
from safetensors.torch import load_file
from toy_training import Rows, Stream, make

HERE = Path(__file__).parent
pytestmark = pytest.mark.long
OPTIONS = {"dropout": 0.0, "batch": 16, "steps": 6, "save_every": 2, "log_every": 1}


@pytest.fixture(scope="module")
def root(tmp_path_factory):
    return tmp_path_factory.mktemp("processes")


@pytest.fixture(scope="module")
def one(root):
    """A run of one process."""
    trainer = make(root / "one", **OPTIONS, evaluate_every=3, extra={"eval_dataset": Rows(13, seed=5)})
    trainer.train()
    return trainer


@pytest.fixture(scope="module")
def results(root, one):
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


def close(some, others, limit):
    for a, b in zip(some, others, strict=True):
        found, wanted = (torch.as_tensor(value).detach().flatten() for value in (a, b))
        torch.testing.assert_close(found, wanted, rtol=0, atol=limit)


def losses(trainer, name="loss"):
    return [entry[name] for entry in trainer.history if name in entry]


@pytest.mark.parametrize("micro", [8, 4, 16])
def test_two_processes_make_the_steps_of_one_with_the_joint_batch(results, tmp_path, micro):
    """Padding differs between rows, hence the number of real tokens between processes and micro-steps."""
    first = []
    extra = {"eval_dataset": Rows(13, seed=5)}
    trainer = make(tmp_path, **OPTIONS, micro_batch=micro, evaluate_every=3, extra=extra)
    zero = trainer.optimizer.zero_grad

    def zero_grad():
        if not first:
            first.extend(p.grad.clone() for p in trainer.network.parameters() if p.grad is not None)
        zero()

    trainer.optimizer.zero_grad = zero_grad
    trainer.train()
    joint = results["joint"]
    close(joint["gradients"], first, 2e-6)
    close(joint["weights"], trainer.network.parameters(), 2e-5)
    close(joint["average"], trainer.average.ema.shadow_params, 2e-5)
    assert joint["losses"] == pytest.approx(losses(trainer), rel=1e-5)
    assert joint["evaluated"] == pytest.approx(losses(trainer, "eval_loss"), rel=1e-4)


@pytest.mark.parametrize("name", ["blocks", "blocks, sharded"])
def test_blocks_in_one_pass_on_two_processes_are_those_of_one(results, tmp_path, name):
    """Times are stratified over the blocks of all processes and micro-batches."""
    extra = {"eval_dataset": Rows(13, seed=5), "blocks": 4}
    trainer = make(tmp_path, **OPTIONS, micro_batch=16, evaluate_every=3, extra=extra)
    trainer.train()
    found = results[name]
    close(found["weights"], trainer.network.parameters(), 2e-5)
    assert found["losses"] == pytest.approx(losses(trainer), rel=1e-5)
    assert found["evaluated"] == pytest.approx(losses(trainer, "eval_loss"), rel=1e-4)


def test_sharded_weights_make_the_same_steps_and_no_process_holds_all(results, one):
    sharded = results["sharded"]
    close(sharded["weights"], one.network.parameters(), 2e-5)
    close(sharded["average"], one.average.ema.shadow_params, 2e-5)
    assert sharded["losses"] == pytest.approx(losses(one), rel=1e-5)
    assert sharded["evaluated"] == pytest.approx(losses(one, "eval_loss"), rel=1e-4)
    count = sum(p.numel() for p in one.network.parameters())
    assert count / 2 <= sharded["held"] < 0.55 * count and results["joint"]["held"] == count


def test_the_bound_of_sharded_weights_is_that_of_one_process(results, one):
    assert results["sharded"]["bound"] == pytest.approx(one.measure(two_processes.bound).nats.tolist(), rel=1e-4)


def test_a_sharded_run_writes_the_model_that_one_process_writes(results, root, one):
    one.save_final(root / "one" / "final")
    for name in ("", "ema"):
        ours, theirs = (load_file(root / run / "final" / name / "model.safetensors") for run in ("one", "sharded"))
        assert ours.keys() == theirs.keys()
        close(ours.values(), theirs.values(), 2e-5)


@pytest.mark.parametrize("name", ["from one", "from one, sharded"])
def test_a_checkpoint_of_one_process_is_resumed_by_two(results, one, name):
    close(results[name]["weights"], one.network.parameters(), 2e-5)
    close(results[name]["average"], one.average.ema.shadow_params, 2e-5)
    assert results[name]["losses"] == pytest.approx(losses(one), rel=1e-5)


@pytest.mark.parametrize("name", ["joint", "sharded"])
def test_a_checkpoint_of_two_processes_is_resumed_by_one(results, root, one, tmp_path, name):
    shutil.copytree(root / name / "checkpoint-2", tmp_path / "checkpoint-2")
    trainer = make(tmp_path, **OPTIONS)
    trainer.train()
    assert trainer.resumed.name == "checkpoint-2"
    close(one.network.parameters(), trainer.network.parameters(), 2e-5)
    close(one.average.ema.shadow_params, trainer.average.ema.shadow_params, 2e-5)
    assert losses(trainer) == pytest.approx(losses(one), rel=1e-5)


def test_times_are_stratified_over_micro_steps_processes_and_rows(results):
    here, there = (torch.tensor(t).view(6, 2, 4) for t in results["joint"]["times"])  # step, micro-step, row
    assert not torch.isclose(here, there).any()
    times = torch.cat([here, there], dim=1).flatten(1).sort().values
    share = (times - 1e-4) / (1 - 2e-4)
    assert torch.equal((share * 16).floor(), torch.arange(16.0).expand(6, 16))  # one in each of 16 intervals
    assert len(set(times[:, 0].tolist())) == 6  # another shift at each step


def test_a_stream_is_dealt_out_to_the_processes(results, tmp_path):
    alone = make(tmp_path, data=Stream(Rows(24)), **OPTIONS, micro_batch=8)
    alone.train()
    close(results["stream"]["weights"], alone.network.parameters(), 2e-5)


def test_damage_to_what_the_second_process_wrote_takes_both_back(results):
    (whole, hurt, resumed), (whole2, hurt2, resumed2) = results["hurt"]
    assert resumed == resumed2 == "checkpoint-4"
    assert whole == hurt == whole2 == hurt2


def test_a_loss_that_is_not_finite_on_one_process_stops_both(results):
    for error in results["not finite"]:
        assert error.startswith("NonFiniteLoss: the loss of optimizer step 4 is not finite")
        assert "checkpoint-2" in error


def test_what_cannot_be_is_refused(results):
    assert "optimizer must be 'adamw' or 'laprop' with sharded weights" in results["muon"]
    assert "shards must divide the number of processes, 2, or be 0 for all; got 3" in results["mesh"]
    assert "batch must be a multiple of the number of processes; got 15 and 2" in results["batch"]


def test_checkpoints_need_a_folder_that_all_processes_see(results):
    """It is noticed at the start, not at the first checkpoint; without checkpoints it does not matter."""
    for refused, trained in results["apart"]:
        assert refused.startswith(
            "ValueError: all processes must see the same output folder; what process 0 has written in "
        )
        assert "is not there for process 1 (" in refused and trained is None
