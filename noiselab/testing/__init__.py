"""The laws of a noise process, as functions that users run on their own.

Each law takes a process (of few tokens: some enumerate all pairs) and raises `AssertionError` in words. They use
float64 and fixed seeds; Monte-Carlo laws allow five standard errors.

**Example:**

```python
import noiselab as nl
from noiselab.testing import check_process

check_process(nl.gidd(vocab_size=5, mask_id=4, p_uniform=0.2))
```
"""

from .laws import (
    PROCESS_LAWS,
    bound_does_not_depend_on_the_clock,
    bound_equals_definition,
    bound_is_tight,
    check_process,
    draws_have_the_marginal_law,
    is_a_markov_process,
    noise_is_the_share_of_mixing,
    posterior_is_bayes,
    rate_is_the_slope_of_jump,
    revealed_tokens_stay,
    reverse_move_has_the_posterior_law,
    shortcuts_equal_definitions,
    time_is_elementwise,
    two_jumps_are_one,
)

__all__ = [
    "PROCESS_LAWS",
    "bound_does_not_depend_on_the_clock",
    "bound_equals_definition",
    "bound_is_tight",
    "check_process",
    "draws_have_the_marginal_law",
    "is_a_markov_process",
    "noise_is_the_share_of_mixing",
    "posterior_is_bayes",
    "rate_is_the_slope_of_jump",
    "revealed_tokens_stay",
    "reverse_move_has_the_posterior_law",
    "shortcuts_equal_definitions",
    "time_is_elementwise",
    "two_jumps_are_one",
]
