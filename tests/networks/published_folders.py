"""Tiny checkpoints in published formats (tests/fixtures/formats/README.md), and ways to damage them."""

import json
import shutil
from pathlib import Path

import torch
from safetensors.torch import load_file, save_file

FORMATS = Path(__file__).parents[1] / "fixtures" / "formats"


def reference(name):
    """The recorded inputs and outputs of a checkpoint."""
    return load_file(FORMATS / name / "reference_logits.safetensors")


def copied(name, folder):
    """A copy of a checkpoint, to be damaged."""
    for file in ("config.json", "model.safetensors"):
        shutil.copyfile(FORMATS / name / file, folder / file)
    return folder


def edit_config(folder, remove=(), **settings):
    path = folder / "config.json"
    content = json.loads(path.read_text()) | settings
    path.write_text(json.dumps({key: value for key, value in content.items() if key not in remove}))
    return folder


def edit_weights(folder, edit):
    path = folder / "model.safetensors"
    weights = load_file(path)
    edit(weights)
    save_file(weights, path, metadata={"format": "pt"})
    return folder


@torch.no_grad()
def difference(network, expected, *args, where=..., **options):
    """The largest absolute difference of logits."""
    found = network(*args, **options)
    assert found.shape == expected.shape and found.dtype == expected.dtype
    return (found - expected)[where].abs().max().item()
