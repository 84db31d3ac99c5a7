"""Running laws and saying which one fails."""

import copy
from collections.abc import Callable, Sequence
from typing import Any, TypeAlias

from ..process import InterpolatingProcess, NoiseProcess
from .bound_laws import BOUND_LAWS
from .definitions import overrides_equal_definitions, shortcuts_equal_definitions
from .process_laws import PROCESS_LAWS as FORWARD_LAWS
from .sampling_laws import SAMPLING_LAWS
from .writing_laws import WRITING_LAWS

Law: TypeAlias = Callable[[Any], None]
"""A function of the process that raises `AssertionError` in words where the law is broken; its docstring is the law."""

LARGEST = 256  # tokens that laws may enumerate

PROCESS_LAWS: tuple[Law, ...] = (
    *WRITING_LAWS,
    FORWARD_LAWS[0],
    shortcuts_equal_definitions,
    overrides_equal_definitions,
    *FORWARD_LAWS[1:],
    *SAMPLING_LAWS,
    *BOUND_LAWS,
)
"""All laws of an `InterpolatingProcess`: first how it is written, then what follows from it, draws and bound last."""


def laws_of(process: NoiseProcess) -> tuple[Law, ...]:
    """The laws that a process of this kind obeys, in the order in which they are checked.

    **Raises:** `ValueError` for what is no noise process.
    """
    if isinstance(process, InterpolatingProcess):
        return PROCESS_LAWS
    raise ValueError(f"a noiselab.NoiseProcess with laws is needed; got {type(process).__name__}")


def check_process(process: NoiseProcess, laws: Sequence[Law] = ()) -> None:
    """Run the laws on a process, whoever wrote it.

    Laws come in the order of `laws_of`: a mistake in `alpha` or `mixing` is named before what follows from it. After the
    first broken law the others still run, and the message ends with those that are broken too.

    **Arguments:**

    - `process`: of at most 256 tokens, since laws enumerate them; a large one is checked at a small size. It is copied
      and checked on the CPU.
    - `laws`: which laws; all by default.

    **Raises:** `AssertionError` that names the first broken law and where it breaks: method, token, time, what came and
    what was expected. `ValueError` for a process that is too large.

    **Example:**

    ```python
    import torch
    import noiselab as nl
    from noiselab.testing import check_process

    class Impatient(nl.InterpolatingProcess):
        def alpha(self, t):
            return 1 - t

        def mixing(self, t):
            return torch.full((*t.shape, 4), 0.25)

        def rate(self, z, t):  # faster, and wrong
            return (0.25 / t)[:, None].expand(z.shape)

    try:
        check_process(Impatient())
    except AssertionError as error:
        assert "`Impatient.rate` differs from its definition" in str(error)
    ```
    """
    laws = laws or laws_of(process)
    _refuse_large(process)
    process = copy.deepcopy(process).cpu()
    broken: list[tuple[Law, Exception]] = []
    for law in laws:
        try:
            law(process)
        except Exception as error:
            broken.append((law, error))
    if broken:
        law, first = broken[0]
        problem = str(first) if isinstance(first, AssertionError) else f"{type(first).__name__}: {first}"
        others = ", ".join(other.__name__ for other, _ in broken[1:])
        also = f"\nBroken too: {others}" if others else ""
        summary = (law.__doc__ or law.__name__).split("\n")[0]
        raise AssertionError(f"{process} breaks the law «{law.__name__}» ({summary})\n{problem}{also}") from first


def _refuse_large(process: NoiseProcess) -> None:
    try:
        states = process.vocab_size
    except Exception:  # laws say it better
        return
    if states > LARGEST:
        raise ValueError(f"laws enumerate tokens, at most {LARGEST}: check the process at a smaller size; got {states}")
