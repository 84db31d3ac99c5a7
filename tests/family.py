"""What the files of `families` are made of: a family's worlds, settings, and the equality of its bound with the paper's.

A file of `families` may define

- `WORLDS`: name -> what makes a small process; every test of state-independent processes runs on it. `DEPENDENT`: the same for
  state-dependent ones;
- `SMALL`: the same over two or three data tokens, for what is enumerated;
- `SETTINGS`: functions of the number of tokens that return the settings with which a model is saved and restored;
- `EQUALITIES`: name -> `Equality`, with the paper's side written out by hand; the page in `docs/families` shows it.
"""

import importlib
import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType
from typing import Any

import published
import torch
from torch import Tensor

import noiselab as nl
from noiselab import schedules

V, MASK = 7, 6
FREQUENCIES = torch.tensor([0.4, 0.2, 0.15, 0.1, 0.1, 0.05, 0], dtype=torch.float64)
SIGNALS = {
    "linear": (schedules.linear(), published.linear),
    "log-linear": (schedules.log_linear(), published.log_linear),
    "cosine": (schedules.cosine(1e-3), published.cosine),
    "cosine squared": (schedules.cosine_squared(1e-3), published.cosine_squared),
    "MD4 cosine": (schedules.cosine_md4(), published.md4_cosine),
    "square": (schedules.polynomial(2), published.polynomial(2)),
    "square root": (schedules.polynomial(0.5), published.polynomial(0.5)),
    "geometric": (schedules.geometric(), published.geometric),
}

Pairs = Iterator[tuple[Tensor, Tensor]]
Loss = Callable[[Tensor, Tensor, Tensor, Tensor], Tensor]

MD4 = "MD4, Shi et al. (2024), [2406.04329](https://arxiv.org/abs/2406.04329)"
SEDD = "SEDD, Lou et al. (2024), [2310.16834](https://arxiv.org/abs/2310.16834)"
D3PM = "D3PM, Austin et al. (2021), [2107.03006](https://arxiv.org/abs/2107.03006)"
CAMPBELL = "Campbell et al. (2022), [2205.14987](https://arxiv.org/abs/2205.14987)"


@dataclass(frozen=True)
class Equality:
    """One row: what is equal to what, and pairs of tensors (ours, the paper's) that show it."""

    ours: str
    paper: str
    where: str
    pairs: Callable[[], Pairs]
    limit: float = 1e-9

    def error(self) -> float:
        return max(relative_error(*pair) for pair in self.pairs())


def relative_error(ours: Tensor, theirs: Tensor) -> float:
    """The largest relative error; below 1e-4 of the largest entry errors count relative to that."""
    assert ours.shape == theirs.shape, (ours.shape, theirs.shape)
    if not (ours.isfinite().all() and theirs.isfinite().all() and theirs.abs().max() > 0):
        return math.inf
    return ((ours - theirs).abs() / theirs.abs().clamp(min=1e-4 * theirs.abs().max())).max().item()


def row(*entries: float) -> Tensor:
    return torch.tensor(entries, dtype=torch.float64)


def draw(process, seed: int = 0, per_token: bool = True) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Logits, clean and noisy tokens, and times in the inner 96 % of the domain: for half of the rows one per token."""
    generator, shape = torch.Generator().manual_seed(seed), (6, 8)
    data, (low, high) = process.data_tokens().nonzero()[:, 0], process.domain
    x = data[torch.randint(len(data), shape, generator=generator)]
    t = torch.rand(shape, dtype=torch.float64, generator=generator)
    t[: len(t) // 2 if per_token else len(t)] = t[: len(t) // 2 if per_token else len(t), :1]
    t = low + (high - low) * (0.02 + 0.96 * t)
    logits = 2 * torch.randn(*shape, process.vocab_size, dtype=torch.float64, generator=generator)
    return logits, x, process.corrupt(x, t, generator=generator), t


def normalised(process, logits: Tensor) -> Tensor:
    return logits.masked_fill(~process.data_tokens(), -math.inf).log_softmax(-1)


def bound(process, paper: Loss, seed: int = 0) -> Pairs:
    """`nelbo` and a paper's loss."""
    logits, x, z, t = draw(process, seed)
    yield from values_and_gradients(
        lambda leaf: nl.nelbo(process, leaf, x, z, t), lambda leaf: paper(normalised(process, leaf), x, z, t), logits
    )


def values_and_gradients(ours: Callable[[Tensor], Tensor], theirs: Callable[[Tensor], Tensor], leaf: Tensor) -> Pairs:
    results = []
    for loss in (ours, theirs):
        own = leaf.clone().requires_grad_()
        value = loss(own)
        results.append((value.detach(), *torch.autograd.grad(value.sum(), own)))
    yield from zip(*results, strict=True)


def modules() -> dict[str, ModuleType]:
    """The files of `families`, by name."""
    folder = Path(__file__).parent / "families"
    return {path.stem: importlib.import_module(f"families.{path.stem}") for path in sorted(folder.glob("*.py"))}


def gather(name: str) -> dict[str, Any]:
    """One dictionary of all families: `WORLDS`, `DEPENDENT`, `SMALL` or `EQUALITIES`."""
    found: dict[str, Any] = {}
    for module in modules().values():
        found.update(getattr(module, name, {}))
    return found
