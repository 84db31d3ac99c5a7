"""Trees of names and numbers read as processes: nothing in them is evaluated, imported or unpickled."""

import functools
import math
import reprlib
from collections.abc import Callable, Mapping
from typing import Any, NoReturn

import torch
from torch import Tensor
from torch.nn import Module

from .. import schedules
from ..mixing import Mixing
from ..process import NoiseProcess
from ..schedules import Constant, Schedule, t
from ..schedules.base import _Inverse
from ..schedules.functions import pi
from ..typing import TokenSet
from .families import FAMILIES, SIGNALS
from .registry import Form, Kind, kind_named, names_of
from .to_tree import MAX_DEPTH, own_parameters

MAX_NODES = 10_000
"""The largest number of schedules, mixings and processes in a tree."""
MAX_ENTRIES = 1 << 24
"""The largest number of entries of a tensor."""
MAX_TOKENS = 1 << 22
"""The largest vocabulary that a file may name: it costs memory before anything is checked."""
MAX_INVERSES = 2
"""The deepest nesting of inverse schedules, each of which evaluates its inside about forty times."""
DTYPES = {str(d).removeprefix("torch."): d for d in (torch.float64, torch.float32, torch.float16, torch.bfloat16)}
DTYPES |= {str(d).removeprefix("torch."): d for d in (torch.int64, torch.int32, torch.int16, torch.int8, torch.uint8)}
DTYPES["bool"] = torch.bool
SHORT = reprlib.Repr()
SHORT.maxstring = SHORT.maxother = 120


class TreeReader:
    """Reads what `TreeWriter` writes, and says where a tree is wrong."""

    def __init__(self) -> None:
        self.nodes = 0
        self.made: dict[str, tuple[Any, int]] = {}  # place -> object, and the number of nodes in it

    def read(self, form: Form, given: Any, place: str, depth: int = 0) -> Any:
        """Read an argument."""
        if depth > MAX_DEPTH:
            refuse(place, f"be nested at most {MAX_DEPTH} deep", "something deeper")
        readers: dict[str, Callable[[Any, str, int], Any]] = {
            "weights": self._weights,
            "schedule": self._schedule,
            "mixing": functools.partial(self._object, base=Mixing),
            "process": self._process,
            "value": self._value,
        }
        if form in readers:
            return readers[form](given, place, depth)
        return PLAIN[form](given, place)

    def _count(self, place: str, more: int = 1) -> None:
        self.nodes += more
        if self.nodes > MAX_NODES:
            refuse(place, f"be part of a tree of at most {MAX_NODES} parts", "more")

    def _schedule(self, given: Any, place: str, depth: int) -> Schedule:
        self._count(place)
        if isinstance(given, str) and given in ("t", "pi"):
            return t if given == "t" else pi
        if isinstance(given, int | float) and not isinstance(given, bool):
            return Constant(number(given, place))
        if not isinstance(given, Mapping):
            names = ", ".join(names_of(Schedule))
            refuse(place, f'be a schedule: a number, "t", "pi", or an object with `kind`, one of {names}', given)
        made: Schedule = self._object(given, place, depth, Schedule)
        return made

    def _process(self, given: Any, place: str, depth: int) -> NoiseProcess:
        if isinstance(given, Mapping) and "kind" not in given and "same_as" not in given:
            return self._family(given, place, depth)
        made: NoiseProcess = self._object(given, place, depth, NoiseProcess)
        return made

    def _object(self, given: Any, place: str, depth: int, base: type) -> Any:
        """An object with `kind` and arguments, or `same_as` and the place of an earlier one."""
        self._count(place)
        what = base.__name__ if base is not NoiseProcess else "process"
        if isinstance(given, Mapping) and set(given) == {"same_as"}:
            return self._earlier(given["same_as"], f"{place}.same_as", base)
        kind = kind_named(given.get("kind")) if isinstance(given, Mapping) else None
        if kind is None or kind.base is not base:
            came = given.get("kind", given) if isinstance(given, Mapping) else given
            where = f"{place}.kind" if isinstance(given, Mapping) and "kind" in given else place
            refuse(
                where,
                f"name a {what.lower()}, `kind` being one of {', '.join(names_of(base))}, or one of an installed package, or "
                "registered by noiselab.processes.registered",
                came,
            )
        before = self.nodes
        made = self.build(kind, given, place, depth)
        parameters = dict(own_parameters(made))
        for name, values in named(given.get("parameters", {}), f"{place}.parameters").items():
            self._fill(parameters, name, tensor(values, f"{place}.parameters.{name}"), f"{place}.parameters.{name}")
        self.made[place] = made, self.nodes - before + 1
        return made

    def build(self, kind: Kind, given: Mapping[str, Any], place: str, depth: int = 0) -> Any:
        """An object of a known kind from its arguments."""
        arguments = self._arguments(kind, given, place, depth)
        if kind.cls is _Inverse and max(map(inverses, arguments.values())) >= MAX_INVERSES:
            refuse(place, f"have at most {MAX_INVERSES} inverses in one another", "more")
        return built(kind.make, arguments, place)

    def _arguments(self, kind: Kind, given: Mapping[str, Any], place: str, depth: int) -> dict[str, Any]:
        unknown = sorted(map(str, set(given) - {*kind.forms, "kind", "parameters"}))
        if unknown:
            takes = ", ".join(kind.forms) or "no arguments"
            refuse(f"{place}.{unknown[0]}", f"be an argument of {kind.name!r}, which takes {takes}", "an unknown name")
        optional = kind.optional()
        missing = [name for name in kind.forms if name not in given and name not in optional]
        if missing:
            refuse(f"{place}.{missing[0]}", f"be given, as an argument of {kind.name!r}", "nothing")
        return {
            name: None
            if given[name] is None and (name in optional or form == "value")
            else self.read(form, given[name], f"{place}.{name}", depth + 1)
            for name, form in kind.forms.items()
            if name in given
        }

    def _earlier(self, where: Any, place: str, base: type) -> Any:
        found, nodes = self.made.get(where, (None, 0)) if isinstance(where, str) else (None, 0)
        if not isinstance(found, base):
            refuse(place, f"be the place of an earlier {base.__name__.lower()}, such as 'noise.signal'", where)
        self._count(place, nodes)
        return found

    def _fill(self, parameters: Mapping[str, Any], name: str, values: Tensor, place: str) -> None:
        own = parameters.get(name)
        if own is None or own.shape != values.shape or not values.is_floating_point():
            shapes = {key: list(value.shape) for key, value in parameters.items()}
            refuse(place, f"be real numbers of one of these parameters and shapes, {shapes}", list(values.shape))
        own.data = values

    def _weights(self, given: Any, place: str, depth: int) -> dict[Mixing, Schedule]:
        if not isinstance(given, list) or not given:
            refuse(place, "be a list of objects with `mixing` and `weight`", given)
        found = {}
        for i, entry in enumerate(given):
            if not isinstance(entry, Mapping) or set(entry) != {"mixing", "weight"}:
                refuse(f"{place}[{i}]", "be an object with `mixing` and `weight`", entry)
            mixing = self.read("mixing", entry["mixing"], f"{place}[{i}].mixing", depth + 1)
            if mixing in found:
                refuse(f"{place}[{i}].mixing", "be another mixing than those before", entry["mixing"])
            found[mixing] = self.read("schedule", entry["weight"], f"{place}[{i}].weight", depth + 1)
        return found

    def _value(self, given: Any, place: str, depth: int) -> Any:
        """An argument of a user's own class."""
        if isinstance(given, Mapping):
            if set(given) == {"tensor", "values"}:
                return tensor(given, place)
            form = next(iter(given), None)
            if len(given) == 1 and form in ("schedule", "mixing", "process", "weights"):
                return self.read(form, given[form], f"{place}.{form}", depth + 1)
            refuse(place, "have one key, schedule, mixing, process or weights, or be a tensor with its values", given)
        if isinstance(given, list):
            self._count(place, len(given))
            return [self.read("value", entry, f"{place}[{i}]", depth + 1) for i, entry in enumerate(given)]
        if given is None or isinstance(given, bool | str):
            return given
        return given if isinstance(given, int) else number(given, place)

    def _family(self, given: Mapping[str, Any], place: str, depth: int) -> NoiseProcess:
        """A process by its family and the arguments of its function."""
        arguments = dict(given)
        family = arguments.pop("family", None)
        if not isinstance(family, str) or family not in FAMILIES:
            refuse(
                f"{place}.family",
                f"be one of {sorted(FAMILIES)}, or registered in noiselab.processes.FAMILIES, unless `kind` names a process",
                family,
            )
        if "signal" in arguments:
            arguments["signal"] = self._signal(arguments["signal"], f"{place}.signal", depth)
        size = arguments.get("vocab_size")
        if isinstance(size, int) and size > MAX_TOKENS:
            whole(size, f"{place}.vocab_size")
        try:
            if "frequencies" in arguments:
                arguments["frequencies"] = torch.tensor(arguments["frequencies"], dtype=torch.float64)
            if "support" in arguments:
                arguments["support"] = torch.tensor(arguments["support"], dtype=torch.bool)
            return FAMILIES[family](**arguments)
        except (TypeError, RuntimeError, OverflowError) as error:
            raise ValueError(f"the settings of {family!r} must be its arguments; {error}") from error
        except ValueError as error:
            raise ValueError(f"{place}, of the family {family!r}: {error}") from error

    def _signal(self, given: Any, place: str, depth: int) -> Schedule:
        """A schedule by the name of its function, or as a tree."""
        arguments = dict(given) if isinstance(given, Mapping) else {"name": given}
        if "kind" in arguments or given in ("t", "pi"):
            return self._schedule(given, place, depth + 1)
        name = arguments.pop("name", None)
        if not isinstance(name, str) or name not in SIGNALS:
            refuse(place, f"be one of {SIGNALS}, with arguments or without, or an expression with `kind`", given)
        try:
            made: Schedule = getattr(schedules, name)(**arguments)
        except TypeError as error:
            raise ValueError(f"{place}: the arguments of {name!r} must be valid; {error}") from error
        return made


def inverses(schedule: Module) -> int:
    """How deep inverses are nested in a schedule."""
    return isinstance(schedule, _Inverse) + max(map(inverses, schedule.children()), default=0)


def refuse(place: str, what: str, came: object) -> NoReturn:
    """Raise `ValueError`: where, what must hold, and what came, shortened."""
    raise ValueError(f"{place} must {what}; got {SHORT.repr(came)}")


def built(make: Callable[..., Any], arguments: Mapping[str, Any], place: str) -> Any:
    """What the class makes of its arguments; its errors name the place."""
    try:
        return make(**arguments)
    except Exception as error:  # a user's class may raise anything
        raise ValueError(f"{place}: {error}") from error


def named(given: Any, place: str) -> Mapping[str, Any]:
    """An object of any names."""
    if not isinstance(given, Mapping):
        refuse(place, "be an object", given)
    return given


def number(given: Any, place: str) -> float:
    """A finite number."""
    if not isinstance(given, int | float) or isinstance(given, bool):
        refuse(place, "be a finite number", given)
    try:
        value = float(given)
    except OverflowError:
        value = math.inf
    if not math.isfinite(value):
        refuse(place, "be a finite number", value)
    return value


def whole(given: Any, place: str) -> int:
    """A whole number: a token, or the size of something."""
    if not isinstance(given, int) or isinstance(given, bool):
        refuse(place, "be a whole number", given)
    if not 0 <= given <= MAX_TOKENS:
        refuse(place, f"lie in [0, {MAX_TOKENS}]", given if abs(given) < 1 << 63 else "more")
    return given


def flag(given: Any, place: str) -> bool:
    """True or false."""
    if not isinstance(given, bool):
        refuse(place, "be true or false", given)
    return given


def text(given: Any, place: str) -> str:
    """A text."""
    if not isinstance(given, str) or len(given) > 100:
        refuse(place, "be a text of at most 100 characters", given)
    return given


def domain(given: Any, place: str) -> tuple[float, float]:
    """Two times."""
    if not isinstance(given, list) or len(given) != 2:
        refuse(place, "be two times", given)
    return number(given[0], f"{place}[0]"), number(given[1], f"{place}[1]")


def reals(given: Any, place: str) -> Tensor:
    """Lists of finite numbers, float64."""
    return tensor({"tensor": "float64", "values": given}, place)


def ids(given: Any, place: str) -> Tensor:
    """Lists of whole numbers, int64."""
    return tensor({"tensor": "int64", "values": given}, place)


def tensor(given: Any, place: str) -> Tensor:
    """A tensor by its dtype and nested lists of numbers."""
    if not isinstance(given, Mapping) or set(given) != {"tensor", "values"}:
        refuse(place, f"be an object with `tensor`, one of {', '.join(DTYPES)}, and `values`", given)
    dtype = DTYPES.get(given["tensor"]) if isinstance(given["tensor"], str) else None
    if dtype is None:
        refuse(f"{place}.tensor", f"be one of {', '.join(DTYPES)}", given["tensor"])
    kinds = (bool,) if dtype == torch.bool else (int, float) if dtype.is_floating_point else (int,)
    if _entries(given["values"], kinds, place) > MAX_ENTRIES:
        refuse(place, f"have at most {MAX_ENTRIES} entries", "more")
    try:
        values = torch.tensor(given["values"], dtype=torch.float64 if dtype.is_floating_point else dtype)
    except (ValueError, TypeError, RuntimeError, OverflowError) as error:
        raise ValueError(f"{place} must be numbers of {given['tensor']} in lists of one length; {error}") from error
    if not values.isfinite().all():
        refuse(place, "be finite numbers", values[~values.isfinite()][0].item())
    return values.to(dtype)


def _entries(given: Any, kinds: tuple[type, ...], place: str, depth: int = 0) -> int:
    """The number of entries of nested lists, which must be of these types."""
    if isinstance(given, list) and depth < 8:
        plain = set(map(type, given)) <= set(kinds)
        inside = enumerate(given)
        return len(given) if plain else sum(_entries(entry, kinds, f"{place}[{i}]", depth + 1) for i, entry in inside)
    if type(given) not in kinds:
        allowed = "true or false" if bool in kinds else "numbers" if float in kinds else "whole numbers"
        refuse(place, f"be {allowed}, in lists at most 8 deep", given)
    return 1


def token_set(given: Any, place: str) -> TokenSet:
    """A set of tokens, as `noiselab.processes.to_tree.token_set` writes it."""
    few = next(iter(set(given) - {"vocab_size"}), None) if isinstance(given, Mapping) else None
    if few in ("only", "without") and len(given) == 2:
        size = whole(given.get("vocab_size"), f"{place}.vocab_size")
        listed = ids(given[few], f"{place}.{few}")
        if size < 1 or listed.dim() != 1 or ((listed < 0) | (listed >= size)).any():
            refuse(f"{place}.{few}", f"be a list of tokens in [0, {size})", given[few])
        marked = torch.zeros(size, dtype=torch.bool).index_fill(0, listed, True)
        return marked if few == "only" else ~marked
    if isinstance(given, int) and not isinstance(given, bool) and 1 <= given <= MAX_TOKENS:
        return torch.ones(given, dtype=torch.bool)
    refuse(
        place, "be the size of the vocabulary, or an object with `vocab_size` and `only` or `without`, tokens", given
    )


PLAIN: dict[str, Callable[[Any, str], Any]] = {
    "number": number,
    "whole": whole,
    "flag": flag,
    "text": text,
    "domain": domain,
    "reals": reals,
    "ids": ids,
    "token set": token_set,
}
