"""Processes written as trees of names and numbers."""

import math
from collections.abc import Iterator, Mapping
from typing import Any

import torch
from torch import Tensor, nn

from ..mixing import Mixing
from ..process import NoiseProcess
from ..schedules import Constant, Function, Time
from ..schedules.functions import pi
from .registry import BASES, Form, kind_of

MAX_DEPTH = 48
"""The deepest nesting of a tree: beyond it, the evaluation of expressions may take for ever."""


class TreeWriter:
    """Writes schedules, mixings and processes as plain JSON: objects with `kind` and arguments, numbers, texts and lists."""

    def __init__(self) -> None:
        self.learned: dict[int, str] = {}  # objects with parameters -> place where they were written first

    def write(self, form: Form, value: Any, place: str, depth: int = 0) -> Any:
        """Write an argument."""
        if depth > MAX_DEPTH:
            raise ValueError(f"a process that is written must be nested at most {MAX_DEPTH} deep; {place} is deeper")
        if value is None:
            return None
        if form == "weights":
            pairs = enumerate(value.items())
            return [
                {
                    "mixing": self.write("mixing", mixing, f"{place}[{i}].mixing", depth + 1),
                    "weight": self.write("schedule", weight, f"{place}[{i}].weight", depth + 1),
                }
                for i, (mixing, weight) in pairs
            ]
        if form in ("schedule", "mixing", "process"):
            return self._object(value, place, depth)
        if form in ("reals", "ids"):
            return numbers_of(value.double() if form == "reals" else value, place)
        if form == "token set":
            return token_set(value)
        if form == "domain":
            return [float(end) for end in value]
        return self._value(value, place, depth) if form == "value" else self._plain(value, place)

    def _object(self, thing: Any, place: str, depth: int) -> Any:
        if type(thing) is Time:
            return "t"
        if type(thing) is Constant and thing.name in (None, pi.name):
            if thing.name is None:
                return thing.value
            if thing.value == pi.value:
                return "pi"
        if id(thing) in self.learned:  # shared parameters stay shared
            return {"same_as": self.learned[id(thing)]}
        kind = kind_of(thing)
        if kind is None:
            raise ValueError(refusal(thing, place))
        forms, optional = kind.forms, kind.optional()
        written: dict[str, Any] = {"kind": kind.name}
        for name, value in kind.arguments_of(thing).items():
            found = self.write(forms[name], value, f"{place}.{name}", depth + 1)
            if found is not None or name not in optional:
                written[name] = found
        own = {name: p for name, p in own_parameters(thing) if name not in forms or forms[name] == "value"}
        if own:
            written["parameters"] = {name: tensor(p.detach(), f"{place}.parameters.{name}") for name, p in own.items()}
        if any(True for _ in thing.parameters()):
            self.learned[id(thing)] = place
        return written

    def _value(self, value: Any, place: str, depth: int) -> Any:
        """Write an argument of a user's own class: objects of one key say what is not plain."""
        if isinstance(value, Tensor):
            return tensor(value.detach(), place)
        names: tuple[Form, ...] = ("schedule", "mixing", "process")
        for base, form in zip(BASES, names, strict=True):
            if isinstance(value, base):
                return {form: self.write(form, value, f"{place}.{form}", depth + 1)}
        if isinstance(value, Mapping) and value and all(isinstance(key, Mixing) for key in value):
            return {"weights": self.write("weights", value, f"{place}.weights", depth + 1)}
        if isinstance(value, list | tuple | nn.ModuleList):
            return [self.write("value", entry, f"{place}[{i}]", depth + 1) for i, entry in enumerate(value)]
        return self._plain(value, place)

    def _plain(self, value: Any, place: str) -> Any:
        if type(value) in (bool, int, str) or (type(value) is float and math.isfinite(value)):
            return value
        raise ValueError(
            f"{place} must be a finite number, text, tensor, schedule, mixing, process or a list of these to be written; "
            f"got {value!r}"
        )


def refusal(thing: Any, place: str) -> str:
    """Why an object cannot be written, and what to do."""
    own = type(thing).__name__
    if isinstance(thing, Function):
        return (
            f"{place} cannot be written as data: {thing.name} is a Python function. Write it as an expression in "
            "`noiselab.t` with the functions of noiselab.schedules, or as a Schedule with the decorator "
            "noiselab.processes.registered"
        )
    if not isinstance(thing, BASES):
        return f"{place} must be a schedule, mixing or process to be written; got {thing!r}"
    return (
        f"{place} cannot be written as data: the class {own} is not registered. Put the decorator "
        f"noiselab.processes.registered on it, or name it as an entry point of the group 'noiselab.processes' in the "
        "pyproject.toml of its package"
    )


def own_parameters(thing: nn.Module) -> Iterator[tuple[str, nn.Parameter]]:
    """The parameters of an object, except those of the schedules, mixings and processes in it."""
    inner = [name for name, module in thing.named_modules() if name and isinstance(module, BASES)]
    for name, parameter in thing.named_parameters():
        if not any(name.startswith(f"{prefix}.") for prefix in inner):
            yield name, parameter


def numbers_of(values: Tensor, place: str) -> Any:
    """Nested lists of numbers."""
    if not values.isfinite().all():
        raise ValueError(f"{place} must be finite to be written; it is not")
    return values.tolist()


def tensor(values: Tensor, place: str) -> dict[str, Any]:
    """A tensor of any dtype."""
    return {"tensor": str(values.dtype).removeprefix("torch."), "values": numbers_of(values.cpu(), place)}


def token_set(tokens: Tensor) -> Any:
    """A set of tokens: the size of the vocabulary if all belong to it, else the ids that do, or do not."""
    if tokens.all():
        return len(tokens)
    inside, outside = (rows.nonzero()[:, 0].tolist() for rows in (tokens, ~tokens))
    few = {"without": outside} if len(outside) <= len(inside) else {"only": inside}
    return {"vocab_size": len(tokens), **few}


def same(one: NoiseProcess, other: NoiseProcess) -> str | None:
    """What differs between two processes, the first of which may be on any device; `None` if nothing does."""
    if repr(one) != repr(other):
        return f"it prints as {other!r}"
    if one.vocab_size != other.vocab_size or tuple(one.domain) != tuple(other.domain):
        return f"it has {other.vocab_size} tokens and domain {other.domain}"
    before, after = one.state_dict(), other.state_dict()
    for name in {**before, **after}:
        if name not in before or name not in after or not _equal(before[name].cpu(), after[name]):
            return f"{name} differs"
    if len(list(one.parameters())) != len(list(other.parameters())):
        return "it shares its parameters in another way"
    if one.device.type == "cpu" and not torch.equal(*map(_probabilities, (one, other))):
        return "its probabilities differ"
    return None


@torch.no_grad()
def _probabilities(process: NoiseProcess) -> Tensor:
    """Those of a few tokens at a few times."""
    low, high = process.domain
    t = low + (high - low) * torch.tensor([[0.25], [0.5], [0.75]], dtype=torch.float64)
    x = torch.arange(process.vocab_size)[:: max(1, process.vocab_size // 8)].expand(len(t), -1)
    return torch.cat([process.probability(x, z, t) for z in (x, x.flip(1))])


def _equal(one: Tensor, other: Tensor) -> bool:
    return one.dtype == other.dtype and torch.equal(one, other)
