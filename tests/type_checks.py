"""The type checks of the test run: those of jaxtyping with beartype, each call's arguments once, each function's first
calls in every test.

jaxtyping calls a checker twice for each call of a function: for its arguments, and after it has returned for its
arguments and its value. Sizes of axes are remembered in between, so that the second time the value alone is enough.
Loops call a function thousands of times with the same shapes, hence the limit: unlimited checks were half of the time
of all tests.
"""

import functools
from collections.abc import Callable
from types import FunctionType
from typing import Any

import jaxtyping
from beartype import BeartypeConf, BeartypeStrategy, beartype

CALLS = 16
"""The number of calls of a function that are checked in a test."""
CONF = BeartypeConf(strategy=BeartypeStrategy.On)

_jaxtyped = jaxtyping.jaxtyped
_test = 0


def check(function: Callable) -> Callable:
    """What jaxtyping's import hook applies to its copies of a function."""
    hints = function.__annotations__
    if hints.get("return", Any) is not Any:
        function.__annotations__ = {"return": hints["return"]}
    return beartype(conf=CONF)(function)


def next_test() -> None:
    """Check the first calls of each function again."""
    global _test
    _test += 1


def first_calls(*, typechecker: Any) -> Callable:
    """`jaxtyping.jaxtyped`, which the import hook puts on every function, for the first calls in each test."""

    def decorate(function: Any) -> Any:
        checked = _jaxtyped(typechecker=typechecker)(function)
        if not isinstance(function, FunctionType):
            return checked
        test, calls = -1, 0

        @functools.wraps(checked)
        def limited(*args: Any, **kwargs: Any) -> Any:
            __tracebackhide__ = True
            nonlocal test, calls
            if jaxtyping.config.jaxtyping_disable:
                return function(*args, **kwargs)
            if test != _test:
                test, calls = _test, 0
            if calls >= CALLS:
                return function(*args, **kwargs)
            calls += 1
            return checked(*args, **kwargs)

        limited.__wrapped__ = function  # type: ignore[attr-defined]
        return limited

    return decorate


def install(modules: list[str]) -> None:
    """Check these modules when they are imported."""
    jaxtyping.jaxtyped = first_calls
    jaxtyping.install_import_hook(modules, f"{__name__}.check")
