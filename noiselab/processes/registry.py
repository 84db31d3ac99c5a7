"""The kinds of schedules, mixings and processes that can be written as data, by name."""

import functools
import inspect
import sys
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from importlib.metadata import EntryPoint, entry_points
from typing import Any, Literal, TypeAlias, TypeVar

from ..mixing import Mixing
from ..process import NoiseProcess
from ..schedules import Schedule

Class = TypeVar("Class", bound=type)
Form: TypeAlias = Literal[
    "schedule",
    "mixing",
    "process",
    "weights",
    "number",
    "whole",
    "flag",
    "text",
    "domain",
    "reals",
    "ids",
    "token set",
    "value",
]
"""How an argument is written; "value" is any number, text, tensor, list, schedule, mixing or process."""

GROUPS = ("noiselab.processes", "noiselab.denoisers")
"""The groups of entry points by which an installed package offers its own classes."""
BASES: tuple[type, ...] = (Schedule, Mixing, NoiseProcess)
REGISTRABLE: list[type] = [*BASES]
"""The base classes of what can be registered; `noiselab.denoisers` adds its own, which is no part of a process."""


@dataclass(frozen=True)
class Kind:
    """A class whose objects are written as a name and arguments.

    **Arguments:**

    - `name`: the name in files.
    - `cls`: the class; objects of its subclasses are other kinds.
    - `forms`: how each argument is written, in order.
    - `make`: builds an object from the arguments; those with a default may be absent.
    - `arguments_of`: the arguments of an object.
    """

    name: str
    cls: type
    forms: Mapping[str, Form]
    make: Callable[..., Any]
    arguments_of: Callable[[Any], Mapping[str, Any]]

    @property
    def base(self) -> type:
        """`Schedule`, `Mixing`, `NoiseProcess` or `Denoiser`."""
        return next(base for base in REGISTRABLE if issubclass(self.cls, base))

    def optional(self) -> set[str]:
        """The arguments with a default."""
        parameters = inspect.signature(self.make).parameters
        return {name for name in self.forms if parameters[name].default is not inspect.Parameter.empty}


KINDS: dict[str, Kind] = {}
"""Name in files -> kind."""


def add_kind(
    name: str,
    cls: type,
    forms: Mapping[str, Form],
    make: Callable[..., Any] | None = None,
    arguments_of: Callable[[Any], Mapping[str, Any]] | None = None,
) -> None:
    """Add a kind of the library: by default it is built by its class, from attributes with the names of its arguments."""
    by_name = functools.partial(_attributes, tuple(forms))
    KINDS[name] = Kind(name, cls, forms, make or cls, arguments_of or by_name)


def registered(cls: Class | None = None, *, name: str | None = None) -> Any:
    """Class decorator: your own schedules, mixings, processes and denoisers are written to files by name and arguments.

    The arguments are those of `__init__`. Each is read from the attribute of the same name, and must be a number, text,
    tensor, schedule, mixing, process, mapping from mixings to weights, or list of these; parameters that the object has
    besides are written with it. The class must be registered before a saved model is loaded: import the module that
    defines it, or let your package name the class in its pyproject.toml:

        [project.entry-points."noiselab.processes"]
        Drift = "mypackage.noise:Drift"

    Then no decorator and no import are needed. A `Denoiser` is registered in the same way, to be saved in a pipeline (its
    group of entry points is "noiselab.denoisers"); its weights are stored as safetensors.

    **Arguments:**

    - `cls`: the class.
    - `name`: the name in files; by default that of the class.

    **Returns:** the class, unchanged.

    **Raises:** `ValueError` if the class is of another kind, its name is taken, or `__init__` takes arguments without names.

    **Example:**

    ```python
    import noiselab as nl
    from noiselab.processes import process_from, registered, settings_of

    @registered
    class Power(nl.Schedule):
        def __init__(self, power):
            super().__init__()
            self.power = power

        def forward(self, t):
            return t**self.power

    process = nl.Interpolation(1 - nl.t, {nl.Uniform(3): Power(2.5)})
    settings = settings_of(process)
    assert settings["noises"][0]["weight"] == {"kind": "Power", "power": 2.5}
    assert process_from(settings).weights[0].power == 2.5
    ```
    """
    if cls is None:
        return functools.partial(registered, name=name)
    kind = _own_kind(cls, cls.__name__ if name is None and isinstance(cls, type) else name)
    known = KINDS.get(kind.name)
    if known and (known.cls.__module__, known.cls.__qualname__) != (cls.__module__, cls.__qualname__):
        raise ValueError(
            f"a name must be that of one class; {kind.name!r} is taken by {known.cls.__module__}.{known.cls.__qualname__}: "
            "give another with registered(name=...)"
        )
    KINDS[kind.name] = kind
    return cls


def kind_named(name: object) -> Kind | None:
    """The kind with this name, registered or an entry point of an installed package; `None` if there is none.

    **Raises:** `ValueError` if the entry point cannot be loaded, or is not a class of processes, mixings or schedules.
    """
    if not isinstance(name, str):
        return None
    if name not in KINDS:
        for point in _points():
            if point.name == name:
                KINDS[name] = _own_kind(_loaded(point), name)
    return KINDS.get(name)


def kind_of(thing: object) -> Kind | None:
    """The kind of an object; `None` if its class is not registered."""
    own = type(thing)
    found = [kind for kind in KINDS.values() if kind.cls is own]
    if not found:
        places = (f"{own.__module__}:{own.__qualname__}", f"{own.__module__}.{own.__qualname__}")
        found = [kind for point in _points() if point.value in places and (kind := kind_named(point.name))]
        return next((kind for kind in found if kind.cls is own), None)
    sign = getattr(thing, "sign", getattr(thing, "name", None))  # several names of one class: operations, functions
    return next((kind for kind in found if kind.name == sign), found[0])


def names_of(base: type) -> list[str]:
    """The names of all kinds of schedules, mixings or processes, for messages."""
    own = {name for name, kind in KINDS.items() if kind.base is base}
    return sorted(own | {point.name for point in _points() if base is NoiseProcess and point.group == GROUPS[0]})


def _own_kind(cls: Any, name: Any) -> Kind:
    if not isinstance(cls, type) or not issubclass(cls, tuple(REGISTRABLE)):
        raise ValueError(
            f"only a class of schedules, mixings, noise processes or denoisers can be registered; got {cls!r}"
        )
    if not isinstance(name, str) or not name or not name.isprintable():
        raise ValueError(f"the name of a kind must be a text; got {name!r}")
    parameters = [] if cls.__init__ is object.__init__ else [*inspect.signature(cls.__init__).parameters.values()][1:]
    loose = [p.name for p in parameters if p.kind in (p.VAR_POSITIONAL, p.VAR_KEYWORD, p.POSITIONAL_ONLY)]
    if loose or any(p.name in ("kind", "parameters") for p in parameters):
        raise ValueError(
            f"the __init__ of {cls.__name__} must name its arguments, none of them `kind` or `parameters`, to be registered; "
            f"it takes {', '.join(map(str, parameters))}"
        )
    names = tuple(p.name for p in parameters)
    return Kind(name, cls, dict.fromkeys(names, "value"), cls, functools.partial(_attributes, names))


def _attributes(names: tuple[str, ...], thing: Any) -> dict[str, Any]:
    for name in names:
        if not hasattr(thing, name):
            raise ValueError(
                f"an object that is written must keep each argument of its __init__ in an attribute of the same name; "
                f"{type(thing).__name__} has no {name!r}"
            )
    return {name: getattr(thing, name) for name in names}


def _points() -> tuple[EntryPoint, ...]:
    return _points_on(tuple(sys.path))


@functools.cache
def _points_on(path: tuple[str, ...]) -> tuple[EntryPoint, ...]:
    """The entry points of the packages on this path; to find them, the metadata of every package is read."""
    return tuple(point for group in GROUPS for point in entry_points(group=group))


def _loaded(point: EntryPoint) -> Any:
    try:
        return point.load()
    except Exception as error:
        raise ValueError(
            f"the entry point {point.name!r} of the group {point.group!r} must be a class that can be imported; {point.value}: "
            f"{error}"
        ) from error
