"""The exponential moving average of the weights (torch-ema), stored by name in safetensors."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
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
        if not 0 <= decay < 1:
            raise ValueError(f"the decay of an average must be in [0, 1); got {decay}")
        self.parameters = {name: p for name, p in plain_names(model).items() if p.requires_grad}
        for name, p in self.parameters.items():
            if p.dtype != torch.float32:
                raise ValueError(f"averaged weights must be float32; {name} is {p.dtype}")
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

    def save(self, file: Path) -> None:
        """Write the average: one tensor for each weight, under its name in the network without wrappers of torch."""
        save_file(
            {name: shadow.contiguous() for name, shadow in self.tensors().items()}, file, metadata={"format": "pt"}
        )

    def load(self, file: Path) -> None:
        """Read an average of the same model.

        **Raises:** `ValueError` if the file does not contain one.
        """
        try:
            with safe_open(file, framework="pt") as content:
                saved = {name: content.get_tensor(name) for name in content.keys()}
        except (OSError, SafetensorError) as error:
            raise ValueError(f"{file} must hold an average of the weights; {error}") from error
        for name in sorted(saved.keys() ^ self.parameters.keys()):
            raise ValueError(f"{file} must average the same weights as the model; {name} is in one of them only")
        for (name, p), shadow in zip(self.parameters.items(), self.ema.shadow_params, strict=True):
            if saved[name].shape != p.shape:
                raise ValueError(
                    f"the average of {name} must have shape {tuple(p.shape)}; got {tuple(saved[name].shape)}"
                )
            shadow.copy_(saved[name])
