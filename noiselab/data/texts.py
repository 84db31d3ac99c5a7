"""One guard for arguments that are several texts."""

from collections.abc import Iterable, Iterator, Mapping
from typing import Any


def each_text(texts: Iterable[str], name: str = "texts") -> Iterator[str]:
    """Check that an argument is a collection of texts, and iterate over it; each text is checked when it is reached.

    A string is a collection of its letters, a mapping of its keys, and some tables of the names of their columns. None of
    these are the texts that were meant, so they are refused.

    **Arguments:**

    - `texts`: what was given.
    - `name`: the name of the argument, for the message.

    **Returns:** an iterator over the texts.

    **Raises:** `ValueError` at once if `texts` is one string, a mapping, a table or no collection; from the iterator if an
    item is not a string.

    **Example:**

    ```python
    from noiselab.data.texts import each_text

    assert list(each_text(["the cat", "the dog"])) == ["the cat", "the dog"]
    ```
    """
    if isinstance(texts, str | bytes):
        raise ValueError(f"{name} must be a list of texts; got one string, {_short(texts)}")
    if isinstance(texts, Mapping) or hasattr(texts, "column_names") or hasattr(texts, "columns"):
        raise ValueError(
            f"{name} must be a list of texts; got a {type(texts).__name__}, which has columns or keys "
            '(pass one of them, such as table["text"])'
        )
    if not isinstance(texts, Iterable):
        raise ValueError(f"{name} must be a list of texts; got {_short(texts)}")
    return _checked(texts, name)


def text_list(texts: Iterable[str], name: str = "texts") -> list[str]:
    """The same as a list of at least one text.

    **Raises:** `ValueError` as `each_text`, if there is none, or if one is not valid Unicode.
    """
    found = list(each_text(texts, name))
    if not found:
        raise ValueError(f"{name} must be a list of at least one text; got {_short(texts)}")
    for number, text in enumerate(found):
        if not text.isascii() and any("\ud800" <= letter <= "\udfff" for letter in text):
            raise ValueError(
                f"{name} must be valid Unicode; text {number} has half of a surrogate pair, {_short(text)}"
            )
    return found


def _checked(texts: Iterable[str], name: str) -> Iterator[str]:
    for number, text in enumerate(texts):
        if not isinstance(text, str):
            raise ValueError(f"{name} must be texts; item {number} is a {type(text).__name__}, {_short(text)}")
        yield text


def _short(value: Any) -> str:
    shown = repr(value)
    return shown if len(shown) <= 60 else f"{shown[:57]}..."
