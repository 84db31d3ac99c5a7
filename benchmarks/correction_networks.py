"""The networks of benchmarks/correction_table.py: a small transformer of a known chain, plain or trained to correct."""

import sys
from collections.abc import Callable
from pathlib import Path

import torch
from safetensors.torch import load_file, save_file

import noiselab as nl
from noiselab.bench import World
from noiselab.denoisers import QualityDenoiser
from noiselab.training import CorrectionLoss, Place, QualityLoss

sys.path.append(str(Path(__file__).parents[1] / "recipes"))
from demo_report.known_world import train_in_world

RANGE = (1e-3, 1 - 1e-3)  # of the times of training, those of `train_in_world`


def plain_network(
    world: World, noise: str, process: nl.InterpolatingProcess, steps: int, seed: int, kept: Path | None
) -> nl.Denoiser:
    """A network trained by the bound; read from the folder `kept` if it is there."""
    path = None if kept is None else kept / f"{noise}-{seed}.safetensors"
    if path is not None and path.exists():
        denoiser = train_in_world(world, process, steps=1, seed=seed)
        denoiser.load_state_dict(load_file(path))
        return denoiser
    denoiser = train_in_world(world, process, steps=steps, seed=seed)
    if path is not None:
        path.parent.mkdir(parents=True, exist_ok=True)
        save_file({name: value.contiguous() for name, value in denoiser.state_dict().items()}, path)
    return denoiser


def with_quality_head(
    world: World, process: nl.InterpolatingProcess, denoiser: nl.Denoiser, steps: int, seed: int, *, revealed: int = 1
) -> QualityDenoiser:
    """PRISM: a head that learns which tokens of the network's own are right; the network itself learns on, too.

    `revealed` is the number of masks of a text that are filled in at once, for the head to judge.
    """
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        taught = QualityDenoiser(denoiser)
    go_on(world, taught, QualityLoss(process, revealed=revealed, bound=1.0, time_range=RANGE), steps, seed)
    return taught


def taught_by_drafts(
    world: World, process: nl.InterpolatingProcess, denoiser: nl.Denoiser, steps: int, seed: int
) -> nl.Denoiser:
    """ProSeCo: the network learns on, and also to correct the texts that it has filled in itself."""
    go_on(world, denoiser, CorrectionLoss(process, flat=True, time_range=RANGE), steps, seed)
    return denoiser


def go_on(world: World, model: nl.Denoiser, loss: Callable, steps: int, seed: int) -> None:
    """Optimizer steps of 32 new sequences each, at a falling rate."""
    model.train()
    optimizer = torch.optim.AdamW(model.parameters(), lr=2e-3, betas=(0.9, 0.98), weight_decay=0.0)
    rate = torch.optim.lr_scheduler.LinearLR(optimizer, 1.0, 0.02, total_iters=steps)
    random = torch.Generator().manual_seed(seed + 1000)
    for step in range(steps):
        batch = {"input_ids": world.sample(32, generator=random)}
        loss(model, batch, place=Place(step, seed=seed + 1000)).backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        optimizer.zero_grad()
        rate.step()
    model.eval()
