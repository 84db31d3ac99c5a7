"""What networks return."""

from typing import Any

from torch import Tensor

from ..typing import ElementwiseProbs


def logits_of(output: Any) -> ElementwiseProbs:
    """The logits that a network returns, as they are or among other things as models of transformers do.

    **Arguments:**

    - `output`: logits, or something that has them as `logits`.

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
