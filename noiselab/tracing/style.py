"""What figures and pages of a trace have in common: names and colours."""

from collections.abc import Callable, Iterable
from typing import TYPE_CHECKING, TypeAlias

if TYPE_CHECKING:
    from .trace import Trace

# Okabe and Ito (2008): told apart with any colour vision.
COLOURS = ("#0072b2", "#e69f00", "#009e73", "#cc79a7", "#d55e00", "#56b4e9", "#8a6d3b", "#b0a800")
Decode: TypeAlias = Callable[[int], str]
"""The text of a token."""


def colours(trace: "Trace") -> dict[str, str]:
    """A colour for each kind of change, in their order of appearance."""
    kinds = dict.fromkeys(trace.kinds[1:])
    return {kind: COLOURS[k % len(COLOURS)] for k, kind in enumerate(kinds)}


def texts(tokens: Iterable[int], decode: Decode | None) -> dict[int, str]:
    """The text of each token; its number if there is no `decode`.

    **Raises:** `ValueError` if `decode` returns something else than text.
    """
    found = {token: str(token) if decode is None else decode(token) for token in sorted(set(tokens))}
    for token, text in found.items():
        if not isinstance(text, str):
            raise ValueError(f"decode must return a str for each token; got {text!r} for token {token}")
    return found


def tokens_of(trace: "Trace") -> set[int]:
    """Every token that stands somewhere at some time."""
    return {*trace.start.flatten().tolist(), *trace.changed[:, 4].tolist()}


def no_data(trace: "Trace", tokens: Iterable[int]) -> list[int]:
    """Those of the tokens that data do not contain, such as masks."""
    return [] if trace.support is None else [token for token in sorted(set(tokens)) if not trace.support[token]]
