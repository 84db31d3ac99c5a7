"""One optimizer out of two: Muon for the matrices of a network's blocks, torch's AdamW for everything else.

`torch.optim.Muon` takes matrices alone, and a trainer wants one optimizer that a schedule drives and a checkpoint holds.
It also iterates in bfloat16, which a CPU without such instructions emulates: a step of the demo's network then takes
390 ms instead of 10 ms. `Muon` here differs from it in that alone.
"""

from collections.abc import Callable, Iterable
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn

from ..networks.dit import ZeroLinear

TOGETHER = 2**24
"""Numbers in matrices whose orthogonal factors are found in one go: small ones take less time so, large ones only memory."""


class Muon(torch.optim.Muon):
    """`torch.optim.Muon` with float32 arithmetic on a CPU, and steps of the size of AdamW's."""

    @torch.no_grad()
    def step(self, closure: None = None) -> None:  # type: ignore[override]
        """One step; weights without a gradient stay."""
        for group in self.param_groups:
            lr, momentum = group["lr"], group["momentum"]
            for weights in alike(p for p in group["params"] if p.grad is not None):
                for p in weights:
                    if "momentum_buffer" not in self.state[p]:
                        self.state[p]["momentum_buffer"] = torch.zeros_like(p)
                means = [self.state[p]["momentum_buffer"] for p in weights]
                gradients = [p.grad for p in weights if p.grad is not None]
                torch._foreach_lerp_(means, gradients, 1 - momentum)
                updates = orthogonal(torch.stack(torch._foreach_lerp(gradients, means, momentum)))
                torch._foreach_mul_(weights, 1 - lr * group["weight_decay"])
                torch._foreach_sub_(weights, updates.mul_(lr * 0.2 * max(updates.shape[1:]) ** 0.5).unbind())


def alike(weights: Iterable[Tensor]) -> list[list[Tensor]]:
    """Weights in sets of one shape, dtype and device, of at most `TOGETHER` numbers unless it is one weight."""
    sets: dict[tuple[object, ...], list[list[Tensor]]] = {}
    for p in weights:
        found = sets.setdefault((p.shape, p.dtype, p.device), [[]])
        if found[-1] and (len(found[-1]) + 1) * p.numel() > TOGETHER:
            found.append([])
        found[-1].append(p)
    return [part for found in sets.values() for part in found]


def orthogonal(matrices: Float[Tensor, "*batch rows columns"], steps: int = 5) -> Float[Tensor, "*batch rows columns"]:
    """Bring the singular values of matrices near 1 (0.7 to 1.2), by a Newton-Schulz iteration.

    The coefficients make small singular values grow fastest and let the others waver around 1.
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

    Muon's steps are scaled to the size of AdamW's, so both take one learning rate and one weight decay. A small network
    leaves the first plateau, where it only knows how frequent tokens are, in far fewer steps than with AdamW alone.

    **Arguments:**

    - `params`: groups; those with `orthogonal=True` hold matrices. `block_matrices` finds these.
    - `lr`, `weight_decay`: of both kinds.
    - `momentum`: of Muon.
    - `betas`, `eps`: of AdamW.

    **Raises:** `ValueError` if an orthogonal group holds anything but matrices.

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
        """Let both work on this optimizer's groups and state, so that schedules and checkpoints see one optimizer."""
        for part in self.parts:
            orthogonal = isinstance(part, torch.optim.Muon)
            part.param_groups = [group for group in self.param_groups if group["orthogonal"] is orthogonal]
            part.state = self.state

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Restore a saved state; it comes as new groups, which are shared again."""
        super().load_state_dict(state_dict)
        self._share()

    def step(self, closure: Callable[[], float] | None = None) -> float | None:  # type: ignore[override]
        """One step of both."""
        loss = None
        if closure is not None:
            with torch.enable_grad():
                loss = closure()
        for part in self.parts:
            part.step()
        return loss


def block_matrices(model: nn.Module) -> list[str]:
    """The names of the weights that are matrices of repeated blocks, that is, of modules in an `nn.ModuleList`.

    Embeddings, output projections and time embeddings stand outside the blocks. Modulations that start at zero
    (`ZeroLinear`) are left out: they learn better with AdamW.
    """
    inside = {
        id(p)
        for blocks in model.modules()
        if isinstance(blocks, nn.ModuleList)
        for module in blocks.modules()
        if not isinstance(module, ZeroLinear)
        for p in module.parameters(recurse=False)
        if p.ndim == 2 and p.requires_grad
    }
    return [name for name, p in model.named_parameters() if id(p) in inside]
