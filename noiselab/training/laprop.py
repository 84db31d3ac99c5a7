"""LaProp: Adam with the gradient divided by its size before it is averaged."""

from collections.abc import Callable, Iterable
from typing import Any

import torch
from torch import Tensor

from ..numerics import require_number


class LaProp(torch.optim.Optimizer):
    r"""LaProp with decoupled weight decay.

    $$v_s = \beta_2 v_{s-1} + (1 - \beta_2) g_s^2, \qquad
      m_s = \beta_1 m_{s-1} + (1 - \beta_1) \frac{g_s}{\sqrt{\hat v_s} + \epsilon}, \qquad
      w_s = w_{s-1} - \eta\, (\hat m_s + \lambda w_{s-1})$$

    Hats are averages without the bias of their start, as in Adam. In Adam the averaged gradient is divided, so that a small
    gradient after large ones makes a large step of old directions; here each gradient counts by its own size.

    **Arguments:**

    - `params`: parameters, or groups of them.
    - `lr`: the learning rate $\eta$; `betas`: $\beta_1$ and $\beta_2$, in [0, 1); `eps`: $\epsilon$; `weight_decay`: $\lambda$.

    **Raises:** `ValueError` for a number out of range.

    **Source:** Ziyin et al. (2020), "LaProp: Separating Momentum and Adaptivity in Adam", arXiv 2002.04839; the form is that of
    github.com/dvruette/gidd-easydel, gidd_easydel/optimizer/laprop.py (commit 6525e88).

    **Example:**

    ```python
    import torch
    from noiselab.training import LaProp

    layer = torch.nn.Linear(2, 1, bias=False)
    before = layer.weight.detach().clone()
    layer(torch.ones(1, 2)).sum().backward()
    LaProp(layer.parameters(), lr=0.1).step()
    assert torch.allclose(layer.weight, before - 0.1)  # the first step has the size of the learning rate
    ```
    """

    def __init__(
        self,
        params: Iterable[Any],
        lr: float = 1e-3,
        betas: tuple[float, float] = (0.9, 0.99),
        eps: float = 1e-8,
        weight_decay: float = 0.0,
    ) -> None:
        for name, value in (("lr", lr), ("eps", eps), ("weight_decay", weight_decay)):
            require_number(name, value, 0)
        for beta in betas:
            require_number("betas", beta, 0, 1, below=True)
        super().__init__(params, {"lr": lr, "betas": betas, "eps": eps, "weight_decay": weight_decay})

    @torch.no_grad()
    def step(self, closure: Callable[[], float] | None = None) -> float | None:  # type: ignore[override]
        """Take one step; weights without a gradient do not change."""
        loss = None
        if closure is not None:
            with torch.enable_grad():
                loss = closure()
        for group in self.param_groups:
            for p in group["params"]:
                if p.grad is not None:
                    self._update(p, p.grad, group)
        return loss

    def _update(self, p: Tensor, gradient: Tensor, group: dict[str, Any]) -> None:
        state, (first, second) = self.state[p], group["betas"]
        if not state:
            state["step"] = torch.zeros((), dtype=torch.float32)  # a tensor, as in torch's AdamW: checkpoints keep it
            state["exp_avg"], state["exp_avg_sq"] = torch.zeros_like(p), torch.zeros_like(p)
        state["step"] += 1
        step = float(state["step"])
        # The average without bias is an average with a falling share of the new value, 1 at the first step.
        state["exp_avg_sq"].lerp_(gradient.square(), (1 - second) / (1 - second**step))
        direction = gradient / (state["exp_avg_sq"].sqrt() + group["eps"])
        state["exp_avg"].lerp_(direction, (1 - first) / (1 - first**step))
        p.mul_(1 - group["lr"] * group["weight_decay"]).sub_(state["exp_avg"], alpha=group["lr"])
