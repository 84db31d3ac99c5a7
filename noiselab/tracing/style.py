"""Colours and token texts shared by figures and pages of a trace."""

from collections.abc import Callable, Iterable
from typing import TYPE_CHECKING, TypeAlias

if TYPE_CHECKING:
    from .trace import Trace

# Okabe and Ito (2008): distinguishable with any colour vision.
COLOURS = ("#0072b2", "#e69f00", "#009e73", "#cc79a7", "#d55e00", "#56b4e9", "#8a6d3b", "#b0a800")
Decode: TypeAlias = Callable[[int], str]
"""A function from token id to text."""


def colours(trace: "Trace") -> dict[str, str]:
    """Assign a colour to each kind of change, in order of appearance."""
    kinds = dict.fromkeys(trace.kinds[1:])
    return {kind: COLOURS[k % len(COLOURS)] for k, kind in enumerate(kinds)}


def texts(tokens: Iterable[int], decode: Decode | None) -> dict[int, str]:
    """Return the text of each token, or its id if there is no `decode`.

    **Raises:** `ValueError` if `decode` does not return text.
    """
    found = {token: str(token) if decode is None else decode(token) for token in sorted(set(tokens))}
    for token, text in found.items():
        if not isinstance(text, str):
            raise ValueError(f"decode must return a str for each token; got {text!r} for token {token}")
    return found


def tokens_of(trace: "Trace") -> set[int]:
    """All tokens that occur at any position and stage."""
    return {*trace.start.flatten().tolist(), *trace.changed[:, 4].tolist()}


def no_data(trace: "Trace", tokens: Iterable[int]) -> list[int]:
    """The tokens outside the support of the data, such as masks."""
    return [] if trace.support is None else [token for token in sorted(set(tokens)) if not trace.support[token]]
