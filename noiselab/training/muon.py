"""One optimizer out of torch's two: Muon for the matrices of a network's blocks, AdamW for everything else.

`torch.optim.Muon` takes matrices alone, and a trainer wants one optimizer that a schedule drives and a checkpoint holds.
"""

from collections.abc import Callable, Iterable
from typing import Any

import torch
from torch import nn

from ..denoisers.dit import ZeroLinear


class MuonWithAdamW(torch.optim.Optimizer):
    """`torch.optim.Muon` for groups with `orthogonal=True`, `torch.optim.AdamW` for the others.

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
            muon = torch.optim.Muon(
                matrices, lr, weight_decay=weight_decay, momentum=momentum, adjust_lr_fn="match_rms_adamw"
            )
            self.parts.append(muon)
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
