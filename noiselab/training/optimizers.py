"""The optimizer of a run and its learning rate, a function of the step."""

import math
import re
from typing import Any

import torch
from torch import nn

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


def build_optimizer(network: nn.Module, optimization: Optimization) -> torch.optim.Optimizer:
    """The optimizer of the weights that are trained.

    **Arguments:**

    - `network`: the network, sharded already if it shall be.
    - `optimization`: AdamW or Muon, and its settings.
    """
    o = optimization
    muon = o.optimizer == "muon"
    matrices = set(block_matrices(network)) if muon else set()
    decayed = decayed_names(network, everything=o.decay_all)
    groups: dict[tuple[bool, bool], list[nn.Parameter]] = {}
    for name, weight in network.named_parameters():
        if weight.requires_grad:
            groups.setdefault((name in matrices, name in decayed), []).append(weight)
    parts = [
        {
            "params": weights,
            "weight_decay": o.weight_decay if decay else 0.0,
            **({"orthogonal": square} if muon else {}),
        }
        for (square, decay), weights in groups.items()
    ]
    settings: dict[str, Any] = {"lr": o.learning_rate, "betas": o.betas, "eps": o.epsilon}
    return MuonWithAdamW(parts, **settings) if muon else torch.optim.AdamW(parts, **settings)
