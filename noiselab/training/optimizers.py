"""The optimizer of a run and its learning rate, a function of the step."""

import math
import re
from typing import Any

import torch
from torch import nn

from .completep import CompleteP
from .laprop import LaProp
from .muon import MuonWithAdamW, block_matrices
from .options import Optimization

UNDECAYED = re.compile(r"(^|[._])(bias|norm|layernorm|rmsnorm)\w*([._]|$)", re.IGNORECASE)


def learning_rate(optimization: Optimization, step: int) -> float:
    r"""The learning rate of a step: linear warm-up, then constant or half a cosine.

    $$\eta_s = \eta \min\left(1, \frac{s}{w}\right) \text{ for } s < w, \qquad
      \eta_s = \eta \left(f + (1 - f) \frac{1 + \cos(\pi (s - w) / (n - w))}{2}\right) \text{ from } w \text{ on}$$

    **Arguments:**

    - `optimization`: the peak $\eta$, the warm-up w, the number of steps n and the final fraction f.
    - `step`: the number of completed steps, from 0.
    """
    o = optimization
    if step < o.warmup:
        return o.learning_rate * step / o.warmup
    if o.schedule == "constant":
        return o.learning_rate
    done = min(1.0, (step - o.warmup) / max(1, o.steps - o.warmup))
    return o.learning_rate * (o.final_learning_rate + (1 - o.final_learning_rate) * (1 + math.cos(math.pi * done)) / 2)


def decayed_names(network: nn.Module, *, everything: bool) -> set[str]:
    """The names of weights with weight decay: all, or all but biases and the weights of norms."""
    return {
        name
        for name, weight in network.named_parameters()
        if everything or (weight.ndim > 1 and not UNDECAYED.search(name))
    }


def hidden_matrices(network: nn.Module) -> set[str]:
    """The names of the matrices of a network's blocks, for which `CompleteP` has factors; biases with two axes are none."""
    return {name for name in block_matrices(network) if not UNDECAYED.search(name)}


def build_optimizer(network: nn.Module, optimization: Optimization) -> torch.optim.Optimizer:
    """The optimizer of the weights that are trained. The key `rate` of a group is a factor of the learning rate.

    **Arguments:**

    - `network`: the network, sharded already if it shall be.
    - `optimization`: AdamW, LaProp or Muon, and its settings.
    """
    o = optimization
    muon, scale = o.optimizer == "muon", CompleteP(o.width_ratio, o.depth_ratio)
    matrices = set(block_matrices(network)) if muon else set()
    if (scale.width, o.other_rate) != (1, 1):
        matrices = hidden_matrices(network)
    decayed = decayed_names(network, everything=o.decay_all)
    groups: dict[tuple[bool, bool], list[nn.Parameter]] = {}
    for name, weight in network.named_parameters():
        if weight.requires_grad:
            groups.setdefault((name in matrices, name in decayed), []).append(weight)
    parts = [
        {
            "params": weights,
            "weight_decay": (o.weight_decay * (scale.decay if square else 1.0)) if decay else 0.0,
            "rate": scale.rate if square else o.other_rate,
            **({"orthogonal": square} if muon else {}),
        }
        for (square, decay), weights in groups.items()
    ]
    settings: dict[str, Any] = {"lr": o.learning_rate, "betas": o.betas, "eps": o.epsilon * scale.epsilon}
    kinds: dict[str, Any] = {"adamw": torch.optim.AdamW, "laprop": LaProp, "muon": MuonWithAdamW}
    return kinds[o.optimizer](parts, **settings)


def set_learning_rate(optimizer: torch.optim.Optimizer, rate: float) -> None:
    """Set the learning rate of all groups, each with its factor."""
    for group in optimizer.param_groups:
        group["lr"] = rate * group.get("rate", 1.0)
