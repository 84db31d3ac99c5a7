"""The exponential moving average of the weights (torch-ema)."""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager

import torch
from torch import Tensor, nn
from torch_ema import ExponentialMovingAverage

from ..networks.wrapped import plain_names


class Average:
    """An exponential moving average of a model's trainable weights: average <- decay * average + (1 - decay) * weight.

    The decay is constant (there is no warm-up). Buffers are not averaged.

    **Arguments:**

    - `model`: the model, which may be compiled; its weights must be float32, because with a decay of .9999 a bfloat16
      average would not change.
    - `decay`: the decay per step, in [0, 1).

    **Raises:** `ValueError` if the weights are not float32 or the decay is out of range.

    **Example:**

    ```python
    from torch import Tensor, nn
    from noiselab.training import Average

    model = nn.Linear(2, 2)
    average = Average(model, decay=0.99)
    average.update()  # after each optimizer step
    with average.applied():
        print(model.weight)  # the averaged weights
    ```
    """

    def __init__(self, model: nn.Module, decay: float) -> None:
        self.parameters = {name: p for name, p in plain_names(model).items() if p.requires_grad}
        check_averaged(self.parameters, decay)
        self.decay = decay
        # With use_num_updates the decay would be min(decay, (1 + n) / (10 + n)), which is not the decay given here.
        self.ema = ExponentialMovingAverage(self.parameters.values(), decay=decay, use_num_updates=False)
        self._applied = False

    def update(self) -> None:
        """Update the average with the current weights.

        **Raises:** `ValueError` inside `applied`, where the current weights are the average itself.
        """
        if self._applied:
            raise ValueError(
                "an average must be updated with trained weights; inside applied() the model has the average"
            )
        self.ema.update()

    @contextmanager
    def applied(self) -> Iterator[None]:
        """Context manager: inside, the model has the averaged weights; afterwards the trained ones, bit for bit.

        It may be entered again inside.
        """
        if self._applied:
            yield
            return
        self._applied = True
        try:
            with self.ema.average_parameters():
                yield
        finally:
            self._applied = False
            self.ema.collected_params = None  # otherwise torch-ema keeps this third copy of the weights

    def tensors(self) -> dict[str, Tensor]:
        """The average by the names of the weights: the tensors themselves, sharded as the weights are."""
        return dict(zip(self.parameters, self.ema.shadow_params, strict=True))


def check_averaged(parameters: Mapping[str, Tensor], decay: float) -> None:
    """Check that weights can be averaged.

    **Raises:** `ValueError` if a trainable one is not float32, or the decay is out of range.
    """
    if not 0 <= decay < 1:
        raise ValueError(f"the decay of an average must be in [0, 1); got {decay}")
    for name, p in parameters.items():
        if p.requires_grad and p.dtype != torch.float32:
            raise ValueError(f"averaged weights must be float32; {name} is {p.dtype}")
