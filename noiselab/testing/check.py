"""Running laws and reporting which one fails."""

import copy
import warnings
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
"""A function of the process that raises `AssertionError` if the law is violated; its docstring states the law."""

LARGEST = 256  # largest vocabulary that laws enumerate
CERTAIN = 0.999  # probability of a token at the end of time from which on it is taken for a mask
NAMED = 5  # number of further violated laws that are named after the first

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
"""The laws of every `NoiseProcess`: first those of derived methods, then of draws and the bound."""

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
"""All laws of an `InterpolatingProcess`: first those of `alpha` and `mixing`, then of derived methods, draws and the
bound.
"""

TOKEN_DEPENDENT_LAWS: tuple[Law, ...] = (
    *WRITING_LAWS,
    *ANY_PROCESS_LAWS,
    equal_rows_are_an_interpolating_process,
)
"""All laws of a `TokenDependentProcess`, in the same order."""


def laws_of(process: NoiseProcess) -> tuple[Law, ...]:
    """Return the laws for a kind of process, in the order in which they are checked.

    **Raises:** `ValueError` if the object is not a noise process.
    """
    if isinstance(process, InterpolatingProcess):
        return PROCESS_LAWS
    if isinstance(process, TokenDependentProcess):
        return TOKEN_DEPENDENT_LAWS
    if isinstance(process, NoiseProcess):
        return ANY_PROCESS_LAWS
    raise ValueError(f"process must be a noiselab NoiseProcess; got {type(process).__name__}")


def check_process(process: NoiseProcess, laws: Sequence[Law] = ()) -> None:
    """Check that a process satisfies its laws.

    Returns nothing if all laws hold. Laws run in the order of `laws_of`, so that an error in `alpha` or `mixing` is
    reported before its consequences. After the first violated law the others still run, unless shapes are wrong, and
    the message ends with those that are also violated. To check a process with a large vocabulary, build it with a
    small one.

    **Arguments:**

    - `process`: a process with at most 256 tokens, because laws enumerate them. It is copied and checked on the CPU.
    - `laws`: the laws to check; by default all.

    **Warns:** `UserWarning` if the noise ends in a single token that `support` does not exclude from data, a mask.

    **Raises:** `AssertionError` that names the first violated law and where it fails: method, token, time, the value
    found and the value expected. `ValueError` if the vocabulary is too large.

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
    _warn_of_a_mask(process)
    process = copy.deepcopy(process).cpu()
    broken: list[tuple[Law, Exception]] = []
    for law in laws:
        try:
            law(process)
        except Exception as error:
            broken.append((law, error))
            if law is time_is_elementwise:
                break  # with wrong shapes, the other laws could broadcast to huge tensors and report nothing useful
    if broken:
        law, first = broken[0]
        problem = str(first) if isinstance(first, AssertionError) else f"{type(first).__name__}: {first}"
        names = [other.__name__ for other, _ in broken[1:]]
        more = f" and {len(names) - NAMED} more" if len(names) > NAMED else ""
        also = f"\nBroken too: {', '.join(names[:NAMED])}{more}" if names else ""
        summary = (law.__doc__ or law.__name__).split("\n")[0]
        raise AssertionError(f"{process} breaks the law «{law.__name__}» ({summary})\n{problem}{also}") from first


def _warn_of_a_mask(process: NoiseProcess) -> None:
    """Say that a mask counts as data, which is no violation of a law and makes a bound looser."""
    try:
        law, support = process.prior_law(), process.support
    except Exception:  # the laws give a better message
        return
    if support is None and len(law) > 1 and law.max() > CERTAIN:
        warnings.warn(
            f"the noise of {process} ends in token {int(law.argmax())} alone, and `support` does not say that it occurs in no "
            "data: predictions may give it probability, which loosens the bound; pass the tokens of the data as `support`",
            UserWarning,
            stacklevel=3,
        )


def _refuse_large(process: NoiseProcess) -> None:
    try:
        states = process.vocab_size
    except Exception:  # the laws give a better message
        return
    if states > LARGEST:
        raise ValueError(f"laws enumerate tokens, at most {LARGEST}: check the process at a smaller size; got {states}")
