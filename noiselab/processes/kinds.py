"""The library's own schedules, mixings and processes as data: the name and arguments of each."""

import torch
from torch import Tensor, nn

from ..mixing import Absorbing, Blend, Uniform, Unigram
from ..process import ChangeOfTime, Interpolation
from ..schedules import Constant, LearnedConstant, MonotoneNetwork, Schedule
from ..schedules.base import _OPERATIONS, _ByClock, _Inverse, _Negative, _Operation
from ..schedules.functions import _FUNCTIONS, _Elementary
from ..typing import TokenProbs, TokenSet
from .absorbing_hybrid import AbsorbingHybrid
from .coarse import Coarse
from .discrete import Steps
from .neighbours import Neighbours
from .registry import add_kind
from .token_rates import TokenRates

RENORMALISED = 1e-12
"""The relative difference, from rounding, within which stored numbers replace those that a constructor has normalised."""
MAX_WIDTH = 1 << 12
"""The largest learned schedule that a file may name."""


def _operation(sign: str) -> None:
    def make(left: Schedule, right: Schedule) -> _Operation:
        return _Operation(left, right, sign)

    add_kind(sign, _Operation, {"left": "schedule", "right": "schedule"}, make)


def _function(name: str) -> None:
    def make(inner: Schedule) -> _Elementary:
        return _Elementary(name, inner)

    add_kind(name, _Elementary, {"inner": "schedule"}, make)


def _monotone(width: int, rising: bool = False) -> MonotoneNetwork:
    if width > MAX_WIDTH:
        raise ValueError(f"width must be at most {MAX_WIDTH}; got {width}")
    return MonotoneNetwork(width, rising=rising)


def _exactly(buffer: Tensor, stored: Tensor) -> Tensor:
    """The stored numbers if they differ from the constructor's by rounding only: normalising twice may change a digit."""
    same = stored.shape == buffer.shape and torch.allclose(stored, buffer, rtol=RENORMALISED, atol=0)
    return stored if same else buffer


def _unigram(row: TokenProbs, support: TokenSet | None = None) -> Unigram:
    made = Unigram(row, support=support)
    made.set_row(_exactly(made.row, row))
    return made


def _neighbours(index: Tensor, weight: Tensor, mask_id: int, hops: Schedule, unmasked: Schedule) -> Neighbours:
    made = Neighbours(index, weight, mask_id=mask_id, hops=hops, unmasked=unmasked)
    made.weight = _exactly(made.weight, weight)
    return made


def _token_rates(log_powers: Tensor, mask_id: int, classes: Tensor, learned: bool = False) -> TokenRates:
    made = TokenRates(log_powers.exp(), mask_id=mask_id, classes=classes, learned=learned)
    made.log_powers.data = log_powers  # not the logarithm of its exponential
    return made


for sign in _OPERATIONS:
    _operation(sign)
for function in _FUNCTIONS:
    _function(function)
add_kind("negative", _Negative, {"inner": "schedule"})
add_kind("inverse", _Inverse, {"inner": "schedule", "value": "schedule"})
add_kind("change of time", _ByClock, {"inner": "schedule", "clock": "schedule"})
add_kind("Constant", Constant, {"value": "number", "name": "text"})
add_kind("Steps", Steps, {"values": "reals"})
add_kind(
    "LearnedConstant",
    LearnedConstant,
    {"value": "number"},
    arguments_of=lambda own: {"value": own.log_value.exp().item()},
)
add_kind(
    "MonotoneNetwork",
    MonotoneNetwork,
    {"width": "whole", "rising": "flag"},
    _monotone,
    arguments_of=lambda own: {"width": len(own.middles), "rising": own.rising},
)

add_kind("Absorbing", Absorbing, {"token": "whole", "vocab_size": "whole"})
add_kind("Uniform", Uniform, {"tokens": "token set"}, arguments_of=lambda own: {"tokens": own.on})
add_kind("Unigram", Unigram, {"row": "reals", "support": "token set"}, _unigram)
add_kind(
    "Blend",
    Blend,
    {"parts": "weights", "support": "token set"},
    arguments_of=lambda own: {"parts": dict(zip(own.parts, own.weights, strict=True)), "support": own.support},
)

add_kind(
    "Interpolation",
    Interpolation,
    {"signal": "schedule", "noises": "weights", "support": "token set", "domain": "domain"},
    arguments_of=lambda own: {
        "signal": own.signal,
        "noises": dict(zip(own.mixings, own.weights, strict=True)),
        "support": own.support,
        "domain": own.domain,
    },
)
add_kind("ChangeOfTime", ChangeOfTime, {"process": "process", "clock": "schedule"})
add_kind(
    "AbsorbingHybrid",
    AbsorbingHybrid,
    {"vocab_size": "whole", "mask_id": "whole", "kept": "schedule", "unmasked": "schedule"},
)
add_kind("Coarse", Coarse, {"parent": "ids", "mask_id": "whole", "fine": "schedule", "unmasked": "schedule"})
add_kind(
    "TokenRates",
    TokenRates,
    {"log_powers": "reals", "mask_id": "whole", "classes": "ids", "learned": "flag"},
    _token_rates,
    lambda own: {
        **{name: getattr(own, name) for name in ("log_powers", "mask_id", "classes")},
        "learned": isinstance(own.log_powers, nn.Parameter),
    },
)
add_kind(
    "Neighbours",
    Neighbours,
    {"index": "ids", "weight": "reals", "mask_id": "whole", "hops": "schedule", "unmasked": "schedule"},
    _neighbours,
)
