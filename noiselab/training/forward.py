"""One pass of training as a module: a network with its loss inside, to be spread over processes as a whole.

The output projection belongs to the pass, so that a sharded one is gathered where the loss uses it, and logits need not
exist at once.
"""

from collections.abc import Callable
from typing import Any

from torch import Tensor, nn

from .losses import Batch, Loss
from .noise import Place


class LossModule(nn.Module):
    """A network and the losses that it is trained and evaluated with.

    **Arguments:**

    - `network`: the network.
    - `loss`, `evaluation`: the losses, which call the network.
    """

    def __init__(self, network: nn.Module, loss: Loss, evaluation: Loss):
        super().__init__()
        self.network, self._loss, self._evaluation = network, loss, evaluation

    def forward(self, batch: Batch, place: Place, tokens: Tensor | None, loss: Callable[..., Any] | None = None) -> Any:
        """The loss of a micro-batch: the given one, or by default, in evaluation mode, that of evaluation. Or what any other
        function returns in its place.
        """
        loss = loss or (self._loss if self.training else self._evaluation)
        return loss(self.network, batch, place=place, tokens=tokens)
