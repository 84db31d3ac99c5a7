"""However a run is laid out over processes, it is the same run, up to the rounding of sums."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from torch import nn
from toy_training import V, llama, network

from noiselab.training import Optimization
from noiselab.training.checks import check_sharding
from noiselab.training.layout import Layout

HERE = Path(__file__).parent
LIMIT = 1e-6  # absolute: losses are below 4; a loss of one step and its weights are float32


@pytest.fixture(scope="module")
def results(tmp_path_factory):
    environment = {
        **os.environ,
        "OMP_NUM_THREADS": "1",
        "PYTHONPATH": os.pathsep.join([str(HERE.parents[1]), str(HERE)]),
    }
    done = subprocess.run(
        [sys.executable, str(HERE / "layouts.py"), str(tmp_path_factory.mktemp("runs"))],
        env=environment,
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout.splitlines()[-1])


def agree(found, wanted):
    assert len(set(found["losses"])) == 20
    for name in ("losses", "weights", "average"):
        for ours, theirs in zip(found[name], wanted[name], strict=True):
            torch.testing.assert_close(torch.tensor(ours), torch.tensor(theirs), rtol=0, atol=LIMIT)


@pytest.mark.long
@pytest.mark.parametrize("name", ["micro", "ddp", "fsdp", "hsdp"])
def test_all_layouts_make_the_steps_of_one_process(results, name):
    agree(results[name], results["one"])


@pytest.mark.long
def test_low_rank_updates_on_two_shards_are_those_of_one_process(results):
    agree(results["lora, fsdp"], results["lora"])


@pytest.mark.long
@pytest.mark.parametrize("name", ["by one", "by four", "by hsdp"])
def test_a_run_of_two_shards_is_resumed_by_any_layout(results, name):
    assert results[name]["resumed"] == "checkpoint-8"
    agree(results[name], results["one"])


def test_what_cannot_be_sharded_is_refused():
    settings, cpu = Optimization(steps=1, batch=2), Layout(torch.device("cpu"), 0, 2, 2)
    for model in (network(), llama()):
        check_sharding(cpu, settings, model)
        with pytest.raises(ValueError, match=r"must be on one of cpu, cuda, xpu, .*; got mps with shards=2"):
            check_sharding(Layout(torch.device("mps"), 0, 2, 2), settings, model)
    with pytest.raises(ValueError, match=r"blocks in an nn.ModuleList to be sharded, .*; Linear has none \(shards=1"):
        check_sharding(cpu, settings, nn.Linear(V, V))
    check_sharding(Layout(torch.device("cpu"), 0, 2, 1), settings, nn.Linear(V, V))
