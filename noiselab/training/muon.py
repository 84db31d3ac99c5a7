"""Muon: orthogonal steps for the matrices of a network's blocks, AdamW for everything else.

torch's own `torch.optim.Muon` takes matrices alone and computes in bfloat16, which many CPUs only emulate; a trainer
wants one optimizer that a checkpoint can hold.
"""

from collections.abc import Callable, Iterable
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn

from ..denoisers.dit import ZeroLinear


class Muon(torch.optim.Optimizer):
    r"""Momentum, of which every singular value is set to about 1; AdamW in groups without `orthogonal`.

    A matrix moves by $lr \cdot 0.2 \sqrt{\max(rows, columns)}$ times the orthogonal factor of its (Nesterov) momentum.
    The scale gives steps of the size of AdamW's, so both take one learning rate and one weight decay.

    A small network leaves the first plateau, where it only knows how frequent tokens are, in far fewer steps than with
    AdamW alone.

    **Arguments:**

    - `params`: groups; those with `orthogonal=True` hold matrices. `block_matrices` finds these.
    - `lr`, `weight_decay`: of both kinds.
    - `momentum`: of the matrices.
    - `betas`, `eps`: of AdamW.

    **Source:** Jordan et al. (2024), "Muon: An optimizer for hidden layers in neural networks", for the method and the
    coefficients; Liu et al. (2025), arXiv 2502.16982, for the scale.
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
        defaults = {"lr": lr, "weight_decay": weight_decay, "momentum": momentum, "betas": betas, "eps": eps}
        super().__init__(params, {**defaults, "orthogonal": False})
        for group in self.param_groups:
            for p in group["params"]:
                if group["orthogonal"] and p.ndim != 2:
                    raise ValueError(f"orthogonal groups must hold matrices; got a weight of shape {tuple(p.shape)}")

    @torch.no_grad()
    def step(self, closure: Callable[[], float] | None = None) -> float | None:  # type: ignore[override]
        """One step; weights without a gradient stay."""
        loss = None
        if closure is not None:
            with torch.enable_grad():
                loss = closure()
        for group in self.param_groups:
            lr = group["lr"]
            for p in group["params"]:
                if p.grad is None:
                    continue
                p.mul_(1 - lr * group["weight_decay"])
                if group["orthogonal"]:
                    p.sub_(orthogonal(self._momentum(p, p.grad, group)), alpha=lr * 0.2 * max(p.shape) ** 0.5)
                else:
                    self._adam(p, p.grad, group)
        return loss

    def _momentum(self, p: Tensor, grad: Tensor, group: dict[str, Any]) -> Tensor:
        state = self.state[p]
        if not state:
            state["momentum"] = torch.zeros_like(p)
        state["momentum"].lerp_(grad, 1 - group["momentum"])
        return grad.lerp(state["momentum"], group["momentum"])

    def _adam(self, p: Tensor, grad: Tensor, group: dict[str, Any]) -> None:
        state, (beta1, beta2) = self.state[p], group["betas"]
        if not state:
            # Named as in torch's Adam: there `step` is a tensor on the CPU.
            state["step"], state["exp_avg"], state["exp_avg_sq"] = (
                torch.zeros(()),
                torch.zeros_like(p),
                torch.zeros_like(p),
            )
        state["step"] += 1
        step = state["step"].item()
        state["exp_avg"].lerp_(grad, 1 - beta1)
        state["exp_avg_sq"].mul_(beta2).addcmul_(grad, grad, value=1 - beta2)
        root = (state["exp_avg_sq"] / (1 - beta2**step)).sqrt_().add_(group["eps"])
        p.addcdiv_(state["exp_avg"], root, value=-group["lr"] / (1 - beta1**step))


def orthogonal(matrix: Float[Tensor, "rows columns"], steps: int = 5) -> Float[Tensor, "rows columns"]:
    """Bring the singular values of a matrix near 1 (0.7 to 1.2), by a Newton-Schulz iteration.

    The coefficients make small singular values grow fastest and let the others waver around 1.
    """
    x = matrix.bfloat16() if matrix.is_cuda else matrix.float()
    wide = x.shape[0] <= x.shape[1]
    x = x if wide else x.T
    x = x / (x.norm() + 1e-7)
    for _ in range(steps):
        square = x @ x.T
        x = 3.4445 * x + (-4.7750 * square + 2.0315 * square @ square) @ x
    return (x if wide else x.T).to(matrix)


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
