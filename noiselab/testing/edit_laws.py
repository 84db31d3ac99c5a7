"""Laws of edit processes."""

import math
from collections.abc import Callable, Sequence
from itertools import product
from typing import TypeAlias

import torch
from jaxtyping import Int
from torch import Tensor

from ..autoregressive import EditProcess
from ..typing import TokenSequence

EditLaw: TypeAlias = Callable[[EditProcess, Tensor], None]
"""A function of the process and a text that raises `AssertionError` if the law is violated; its docstring states the
law.
"""

DRAWS_PER_TEXT = 200
MAX_STREAMS = 1_000  # maximum number of enumerated streams


def streams_collapse_to_the_text(edits: EditProcess, x: TokenSequence) -> None:
    """Streams drawn for a text collapse to it: clean(corrupt(x)) = x, and x is not modified."""
    before = x.clone()
    for z in _draws(edits, x, 50):
        found = edits.clean(z)
        assert torch.equal(found, x), f"`clean` makes {found.tolist()} of {z.tolist()}, drawn for {x.tolist()}"
    assert torch.equal(x, before), f"`corrupt` edits its argument: {before.tolist()} became {x.tolist()}"


def draws_are_possible(edits: EditProcess, x: TokenSequence) -> None:
    """Streams drawn for a text have positive probability for it, and zero probability for another text."""
    for z in _draws(edits, x, 50):
        log_q = edits.log_probability(z, x)
        assert -math.inf < log_q <= 1e-9, f"`log_probability` of {z.tolist()}, drawn for {x.tolist()}, is {log_q}"
        if len(x):
            log_q = edits.log_probability(z, x[:-1])
            assert log_q == -math.inf, f"`log_probability` of {z.tolist()} for {x[:-1].tolist()} is {log_q}"


def lengths_have_the_stated_mean(edits: EditProcess, x: TokenSequence) -> None:
    """The mean length of streams is `expected_length`, to four standard errors."""
    lengths = torch.tensor([len(z) for z in _draws(edits, x, DRAWS_PER_TEXT)], dtype=torch.float64)
    error = lengths.std().item() / DRAWS_PER_TEXT**0.5
    stated, found = edits.expected_length(x), lengths.mean().item()
    assert abs(stated - found) <= 4 * error + 1e-9, (
        f"`expected_length` of {x.tolist()} is {stated:.4g}; drawn streams have {found:.4g} +- {error:.2g}"
    )


def probabilities_are_those_of_all_streams(edits: EditProcess, x: TokenSequence) -> None:
    """The probabilities of the streams that collapse to a text sum to 1, by enumeration, and all other streams have
    none.

    Streams are enumerated up to a maximum length; the probability of longer streams is estimated from draws.
    """
    longest = int(math.log(MAX_STREAMS) / math.log(edits.vocab_size))
    if longest < len(x):
        raise ValueError(f"a text of {len(x)} tokens of {edits.vocab_size} has too many streams to enumerate")
    total = 0.0
    for length in range(len(x), longest + 1):
        for entries in product(range(edits.vocab_size), repeat=length):
            if length == len(x) and entries != tuple(x.tolist()):
                continue
            z = torch.tensor(entries, dtype=torch.long)
            q = edits.log_probability(z, x).exp().item()
            assert q == 0 or torch.equal(edits.clean(z), x), f"{entries} has probability {q:.4g} and is no {x.tolist()}"
            total += q
    drawn = torch.tensor([len(z) <= longest for z in _draws(edits, x, DRAWS_PER_TEXT)], dtype=torch.float64)
    share, error = drawn.mean().item(), (drawn.var().item() / DRAWS_PER_TEXT) ** 0.5
    assert abs(share - total) <= 4 * error + 1 / DRAWS_PER_TEXT, (
        f"`log_probability` gives {total:.4f} to streams of at most {longest} entries; {share:.4f} +- {error:.2g} of the "
        f"drawn ones are so short"
    )


def draws_follow_their_probabilities(edits: EditProcess, x: TokenSequence) -> None:
    """The frequency of each stream equals its `log_probability`, to slightly more than four standard errors."""
    seen: dict[tuple[int, ...], int] = {}
    for z in _draws(edits, x, DRAWS_PER_TEXT):
        key = tuple(z.tolist())
        seen[key] = seen.get(key, 0) + 1
    for key, count in seen.items():
        q = edits.log_probability(torch.tensor(key, dtype=torch.long), x).exp().item()
        error = (DRAWS_PER_TEXT * q * (1 - q)) ** 0.5
        assert abs(count - DRAWS_PER_TEXT * q) <= 4.5 * error + 3, (
            f"{list(key)} has probability {q:.4g} and was drawn {count} times of {DRAWS_PER_TEXT}"
        )


EDIT_LAWS: tuple[EditLaw, ...] = (
    streams_collapse_to_the_text,
    draws_are_possible,
    lengths_have_the_stated_mean,
    draws_follow_their_probabilities,
)
"""The laws of every edit process; `probabilities_are_those_of_all_streams` is added for the smallest vocabularies."""


def check_edits(edits: EditProcess, texts: Sequence[Int[Tensor, " _"]]) -> None:
    """Check that an edit process satisfies its laws on some texts.

    **Arguments:**

    - `edits`: the process. For at most five tokens and texts of at most three, all streams are also enumerated.
    - `texts`: short texts.

    **Raises:** `AssertionError` that names the violated law and the cause.

    **Example:**

    ```python
    import torch
    from noiselab.autoregressive import RandomTokenBackspace, UniformTokens
    from noiselab.testing import check_edits

    check_edits(RandomTokenBackspace(4, backspace=3, rate=0.2, wrong=UniformTokens(3)), [torch.tensor([0, 2])])
    ```
    """
    for x in texts:
        small = edits.vocab_size <= 5 and len(x) <= 3
        for law in (*EDIT_LAWS, *([probabilities_are_those_of_all_streams] if small else [])):
            try:
                law(edits, x)
            except AssertionError as error:
                summary = (law.__doc__ or law.__name__).split("\n")[0]
                raise AssertionError(f"{edits} breaks the law «{law.__name__}» ({summary})\n{error}") from error


def _draws(edits: EditProcess, x: Tensor, count: int) -> list[Tensor]:
    random = torch.Generator().manual_seed(0)
    return [edits.corrupt(x, generator=random) for _ in range(count)]
