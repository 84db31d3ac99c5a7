"""Command lines of recipes: flags whose value is optional are described by the value alone."""

import dataclasses
import functools
import operator
from collections.abc import Sequence
from typing import Any, TypeVar, get_args

import tyro
from tyro.constructors import (
    ConstructorRegistry,
    PrimitiveConstructorSpec,
    PrimitiveTypeInfo,
    UnsupportedTypeAnnotationError,
)

Options = TypeVar("Options")
REGISTRY = ConstructorRegistry()
"""For tyro: `int | None` is shown as INT, where tyro shows {None}|INT; the word None is still understood."""


@REGISTRY.primitive_rule
def _optional(info: PrimitiveTypeInfo) -> PrimitiveConstructorSpec[Any] | UnsupportedTypeAnnotationError | None:
    parts = get_args(info.type)
    if type(None) not in parts:
        return None
    kept: Any = functools.reduce(operator.or_, [part for part in parts if part is not type(None)])
    found = ConstructorRegistry.get_primitive_spec(PrimitiveTypeInfo.make(kept, info.markers))
    if isinstance(found, UnsupportedTypeAnnotationError):
        return found
    value: PrimitiveConstructorSpec[Any] = found
    words: Any = value.nargs if isinstance(value.nargs, tuple) else (value.nargs,)
    count: Any = "*" if "*" in words else 1 if set(words) == {1} else tuple(sorted({1, *words}))
    return dataclasses.replace(
        value,
        nargs=count,
        instance_from_str=lambda words: None if words == ["None"] else value.instance_from_str(words),
        is_instance=lambda found: found is None or value.is_instance(found),
        str_from_instance=lambda found: ["None"] if found is None else value.str_from_instance(found),
        choices=None if value.choices is None else (*value.choices, "None"),
    )


def parse_flags(options: type[Options], arguments: Sequence[str] | None = None) -> Options:
    """Parse the options of a program without presets from a command line.

    **Arguments:**

    - `options`: a dataclass whose fields are the flags.
    - `arguments`: the arguments after the program's name; by default those of this process.

    **Returns:** the options. Unknown flags and values of the wrong type exit the program with a message.
    """
    return tyro.cli(options, args=arguments, registry=REGISTRY)
