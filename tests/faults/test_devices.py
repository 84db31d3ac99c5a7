"""A build of PyTorch for CUDA on a machine without a GPU, and devices that do not exist."""

import re
from pathlib import Path

import pytest
import torch

from noiselab.devices import select_device

ROOT = Path(__file__).parents[2]


@pytest.fixture
def cuda_build(monkeypatch):
    """What such a build reports: it is made for CUDA, and there is none."""

    def current_accelerator(check_available=False):
        return None if check_available else torch.device("cuda")

    monkeypatch.setattr(torch.accelerator, "current_accelerator", current_accelerator)
    monkeypatch.setattr(torch.accelerator, "is_available", lambda: False)
    monkeypatch.setattr(torch.accelerator, "device_count", lambda: 0)


def test_without_a_gpu_the_cpu_is_used(cuda_build):
    assert select_device() == torch.device("cpu") == select_device("cpu")


@pytest.mark.parametrize("name", ["cuda", "cuda:0", "gpu0", "", "CPU", "mps"])
def test_a_device_that_is_not_there_is_refused(cuda_build, name):
    with pytest.raises(ValueError, match=re.escape(f"device must be one of this machine's: cpu; got {name!r}")):
        select_device(name)


def test_the_devices_of_a_machine_with_two(monkeypatch):
    monkeypatch.setattr(torch.accelerator, "current_accelerator", lambda check_available=False: torch.device("cuda"))
    monkeypatch.setattr(torch.accelerator, "device_count", lambda: 2)
    assert select_device() == torch.device("cuda") and select_device("cuda:1") == torch.device("cuda:1")
    with pytest.raises(ValueError, match="cpu, cuda, cuda:0, cuda:1; got 'cuda:2'"):
        select_device("cuda:2")


def test_nothing_else_asks_pytorch_for_the_accelerator():
    for folder in ("noiselab", "recipes"):
        for file in (ROOT / folder).rglob("*.py"):
            assert file.name == "devices.py" or "current_accelerator" not in file.read_text(encoding="utf-8"), file
