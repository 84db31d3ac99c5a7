"""Attention within documents: networks called with rows that hold several documents, each of which sees itself alone."""

import copy
import weakref
from typing import Any

import torch
from torch import Tensor, nn

from ..data.rows import Batch, document_attention, document_positions, same_document
from ..denoisers import Denoiser, attending_to
from ..denoisers.attended import real_pairs
from ..denoisers.modes import device_of, evaluating
from ..networks.attention_checks import WINDOWS
from ..networks.huggingface import TransformersDenoiser
from ..networks.opening import four_axes
from ..networks.outputs import logits_of
from ..networks.wrapped import innermost
from ..parametrization import Prediction

_CHECKED: "weakref.WeakSet[nn.Module]" = weakref.WeakSet()
"""Networks that are known to keep attention within documents."""


def separates(dataset: Any) -> bool:
    """Whether the rows of a data set say which document each token belongs to."""
    if hasattr(dataset, "separate_at"):
        return dataset.separate_at is not None
    return hasattr(dataset, "__getitem__") and hasattr(dataset, "__len__") and "documents" in dataset[0]


def check_documents(model: nn.Module, causal: bool) -> None:
    """Check that a network can keep attention within documents.

    **Raises:** `ValueError` if not.
    """
    if causal:
        return check_causal_documents(model)
    tokens = torch.zeros(1, 1, dtype=torch.long)
    with attending_to(as_denoiser(model), **document_attention(tokens)):
        pass


def as_denoiser(model: nn.Module, predicts: Prediction = "leave_one_out") -> nn.Module:
    """A network that is called like `DiT` as a denoiser, which can be given a mask of pairs and positions.

    **Raises:** `ValueError` if it does not honour both.
    """
    inner = innermost(model)
    if isinstance(inner, Denoiser):
        return model
    if inner not in _CHECKED:
        _check_network(model)
    denoiser = TransformersDenoiser(model, predicts)
    denoiser.attends = True
    return denoiser


@torch.compiler.assume_constant_result  # a compiler that traces a loss cannot trace the check
def _check_network(model: nn.Module) -> None:
    TransformersDenoiser(model).require_attention()
    _CHECKED.add(innermost(model))


def causal_arguments(model: nn.Module, batch: Batch) -> dict[str, Tensor]:
    """What a causal model is called with beside the tokens: its own mask, or one that keeps attention within documents.

    **Raises:** `ValueError` if it cannot take such a mask.
    """
    if "documents" not in batch:
        return {"attention_mask": batch["attention_mask"]} if "attention_mask" in batch else {}
    config, length = getattr(innermost(model), "config", None), batch["documents"].shape[1]
    kinds = getattr(config, "layer_types", None) or ["sliding_attention"]
    window = min((size for name in WINDOWS if isinstance(size := getattr(config, name, None), int)), default=length)
    if window < length and "sliding_attention" in kinds:
        raise ValueError(
            f"documents need a network whose tokens attend at any distance, because a mask replaces a window; "
            f"{type(innermost(model)).__name__} has a window of {window}, and rows have {length} tokens"
        )
    check_causal_documents(model)
    return _causal(model, batch["documents"], batch.get("attention_mask"))


def _causal(model: nn.Module, documents: Tensor, real: Tensor | None) -> dict[str, Tensor]:
    pairs = real_pairs(same_document(documents).tril(), None if real is None else real.bool())
    return {"attention_mask": four_axes(innermost(model), pairs), "position_ids": document_positions(documents)}


@torch.no_grad()
def check_causal_documents(model: nn.Module) -> None:
    """Check, once, that two documents in a row have the logits that each has alone.

    **Raises:** `ValueError` if not, or if the network takes no mask of pairs or no positions.
    """
    inner = innermost(model)
    if inner in _CHECKED:
        return
    name = type(inner).__name__
    try:
        with evaluating(inner):
            alone = _differences(inner)
            if alone is None:  # as built: zero layers hide what is attended to
                alone = _differences(_random(inner))
    except Exception as error:  # a network that cannot take such a mask fails in any way
        raise ValueError(
            f"documents need a network that is called with input_ids, an attention_mask of four axes and position_ids; {name} "
            f"fails with {type(error).__name__}: {error}"
        ) from error
    if alone is not None and alone > 1e-4:
        raise ValueError(
            f"documents need a network whose tokens attend by the given mask and positions; in {name} the logits of two "
            "documents in a row differ from those of each alone"
        )
    _CHECKED.add(inner)


def _differences(model: Any) -> float | None:
    """How far logits of two documents in a row are from those of each alone, relative to them; `None` if all are equal."""
    device = device_of(model)
    tokens = torch.tensor([[0, 1, 1, 0, 0, 1, 0]], device=device)
    documents = torch.tensor([[0, 0, 0, 1, 1, 1, 1]], device=device)
    packed = logits_of(model(input_ids=tokens, **_causal(model, documents, None))).float()
    alone = torch.cat([logits_of(model(input_ids=tokens[:, part])) for part in (slice(3), slice(3, None))], 1).float()
    if torch.equal(alone[:, :-1], alone[:, 1:]):
        return None
    return float((packed - alone).abs().max() / alone.abs().max())


def _random(model: nn.Module) -> nn.Module:
    """A copy with random weights."""
    made = copy.deepcopy(model)
    random = torch.Generator(device_of(made)).manual_seed(0)
    for weight in made.parameters():
        weight.copy_(0.3 * torch.randn(weight.shape, generator=random, device=weight.device))
    return made
