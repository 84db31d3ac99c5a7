"""Samples of a model in a file: texts, with the tokens that were drawn where the file has them."""

import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from .records import PLAIN, STRUCTURED, kind_of, known_suffixes, read_rows, read_text, text_of


@dataclass(frozen=True)
class Sample:
    """A text from a file, with its tokens if the file contains them."""

    text: str
    tokens: tuple[int, ...] | None = None


def read_samples(path: Path, field: str = "text") -> list[Sample]:
    """Read samples from a file.

    **Arguments:**

    - `path`: JSON Lines, a JSON array or a Parquet table, whose rows have the text and optionally `tokens`; or plain text,
      whose samples are separated by empty lines. In UTF-8; also compressed, `.gz` or `.zst`.
    - `field`: the field of the text; a dot separates the names of nested fields.

    **Raises:** `ValueError`, with file and line, if there are no samples, the file cannot be read, a text is not text, or
    tokens are not a list of ids.
    """
    if not path.is_file():
        raise ValueError(f"samples must be a file; nothing found at {path}")
    kind = kind_of(path)
    if kind not in ("", *PLAIN, *STRUCTURED):
        raise ValueError(f"a file of samples must end in {known_suffixes()}; got {path}")
    if kind in STRUCTURED:
        found = [_sample(row, field, place) for place, row in read_rows(path, (field, "tokens"))]
    else:
        parts = re.split(r"\n{2,}", read_text(path).replace("\r\n", "\n"))
        found = [Sample(part.strip("\n")) for part in parts if part.strip()]
    if not found:
        raise ValueError(f"samples must contain at least one text; {path} has none")
    return found


def _sample(row: Any, field: str, place: str) -> Sample:
    text = text_of(row, field, place)
    if text is None:
        raise ValueError(f"the field {field!r} must be text; {place} has null")
    tokens = row.get("tokens")
    if tokens is None:
        return Sample(text)
    if not isinstance(tokens, list) or any(type(token) is not int or token < 0 for token in tokens):
        raise ValueError(f"the field 'tokens' must be a list of token ids; {place} has {str(tokens)[:60]}")
    return Sample(text, tuple(tokens))
