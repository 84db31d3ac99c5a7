"""The type checker of the test run: beartype, with each argument checked once.

jaxtyping calls a checker twice for each call of a function: for its arguments, and after it has returned for its
arguments and its value. Sizes of axes are remembered in between, so that the second time the value alone is enough.
"""

from collections.abc import Callable
from typing import Any

from beartype import BeartypeConf, BeartypeStrategy, beartype

CONF = BeartypeConf(strategy=BeartypeStrategy.On)


def check(function: Callable) -> Callable:
    """What jaxtyping's import hook applies to its copies of a function."""
    hints = function.__annotations__
    if hints.get("return", Any) is not Any:
        function.__annotations__ = {"return": hints["return"]}
    return beartype(conf=CONF)(function)
