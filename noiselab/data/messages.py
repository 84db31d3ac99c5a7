"""Rows of files as conversations: chat messages, or a prompt and its answer, checked with the place of each row."""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, TypeAlias

from .files import find_files, named
from .records import STRUCTURED, Place, kind_of, read_rows

Message: TypeAlias = dict[str, str]
"""A message: "role", for example "user" or "assistant", and "content"."""

ROLES = ("system", "user", "assistant")
PAIRS = (("prompt", "response"), ("prompt", "completion"), ("instruction", "output"), ("question", "answer"))
"""The names of a prompt and its answer, the first that a row has."""
FORMS = "'messages' (a list of role and content), 'text', or one of " + ", ".join(f"{a!r} and {b!r}" for a, b in PAIRS)
FIELDS = tuple(dict.fromkeys(("messages", "text", "input", *(name for pair in PAIRS for name in pair))))


def read_conversations(
    source: str | Path | Sequence[str | Path] | Iterable[Mapping[str, Any]],
) -> Iterator[tuple[Place, str | list[Message]]]:
    """Read conversations, one for each row; a row of `text` is a string.

    A row has one of these forms; other fields are ignored:

    - `messages`: a list of messages, each with a `role` ("system", "user" or "assistant") and a `content`.
    - a prompt and its answer: `prompt` and `response` or `completion`, `instruction` and `output`, `question` and `answer`.
      A field `input` beside an `instruction` is appended to it.
    - `text`: a text without a prompt.

    **Arguments:**

    - `source`: files, folders or patterns of JSON Lines, JSON arrays or Parquet, compressed or not; or the rows, for example a
      `datasets.Dataset`. Each row is read once.

    **Returns:** an iterator over the place of each row, for messages, and the conversation or text.

    **Raises:** `ValueError` with the file and the row if a row has another form, a message has no role, an unknown role or no
    content, a content is not text or is empty, there is no answer, or files have no row.

    **Example:**

    ```python
    from noiselab.data.messages import read_conversations

    ((place, messages),) = read_conversations([{"prompt": "2 + 2?", "response": "4"}])
    assert place == "row 0" and [message["role"] for message in messages] == ["user", "assistant"]
    ```
    """
    if isinstance(source, Mapping):
        raise ValueError(f"conversations must be files or rows; got one {type(source).__name__}")
    if isinstance(source, str | Path):
        source = [source]
    found = list(source) if isinstance(source, Sequence) and not hasattr(source, "column_names") else source
    if isinstance(found, list) and found and all(isinstance(one, str | Path) for one in found):
        paths, empty = sorted({file for one in found for file in find_files(one)}), True
        for path in paths:
            if kind_of(path) not in STRUCTURED:
                raise ValueError(f"conversations must be in files that end in {', '.join(STRUCTURED)}; got {path}")
            for place, row in read_rows(path, FIELDS):
                empty = False
                yield place, parse_conversation(row, place)
        if empty:
            raise ValueError(f"files of conversations must have at least one row; {named(paths)} none")
        return
    for number, row in enumerate(found):
        yield f"row {number}", parse_conversation(row, f"row {number}")


def parse_conversation(row: Any, place: Place) -> str | list[Message]:
    """The messages of a row, or its text.

    **Raises:** `ValueError` as `read_conversations`.
    """
    if not isinstance(row, Mapping):
        raise ValueError(f"a row must have the fields {FORMS}; {place} is a {type(row).__name__}")
    given = {name for name in row if row[name] is not None}  # tables have null for fields that a row lacks
    if "messages" in given:
        found = check_messages(row["messages"], place)
        if all(message["role"] != "assistant" for message in found):
            raise ValueError(f"a conversation must have a message of the assistant, which is learned; {place} has none")
        return found
    for prompt, answer in PAIRS:
        if {prompt, answer} <= given:
            asked = _content(row[prompt], prompt, place)
            if prompt == "instruction" and row.get("input"):
                asked = f"{asked}\n\n{_content(row['input'], 'input', place)}"
            return [
                {"role": "user", "content": asked},
                {"role": "assistant", "content": _content(row[answer], answer, place)},
            ]
    if "text" in given:
        return _content(row["text"], "text", place)
    raise ValueError(f"a row must have the fields {FORMS}; {place} has {sorted(map(str, row))}")


def check_messages(messages: Any, place: Place) -> list[Message]:
    """The messages of a conversation, each with its role and content alone.

    **Raises:** `ValueError` with the place if there is none, or one has no role, an unknown role or no content.
    """
    if not isinstance(messages, Sequence) or isinstance(messages, str | bytes) or not len(messages):
        raise ValueError(f"messages must be a list of at least one message; {place} has {_shown(messages)}")
    found: list[Message] = []
    for number, message in enumerate(messages):
        at = f"message {number} of {place}"
        if not isinstance(message, Mapping) or not {"role", "content"} <= message.keys():
            came = f"the fields {sorted(map(str, message))}" if isinstance(message, Mapping) else _shown(message)
            raise ValueError(f"a message must have a role and a content; {at} has {came}")
        role = message["role"]
        if role not in ROLES:
            raise ValueError(f"the role of a message must be one of {', '.join(ROLES)}; {at} has {_shown(role)}")
        found.append({"role": role, "content": _content(message["content"], "content", at)})
    return found


def _content(value: Any, name: str, place: Place) -> str:
    if not isinstance(value, str):
        raise ValueError(f"{name} must be text; {place} has {_shown(value)}, a {type(value).__name__}")
    if not value.strip():
        raise ValueError(f"{name} must not be empty; {place} has {value!r}")
    return value


def _shown(value: Any) -> str:
    shown = repr(value)
    return shown if len(shown) <= 60 else f"{shown[:57]}..."
