"""The arguments of a pipeline's methods, checked where they enter."""

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from ..numerics import require_count

FLAGS = ("stop", "as_released", "early_stopping", "show_progress", "merge")
MANY = 2**31 - 1
"""The largest count, and the largest token id."""


def arguments_of(given: Mapping[str, Any]) -> dict[str, Any]:
    """The arguments of a method, from its local names, checked as far as methods have them in common.

    **Raises:** `ValueError` for a flag that is no Bool, a `dtype` that is none of floating-point numbers, a `generator` that is
    text, a `callback` that cannot be called, or a count that is too large.
    """
    found = {name: value for name, value in given.items() if name not in ("self", "__class__")}
    for name in FLAGS:
        if name in found and not isinstance(found[name], bool):
            raise ValueError(f"{name} must be True or False; got {found[name]!r}")
    dtype, generator, callback = (found.get(name) for name in ("dtype", "generator", "callback"))
    if dtype is not None and not (isinstance(dtype, torch.dtype) and dtype.is_floating_point):
        raise ValueError(f"dtype must be a torch.dtype of floating-point numbers, or None; got {dtype!r}")
    if isinstance(generator, str | bytes):
        raise ValueError(f"generator must be a torch.Generator, or one for each text; got {generator!r}")
    if callback is not None and not callable(callback):
        raise ValueError(f"callback must be a function of a GenerationState; got {callback!r}")
    counts = ["num_samples", "early_stopping_patience"]
    if found.get("num_inference_steps") is not None:  # None means the default
        counts.append("num_inference_steps")
    for name in counts:
        if name in found and require_count(name, found[name]) > MANY:
            raise ValueError(f"{name} must be at most {MANY}; got {found[name]}")
    return found


def token_rows(tokens: Any) -> list[list[int]]:
    """Rows of token ids.

    **Raises:** `ValueError` unless they are a tensor of integers [batch, length], or lists of integers that are not negative.
    """
    if isinstance(tokens, Tensor):
        if tokens.dim() != 2 or tokens.is_floating_point() or tokens.dtype == torch.bool:
            raise ValueError(
                f"tokens must be integers [batch, length]; got {tokens.dtype} of shape {list(tokens.shape)}"
            )
        tokens = tokens.tolist()
    if not _is_list(tokens) or not all(_is_list(row) for row in tokens):
        raise ValueError(f"tokens must be a list of token ids for each text; got {tokens!r}")
    for row, ids in enumerate(tokens):
        for i, one in enumerate(ids):
            if type(one) is not int or not 0 <= one <= MANY:
                require_count(f"token {i} of text {row}", one, 0, MANY)
    return [[int(one) for one in ids] for ids in tokens]


def _is_list(value: Any) -> bool:
    return isinstance(value, Sequence) and not isinstance(value, str | bytes)
