"""Samples of a model in a file: texts, with the tokens that were drawn where the file has them."""

import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from .messages import Message, check_messages
from .records import PLAIN, STRUCTURED, kind_of, known_suffixes, read_rows, read_text, text_of


@dataclass(frozen=True)
class Sample:
    """A text from a file, with its tokens if the file contains them; or the last answer of a conversation, and its messages."""

    text: str
    tokens: tuple[int, ...] | None = None
    messages: tuple[Message, ...] | None = None


def read_samples(path: Path, field: str = "text", *, chats: bool = False) -> list[Sample]:
    """Read samples from a file.

    **Arguments:**

    - `path`: JSON Lines, a JSON array or a Parquet table, whose rows have the text and optionally `tokens`; or plain text,
      whose samples are separated by empty lines. In UTF-8; also compressed, `.gz` or `.zst`.
    - `field`: the field of the text; a dot separates the names of nested fields.
    - `chats`: whether rows with `messages` are conversations that end with an answer: either all rows, or none.

    **Raises:** `ValueError`, with file and line, if there are no samples, the file cannot be read, a text is not text,
    tokens are not a list of ids, or a conversation does not end with an answer.
    """
    if not path.is_file():
        raise ValueError(f"samples must be a file; nothing found at {path}")
    kind = kind_of(path)
    if kind not in ("", *PLAIN, *STRUCTURED):
        raise ValueError(f"a file of samples must end in {known_suffixes()}; got {path}")
    if kind in STRUCTURED:
        names = (field, "tokens", "messages") if chats else (field, "tokens")
        found = [_sample(row, field, place, chats) for place, row in read_rows(path, names)]
        if len({sample.messages is None for sample in found}) > 1:
            raise ValueError(f"all rows must have the field 'messages', or none; {path} has rows with and without")
    else:
        parts = re.split(r"\n{2,}", read_text(path).replace("\r\n", "\n"))
        found = [Sample(part.strip("\n")) for part in parts if part.strip()]
    if not found:
        raise ValueError(f"samples must contain at least one text; {path} has none")
    return found


def read_questions(path: Path) -> list[list[Message]]:
    """Read conversations from a file, each up to the message that is answered next: an answer at the end is left out.

    **Arguments:**

    - `path`: JSON Lines, a JSON array or a Parquet table, whose rows have `messages`; also compressed.

    **Raises:** `ValueError`, with file and line, if there are none, the file cannot be read, or there is no message to answer.
    """
    if not path.is_file() or kind_of(path) not in STRUCTURED:
        raise ValueError(f"conversations must be in a file that ends in {', '.join(STRUCTURED)}; got {path}")
    found = []
    for place, row in read_rows(path, ("messages",)):
        messages = _messages(row, place)
        while messages and messages[-1]["role"] == "assistant":
            messages.pop()
        if not messages:
            raise ValueError(f"a conversation must have a message to answer; {place} has none")
        found.append(messages)
    if not found:
        raise ValueError(f"there must be at least one conversation; {path} has none")
    return found


def _messages(row: Any, place: str) -> list[Message]:
    if not isinstance(row, dict) or row.get("messages") is None:
        came = f"the fields {sorted(row)}" if isinstance(row, dict) else f"a {type(row).__name__}"
        raise ValueError(f"a line must have the field 'messages'; {place} has {came}")
    return check_messages(row["messages"], place)


def _sample(row: Any, field: str, place: str, chats: bool) -> Sample:
    messages = None
    if chats and isinstance(row, dict) and row.get("messages") is not None:
        messages = _messages(row, place)
        if messages[-1]["role"] != "assistant":
            raise ValueError(
                f"a conversation must end with an answer; the last message of {place} is by {messages[-1]['role']!r}"
            )
    text = text_of(row, field, place) if messages is None else messages[-1]["content"]
    if text is None:
        raise ValueError(f"the field {field!r} must be text; {place} has null")
    tokens, talk = row.get("tokens"), None if messages is None else tuple(messages)
    if tokens is None:
        return Sample(text, None, talk)
    if not isinstance(tokens, list) or any(type(token) is not int or token < 0 for token in tokens):
        raise ValueError(f"the field 'tokens' must be a list of token ids; {place} has {str(tokens)[:60]}")
    return Sample(text, tuple(tokens), talk)
