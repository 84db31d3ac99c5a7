"""One optimizer that combines Muon for the matrices of a network's blocks with AdamW for all other weights.

`torch.optim.Muon` accepts only matrices, but a trainer needs a single optimizer for its schedule and checkpoints. It
also iterates in bfloat16, which CPUs without bfloat16 instructions emulate: a step of the demo's network then takes 390
ms instead of 10 ms. The `Muon` in this module differs from torch's only in this dtype.
"""

from collections.abc import Callable, Iterable
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn

from ..networks.dit_layers import ZeroLinear

MAX_STACKED = 2**24
"""The largest number of elements orthogonalized in one call: stacking saves time for small matrices, not for large ones."""


class Muon(torch.optim.Muon):
    """`torch.optim.Muon` with float32 arithmetic on a CPU, and steps scaled to the size of AdamW's."""

    @torch.no_grad()
    def step(self, closure: None = None) -> None:  # type: ignore[override]
        """Take one step; weights without a gradient do not change."""
        for group in self.param_groups:
            lr, momentum = group["lr"], group["momentum"]
            for weights in group_by_shape(p for p in group["params"] if p.grad is not None):
                for p in weights:
                    if "momentum_buffer" not in self.state[p]:
                        self.state[p]["momentum_buffer"] = torch.zeros_like(p)
                means = [self.state[p]["momentum_buffer"] for p in weights]
                gradients = [p.grad for p in weights if p.grad is not None]
                torch._foreach_lerp_(means, gradients, 1 - momentum)
                updates = orthogonal(torch.stack(torch._foreach_lerp(gradients, means, momentum)))
                torch._foreach_mul_(weights, 1 - lr * group["weight_decay"])
                torch._foreach_sub_(weights, updates.mul_(lr * 0.2 * max(updates.shape[1:]) ** 0.5).unbind())


def group_by_shape(weights: Iterable[Tensor]) -> list[list[Tensor]]:
    """Group weights of the same shape, dtype and device, with at most `MAX_STACKED` elements if there are several."""
    sets: dict[tuple[object, ...], list[list[Tensor]]] = {}
    for p in weights:
        found = sets.setdefault((p.shape, p.dtype, p.device), [[]])
        if found[-1] and (len(found[-1]) + 1) * p.numel() > MAX_STACKED:
            found.append([])
        found[-1].append(p)
    return [part for found in sets.values() for part in found]


def orthogonal(matrices: Float[Tensor, "*batch rows columns"], steps: int = 5) -> Float[Tensor, "*batch rows columns"]:
    """Bring the singular values of matrices near 1 (0.7 to 1.2), by a Newton-Schulz iteration.

    The coefficients make small singular values grow fast, at the price that the others fluctuate around 1.
    """
    x = matrices.bfloat16() if matrices.is_cuda else matrices.float()
    wide = x.shape[-2] <= x.shape[-1]
    x = (x if wide else x.mT).reshape(-1, min(x.shape[-2:]), max(x.shape[-2:]))
    x = x / (torch.linalg.matrix_norm(x, keepdim=True) + 1e-7)
    for _ in range(steps):
        square = x @ x.mT
        x = torch.baddbmm(x, torch.baddbmm(square, square, square, beta=-4.7750, alpha=2.0315), x, beta=3.4445)
    return (x if wide else x.mT).reshape(matrices.shape).to(matrices)


class MuonWithAdamW(torch.optim.Optimizer):
    """`Muon` for groups with `orthogonal=True`, `torch.optim.AdamW` for the others.

    Muon's steps are scaled to the size of AdamW's, so that both share one learning rate and weight decay. A small
    network leaves the first plateau, where it predicts token frequencies, in far fewer steps than with AdamW alone.

    **Arguments:**

    - `params`: parameter groups; those with `orthogonal=True` contain matrices, which `block_matrices` finds.
    - `lr`, `weight_decay`: learning rate and weight decay of both optimizers.
    - `momentum`: the momentum of Muon.
    - `betas`, `eps`: as for AdamW.

    **Raises:** `ValueError` if an orthogonal group contains a weight that is not a matrix.

    **Source:** Jordan et al. (2024), "Muon: An optimizer for hidden layers in neural networks"; Liu et al. (2025),
    arXiv 2502.16982, for the scale.
    """

    def __init__(
        self,
        params: Iterable[dict[str, Any]],
        lr: float = 1e-3,
        *,
        weight_decay: float = 0.0,
        momentum: float = 0.95,
        betas: tuple[float, float] = (0.9, 0.99),
        eps: float = 1e-9,
    ) -> None:
        super().__init__(params, {"lr": lr, "weight_decay": weight_decay, "orthogonal": False})
        matrices, others = (
            [group for group in self.param_groups if group["orthogonal"] is wanted] for wanted in (True, False)
        )
        self.parts: list[torch.optim.Optimizer] = []
        if matrices:
            self.parts.append(Muon(matrices, lr, weight_decay=weight_decay, momentum=momentum))
        if others:
            self.parts.append(torch.optim.AdamW(others, lr, betas=betas, eps=eps, weight_decay=weight_decay))
        self._share()

    def _share(self) -> None:
        """Make both optimizers use this optimizer's groups and state, so that schedules and checkpoints see only one."""
        for part in self.parts:
            orthogonal = isinstance(part, torch.optim.Muon)
            part.param_groups = [group for group in self.param_groups if group["orthogonal"] is orthogonal]
            part.state = self.state

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Restore a saved state; loading creates new groups, which are shared again."""
        super().load_state_dict(state_dict)
        self._share()

    def step(self, closure: Callable[[], float] | None = None) -> float | None:  # type: ignore[override]
        """Take one step of both optimizers."""
        loss = None
        if closure is not None:
            with torch.enable_grad():
                loss = closure()
        for part in self.parts:
            part.step()
        return loss


def block_matrices(model: nn.Module) -> list[str]:
    """The names of the weights that are matrices of repeated blocks, that is, of modules in an `nn.ModuleList`.

    Embeddings, output projections and time embeddings are outside the blocks. Biases with two axes and embeddings inside
    multiply no vector and are no matrices. Modulations initialized to zero (`ZeroLinear`) are excluded, because they train
    better with AdamW.
    """
    inside = {
        id(p)
        for blocks in model.modules()
        if isinstance(blocks, nn.ModuleList)
        for module in blocks.modules()
        if not isinstance(module, ZeroLinear | nn.Embedding)
        for name, p in module.named_parameters(recurse=False)
        if p.ndim == 2 and p.requires_grad and "bias" not in name
    }
    return [name for name, p in model.named_parameters() if id(p) in inside]
