"""Regular expressions that can begin at one place only, so that their automata are no larger than needed."""

import re
from collections.abc import Iterator

FIRST = "\U0010fffe"
"""A code point that is no character, with which a pattern begins; texts do not contain it."""

_FLAGS = re.compile(r"\(\?[a-zA-Z-]*[suR]")  # flags that change what `.` or classes mean
_SPACED = re.compile(r"\(\?[a-zA-Z-]*x")  # a flag with which a comment may contain anything
_ANCHOR = re.compile(r"[$^]|\\[bBAz<>]")
_PART = re.compile(r"\\[pP]\{[^}]*\}|\\[pP].|\\.|\(\?P?<[^>]*>|.", re.DOTALL)
_WIDE = re.compile(r"\\[pPSWD]")  # classes that may contain any code point


def begun(pattern: str) -> str | None:
    r"""The pattern after `FIRST`, which nothing in it matches; `None` if it has flags of which this is not known.

    The library that makes automata also prepares matches that begin anywhere in a longer text. Such an automaton remembers
    which of all beginnings are still possible: for `[A-Z][a-zA-Z]{0,30}`, or strings of JSON of at most 30 characters,
    $2^{30}$ sets of them. After a code point that occurs once, at the beginning, there is a single one.

    **Raises:** `ValueError` for a parenthesis that closes none, which would close the group around the pattern; for an
    anchor, which matches nothing between the code points around the pattern.
    """
    if _SPACED.search(pattern):
        return None
    depth, parts = 0, []
    for part in _parts(pattern):
        if _ANCHOR.fullmatch(part):
            raise ValueError(f"got the anchor {part} (the whole text is matched without any)")
        depth += part.startswith("(") - (part == ")")
        if depth < 0:
            raise ValueError("unopened group: a closing parenthesis without an opening one")
        if part == ".":
            part = rf"[^\n{FIRST}]"
        elif part.startswith("[") or _WIDE.match(part):
            part = f"[{part}&&[^{FIRST}]]"
        parts.append(part)
    return None if _FLAGS.search(pattern) else f"{FIRST}(?:{''.join(parts)})"


def _parts(pattern: str) -> Iterator[str]:
    """The characters, escapes, names of groups and outermost classes of a pattern, in order."""
    place = 0
    while place < len(pattern):
        end = _end_of_class(pattern, place) if pattern[place] == "[" else 0
        if not end:
            found = _PART.match(pattern, place)
            end = found.end() if found else place + 1
        yield pattern[place:end]
        place = end


def _end_of_class(pattern: str, place: int) -> int:
    """The place after the class that begins at a place; 0 if it has no end."""
    depth = 0
    while place < len(pattern):
        if pattern[place] == "\\":
            place += 1
        elif pattern[place] == "[":
            depth += 1
            place += pattern[place + 1 : place + 2] == "^"
            place += pattern[place + 1 : place + 2] == "]"  # the first one is a character of the class
        elif pattern[place] == "]":
            depth -= 1
            if not depth:
                return place + 1
        place += 1
    return 0
