"""Laws that every noise process must satisfy, for testing your own processes.

Each law is a function of a process that raises an `AssertionError` with the method, the token, the time, the value
found and the value expected. `check_process` runs all laws, in about a second for processes of a few tokens.
`ProcessLaws` turns them into tests of your own package, one for each law.

**Example:**

```python
import noiselab as nl
from noiselab.testing import check_process

check_process(nl.gidd(vocab_size=5, mask_id=4, p_uniform=0.2))
```
"""

from .bound_laws import bound_does_not_depend_on_the_clock, bound_equals_definition, bound_is_tight
from .case import AnyProcessLaws, Laws, ProcessLaws, TokenDependentProcessLaws
from .check import ANY_PROCESS_LAWS, PROCESS_LAWS, TOKEN_DEPENDENT_LAWS, Law, check_process, laws_of
from .edit_laws import (
    EDIT_LAWS,
    EditLaw,
    check_edits,
    draws_are_possible,
    draws_follow_their_probabilities,
    lengths_have_the_stated_mean,
    probabilities_are_those_of_all_streams,
    streams_collapse_to_the_text,
)
from .matrix_laws import equal_rows_are_an_interpolating_process
from .overrides import Bare, BareMatrices, Primitives, overrides_equal_definitions
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
from .tools import agree, within_errors
from .writing_laws import (
    arguments_stay_as_they_are,
    derivatives_reach_time,
    low_precision_leaves_it_alone,
    same_times_same_answer,
    time_is_elementwise,
    times_keep_their_digits,
)

__all__ = [
    "ANY_PROCESS_LAWS",
    "EDIT_LAWS",
    "PROCESS_LAWS",
    "TOKEN_DEPENDENT_LAWS",
    "AnyProcessLaws",
    "Bare",
    "BareMatrices",
    "EditLaw",
    "Law",
    "Laws",
    "Primitives",
    "ProcessLaws",
    "TokenDependentProcessLaws",
    "agree",
    "arguments_stay_as_they_are",
    "bound_does_not_depend_on_the_clock",
    "bound_equals_definition",
    "bound_is_tight",
    "check_edits",
    "check_process",
    "derivatives_reach_time",
    "draws_are_possible",
    "draws_follow_their_generator",
    "draws_follow_their_probabilities",
    "draws_have_the_marginal_law",
    "equal_rows_are_an_interpolating_process",
    "is_a_markov_process",
    "laws_of",
    "lengths_have_the_stated_mean",
    "low_precision_leaves_it_alone",
    "noise_is_the_share_of_mixing",
    "one_law_in_three_forms",
    "other_draws_have_their_laws",
    "overrides_equal_definitions",
    "positions_are_independent",
    "posterior_is_bayes",
    "probabilities_are_those_of_all_streams",
    "rate_is_the_slope_of_jump",
    "revealed_tokens_are_certain",
    "revealed_tokens_stay",
    "reverse_move_has_the_posterior_law",
    "rows_are_distributions",
    "same_times_same_answer",
    "shortcuts_equal_definitions",
    "signal_falls",
    "streams_collapse_to_the_text",
    "time_is_elementwise",
    "times_keep_their_digits",
    "two_jumps_are_one",
    "weight_is_rate_over_marginal",
    "within_errors",
]
