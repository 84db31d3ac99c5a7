"""Inputs and outputs of networks."""

import inspect
from collections.abc import Callable
from typing import Any

from torch import Tensor

from ..typing import ElementwiseProbs


def logits_of(output: Any) -> ElementwiseProbs:
    """Return the logits of a network's output, which is a tensor or an object with the attribute `logits`.

    **Arguments:**

    - `output`: logits, or an object with the attribute `logits`.

    **Example:**

    ```python
    import torch
    from types import SimpleNamespace
    from noiselab.networks.outputs import logits_of

    logits = torch.randn(2, 5)
    assert logits_of(logits) is logits and logits_of(SimpleNamespace(logits=logits)) is logits
    ```
    """
    return output if isinstance(output, Tensor) else output.logits


def accepts(call: Callable[..., Any], name: str) -> bool:
    """Whether a function accepts a keyword argument: by its name, or because it accepts any."""
    parameters = inspect.signature(call).parameters
    return name in parameters or any(p.kind is inspect.Parameter.VAR_KEYWORD for p in parameters.values())
