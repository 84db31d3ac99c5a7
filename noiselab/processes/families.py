"""Processes by name, from JSON settings."""

from collections.abc import Callable, Mapping
from typing import Any, TypeVar

import torch

from .. import schedules
from ..process import NoiseProcess
from ..schedules import Schedule

Make = TypeVar("Make", bound=Callable[..., NoiseProcess])
FAMILIES: dict[str, Callable[..., NoiseProcess]] = {}
"""Name -> function that builds the process from keyword arguments. Register your own so that models trained on it can
be loaded.
"""
SIGNALS = ("cosine", "cosine_md4", "cosine_squared", "geometric", "linear", "log_linear", "polynomial")


def family(make: Make) -> Make:
    """Decorator that registers a function that builds a process from JSON arguments, so that its models can be loaded."""
    FAMILIES[make.__name__] = make
    return make


def process_from(settings: Mapping[str, Any]) -> NoiseProcess:
    """Build a process from settings: `family`, a name in `FAMILIES`, and the arguments of its function.

    Arguments are JSON: numbers, strings, lists. A `signal` is the name of a schedule, or a mapping of `name` and its arguments;
    `frequencies` and `support` are lists with an entry for each token.

    **Raises:** `ValueError` for an unknown family or invalid arguments.

    **Example:**

    ```python
    from noiselab.processes import process_from

    process = process_from({"family": "gidd", "vocab_size": 50, "mask_id": 49, "p_uniform": 0.2})
    print(process_from({"family": "masked", "vocab_size": 50, "mask_id": 49, "signal": "cosine"}))
    ```
    """
    if not isinstance(settings, Mapping):
        raise ValueError(f"the settings of a process must be `family` and its arguments; got {settings!r}")
    given = dict(settings)
    family = given.pop("family", None)
    if not isinstance(family, str) or family not in FAMILIES:
        raise ValueError(
            f"family must be one of {sorted(FAMILIES)}, or registered in noiselab.processes.FAMILIES; got {family!r}"
        )
    if "signal" in given:
        given["signal"] = _signal(given["signal"])
    try:
        if "frequencies" in given:
            given["frequencies"] = torch.tensor(given["frequencies"], dtype=torch.float64)
        if "support" in given:
            given["support"] = torch.tensor(given["support"], dtype=torch.bool)
        return FAMILIES[family](**given)
    except (TypeError, RuntimeError, OverflowError) as error:
        raise ValueError(f"the settings of {family!r} must be its arguments; {error}") from error


def _signal(given: Any) -> Schedule:
    """A schedule by name."""
    arguments = dict(given) if isinstance(given, Mapping) else {"name": given}
    name = arguments.pop("name", None)
    if not isinstance(name, str) or name not in SIGNALS:
        raise ValueError(f"signal must be one of {SIGNALS}, with arguments or without; got {given!r}")
    try:
        return getattr(schedules, name)(**arguments)
    except TypeError as error:
        raise ValueError(f"the arguments of {name!r} must be valid; {error}") from error
