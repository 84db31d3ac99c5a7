"""Running laws and saying which one fails."""

import copy
from collections.abc import Callable, Sequence
from typing import Any, TypeAlias

from ..process import InterpolatingProcess, NoiseProcess, TokenDependentProcess
from .bound_laws import bound_does_not_depend_on_the_clock, bound_equals_definition, bound_is_tight
from .matrix_laws import equal_rows_are_an_interpolating_process
from .overrides import overrides_equal_definitions
from .process_laws import (
    is_a_markov_process,
    noise_is_the_share_of_mixing,
    one_law_in_three_forms,
    posterior_is_bayes,
    rate_is_the_slope_of_jump,
    revealed_tokens_are_certain,
    rows_are_distributions,
    signal_falls,
    two_jumps_are_one,
    weight_is_rate_over_marginal,
)
from .sampling_laws import (
    draws_follow_their_generator,
    draws_have_the_marginal_law,
    other_draws_have_their_laws,
    positions_are_independent,
    revealed_tokens_stay,
    reverse_move_has_the_posterior_law,
)
from .shortcuts import shortcuts_equal_definitions
from .writing_laws import WRITING_LAWS, time_is_elementwise

Law: TypeAlias = Callable[[Any], None]
"""A function of the process that raises `AssertionError` in words where the law is broken; its docstring is the law."""

LARGEST = 256  # tokens that laws may enumerate
NAMED = 5  # laws that are named after the first broken one

ANY_PROCESS_LAWS: tuple[Law, ...] = (
    is_a_markov_process,
    overrides_equal_definitions,
    rows_are_distributions,
    one_law_in_three_forms,
    two_jumps_are_one,
    rate_is_the_slope_of_jump,
    posterior_is_bayes,
    signal_falls,
    draws_follow_their_generator,
    draws_have_the_marginal_law,
    positions_are_independent,
    revealed_tokens_are_certain,
    revealed_tokens_stay,
    reverse_move_has_the_posterior_law,
    other_draws_have_their_laws,
    bound_does_not_depend_on_the_clock,
    bound_is_tight,
)
"""The laws of every `NoiseProcess`: what follows from its two primitives, draws and bound last."""

PROCESS_LAWS: tuple[Law, ...] = (
    *WRITING_LAWS,
    is_a_markov_process,
    shortcuts_equal_definitions,
    overrides_equal_definitions,
    noise_is_the_share_of_mixing,
    *ANY_PROCESS_LAWS[2:6],
    weight_is_rate_over_marginal,
    *ANY_PROCESS_LAWS[6:-2],
    bound_equals_definition,
    *ANY_PROCESS_LAWS[-2:],
)
"""All laws of an `InterpolatingProcess`: first how it is written, then what follows from it, draws and bound last."""

TOKEN_DEPENDENT_LAWS: tuple[Law, ...] = (
    *WRITING_LAWS,
    *ANY_PROCESS_LAWS,
    equal_rows_are_an_interpolating_process,
)
"""All laws of a `TokenDependentProcess`, in the same order."""


def laws_of(process: NoiseProcess) -> tuple[Law, ...]:
    """The laws that a process of this kind obeys, in the order in which they are checked.

    **Raises:** `ValueError` for what is no noise process.
    """
    if isinstance(process, InterpolatingProcess):
        return PROCESS_LAWS
    if isinstance(process, TokenDependentProcess):
        return TOKEN_DEPENDENT_LAWS
    if isinstance(process, NoiseProcess):
        return ANY_PROCESS_LAWS
    raise ValueError(f"a noiselab NoiseProcess is needed; got {type(process).__name__}")


def check_process(process: NoiseProcess, laws: Sequence[Law] = ()) -> None:
    """Run the laws on a process, whoever wrote it.

    Laws come in the order of `laws_of`: a mistake in `alpha` or `mixing` is named before what follows from it. After the
    first broken law the others still run, unless shapes are wrong, and the message ends with those that are broken too.

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

        def rate_into(self, z, t):  # faster, and wrong
            return (0.25 / t)[:, None].expand(z.shape)

    try:
        check_process(Impatient())
    except AssertionError as error:
        assert "`Impatient.rate_into` differs from its definition" in str(error)
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
            if law is time_is_elementwise:
                break  # of wrong shapes, the others would make huge ones, and say nothing
    if broken:
        law, first = broken[0]
        problem = str(first) if isinstance(first, AssertionError) else f"{type(first).__name__}: {first}"
        names = [other.__name__ for other, _ in broken[1:]]
        more = f" and {len(names) - NAMED} more" if len(names) > NAMED else ""
        also = f"\nBroken too: {', '.join(names[:NAMED])}{more}" if names else ""
        summary = (law.__doc__ or law.__name__).split("\n")[0]
        raise AssertionError(f"{process} breaks the law «{law.__name__}» ({summary})\n{problem}{also}") from first


def _refuse_large(process: NoiseProcess) -> None:
    try:
        states = process.vocab_size
    except Exception:  # laws say it better
        return
    if states > LARGEST:
        raise ValueError(f"laws enumerate tokens, at most {LARGEST}: check the process at a smaller size; got {states}")
