"""The linear map from hidden states to logits, with which a loss is fused so that the logits are never stored."""

import math
from typing import Any, NamedTuple

from jaxtyping import Float
from torch import Tensor, nn


class LinearProjection(NamedTuple):
    r"""Logits as a product: $logits = hidden\, weight^T + bias$.

    **Arguments:**

    - `hidden`: the states that enter the product.
    - `weight`, `bias`: [at least the number of tokens, width], and a number for each row, or `None`. Rows after those of
      the tokens, of a vocabulary that is rounded up, are not used.
    """

    hidden: Float[Tensor, "*rows width"]
    weight: Float[Tensor, "outputs width"]
    bias: Float[Tensor, " outputs"] | None


def linear_projection(layer: object, hidden: Tensor) -> LinearProjection | None:
    """The product that a layer computes, if it is an `nn.Linear` without hooks whose weights are whole on this device.

    It is `None` for a layer with adapters, quantized or sharded weights, or a `forward` of its own, which must be called.
    """
    if not isinstance(layer, nn.Linear) or type(layer).forward is not nn.Linear.forward:
        return None
    hooks = (layer._forward_hooks, layer._forward_pre_hooks, layer._backward_hooks, layer._backward_pre_hooks)
    whole = all(type(weight) in (nn.Parameter, Tensor, type(None)) for weight in (layer.weight, layer.bias))
    return LinearProjection(hidden, layer.weight, layer.bias) if whole and not any(hooks) else None


def splits_projection(model: Any) -> bool:
    """Whether the methods `hidden`, `project` and `linear_projection` make up its `forward`, with no hook in it."""
    here, *others = (_owner(type(model), name) for name in ("linear_projection", "project", "forward"))
    if not hasattr(model, "hidden") or here == math.inf or here > min(others):
        return False
    return "forward" not in vars(model) and not model._forward_hooks and not model._forward_pre_hooks


def _owner(kind: type, name: str) -> float | int:
    """How far up the classes of a model a method is defined; infinitely far if it is not."""
    return next((depth for depth, parent in enumerate(kind.__mro__) if name in vars(parent)), math.inf)
