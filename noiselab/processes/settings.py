"""Processes as data: trees of names and numbers, as in noiselab.json."""

from collections.abc import Mapping
from typing import Any

from ..process import NoiseProcess
from . import kinds as kinds  # registers the library's own
from .from_tree import TreeReader
from .to_tree import TreeWriter, same


def settings_of(process: NoiseProcess) -> dict[str, Any]:
    """A process as a tree of names and numbers, from which `process_from` builds an equal one.

    The tree consists of dicts, lists, texts, numbers, booleans and `None`, and can be stored as JSON. Each schedule, mixing and
    process is an object with `kind`, its registered name, and the arguments of its class; a schedule may also be a number,
    "t" or "pi". Numbers are exact, learned parameters are included. The tree is read again before it is returned, so that
    what is stored is known to give the same process.

    **Arguments:**

    - `process`: an `Interpolation` of any schedules and mixings, a ready-made process, or your own class with the
      decorator `registered`.

    **Raises:** `ValueError` for a part that cannot be written, such as a Python function or a class that is not registered,
    with its place in the tree.

    **Example:**

    ```python
    import noiselab as nl
    from noiselab import t
    from noiselab.processes import process_from, settings_of

    process = nl.Interpolation(1 - t, {nl.Absorbing(4, 5): t, nl.Uniform.without(5, 4): 0.5 * t**2})
    tree = settings_of(process)
    assert tree["signal"] == {"kind": "-", "left": 1.0, "right": "t"}
    assert tree["noises"][0] == {"mixing": {"kind": "Absorbing", "token": 4, "vocab_size": 5}, "weight": "t"}
    assert repr(process_from(tree)) == repr(process)
    ```
    """
    if not isinstance(process, NoiseProcess):
        raise ValueError(f"a noise process is needed; got a {type(process).__name__}")
    tree: dict[str, Any] = TreeWriter().write("process", process, "noise")
    different = same(process, process_from(tree))
    if different:
        raise ValueError(
            f"a process that is written must be restored by its arguments alone; {process!r} is not: after reading, "
            f"{different}"
        )
    return tree


def process_from(settings: Mapping[str, Any]) -> NoiseProcess:
    """Build a process from settings: a tree, as `settings_of` writes it, or `family` and the arguments of its function.

    A family is a name in `FAMILIES`. Its arguments are JSON: numbers, strings, lists. A `signal` is the name of a schedule,
    a mapping of `name` and its arguments, or an expression as a tree; `frequencies` and `support` are lists with an entry for
    each token. Settings hold names and numbers only: nothing in them is evaluated, imported or unpickled.

    **Raises:** `ValueError` for an unknown name or invalid arguments, with their place in the tree.

    **Example:**

    ```python
    from noiselab.processes import process_from

    process = process_from({"family": "gidd", "vocab_size": 50, "mask_id": 49, "p_uniform": 0.2})
    print(process_from({"family": "masked", "vocab_size": 50, "mask_id": 49, "signal": "cosine"}))
    ```
    """
    if not isinstance(settings, Mapping):
        raise ValueError(
            f"the settings of a process must be `family` or `kind`, with the arguments of it; got {settings!r}"
        )
    process: NoiseProcess = TreeReader().read("process", settings, "noise")
    return process
