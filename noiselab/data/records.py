"""The one reader and the one writer of files of texts and samples, compressed or not, always in UTF-8.

Lines end at a line feed only: a text may contain the other signs that Unicode counts as line ends.
"""

import itertools
import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from types import TracebackType
from typing import IO, Any

from ..files import writable
from .contents import COMPRESSED, chunks, compressed, decoded
from .tables import table_rows

PLAIN = (".txt", ".text", ".md", ".rst", ".py")
STRUCTURED = (".jsonl", ".json", ".parquet")
ROW_STARTS = (b"{", b"[", b'"')
"""How a line of JSON begins that is not empty."""
Place = str
"""Where a text was found: a file with a line, an item or a row."""


def kind_of(path: Path) -> str:
    """The suffix of a file below that of its compression, in lower case."""
    name = Path(path.name.lower())
    return Path(name.stem).suffix if name.suffix in COMPRESSED else name.suffix


def known_suffixes() -> str:
    """The suffixes that can be read, for messages."""
    return f"{', '.join(sorted((*PLAIN, *STRUCTURED)))}, also with {' or '.join(COMPRESSED)}"


def read_text(path: Path) -> str:
    """The text of a file, with its line ends as they are and without a byte order mark.

    **Raises:** `ValueError`, with the file, if it is not UTF-8 or cannot be decompressed.
    """
    return decoded(b"".join(chunks(path)), str(path))


def read_rows(path: Path, fields: tuple[str, ...] = ("text",), start: int = 0) -> Iterator[tuple[Place, Any]]:
    """The rows of a file of JSON Lines, of a JSON array or object, or of a Parquet table.

    **Arguments:**

    - `path`: the file.
    - `fields`: the columns of a Parquet table that are read, as far as they exist; nested ones as in `text_of`.
    - `start`: the number of rows to leave out, which are not parsed in JSON Lines.

    **Returns:** an iterator over the place of each row, for messages, and the row.

    **Raises:** `ValueError`, with file and line, if the file cannot be read.
    """
    kind = kind_of(path)
    if kind == ".parquet":
        return table_rows(path, fields, start=start)
    if kind == ".json":
        return itertools.islice(_json_rows(path), start, None)
    return _line_rows(path, start)


def line_text(line: bytes, field: str, path: Path, offset: int) -> str:
    """The text of a line of JSON Lines; null and empty lines are empty.

    **Arguments:**

    - `line`: the line.
    - `field`: as in `text_of`.
    - `path`, `offset`: the file and the byte at which the line begins, for messages.

    **Raises:** `ValueError`, with file and line, if the line cannot be read or has no such text.
    """
    try:
        return _line_text(line, field, str(path))
    except ValueError:  # the number of the line is counted for the message only
        number = 1 + sum(chunk.count(b"\n") for chunk in chunks(path, 0, offset)) if offset else 1
        return _line_text(line, field, f"{path}, line {number}")


def _line_text(line: bytes, field: str, place: Place) -> str:
    text = decoded(line, place)
    return (text_of(_parsed(text, "a line must be JSON", place), field, place) or "") if text.strip() else ""


def text_of(row: Any, field: str, place: Place) -> str | None:
    """The text in a field of a row, or `None` for null.

    **Arguments:**

    - `row`: a row of `read_rows`.
    - `field`: its name; a dot separates the names of nested fields, unless the row has a field of the whole name.
    - `place`: where the row was found.

    **Raises:** `ValueError`, with the place, if the row has no such field, or it is neither text nor null.

    **Example:**

    ```python
    from noiselab.data.records import text_of

    assert text_of({"data": {"text": "the cat"}}, "data.text", "a.jsonl, line 1") == "the cat"
    ```
    """
    value = row
    for name in [field] if isinstance(row, dict) and field in row else field.split("."):
        if not isinstance(value, dict) or name not in value:
            came = f"the fields {sorted(value)}" if isinstance(value, dict) else f"a {type(value).__name__}"
            raise ValueError(f"a line must have the field {field!r}; {place} has {came}")
        value = value[name]
    if value is not None and not isinstance(value, str):
        raise ValueError(f"the field {field!r} must be text; {place} has a {type(value).__name__}")
    return value


class RecordWriter:
    """Writes records as JSON Lines, each as soon as it is there; a context manager.

    A file that exists is emptied when the first record is written, and left as it is if there is none. A file that ends in
    `.gz` or `.zst` is compressed.

    **Arguments:**

    - `path`: the file; its folder is made if needed.

    **Raises:** `ValueError` at once if the file cannot be written.

    **Example:**

    ```python
    import pathlib, tempfile
    from noiselab.data.records import RecordWriter, read_rows

    path = pathlib.Path(tempfile.mkdtemp()) / "samples.jsonl.gz"
    with RecordWriter(path) as writer:
        writer.write({"text": "the cat"})
    assert [row for place, row in read_rows(path)] == [{"text": "the cat"}]
    ```
    """

    def __init__(self, path: Path) -> None:
        self.path, self.count = path, 0
        self._compression = path.suffix.lower() if path.suffix.lower() in COMPRESSED else ""
        with writable(path, "a file"):
            path.parent.mkdir(parents=True, exist_ok=True)
            self._new = not path.exists()
            self._file: IO[bytes] = path.open("ab")

    def write(self, record: Mapping[str, Any]) -> None:
        """Write one record."""
        if not self.count and self.path.is_file():
            self._file.truncate(0)
        line = f"{as_line(record)}\n".encode()
        self._file.write(compressed(line, self._compression))
        self._file.flush()
        self.count += 1

    def __enter__(self) -> "RecordWriter":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._file.close()
        if self._new and not self.count and self.path.is_file():
            self.path.unlink()


def as_line(record: Mapping[str, Any], ascii_only: bool = False) -> str:
    """One line of JSON without any sign that Unicode counts as a line end, and that UTF-8 can encode.

    **Arguments:**

    - `record`: what is written.
    - `ascii_only`: write other characters as their escapes, which mean the same.
    """
    line = json.dumps(record, ensure_ascii=ascii_only)
    for sign in ("\u0085", "\u2028", "\u2029"):  # JSON allows them only in strings, where an escape means the same
        line = line.replace(sign, f"\\u{ord(sign):04x}")
    try:
        line.encode()
    except UnicodeEncodeError:  # half of a surrogate pair, which has an escape but no UTF-8
        return json.dumps(record)
    return line


def _line_rows(path: Path, start: int = 0) -> Iterator[tuple[Place, Any]]:
    rows = 0
    for number, line in enumerate(_lines(path), start=1):
        if rows < start and line[:1] in ROW_STARTS:
            rows += 1  # a row that is left out, known by its first byte
            continue
        place = f"{path}, line {number}"
        text = decoded(line, place)
        if text.strip():
            rows += 1
            if rows > start:
                yield place, _parsed(text, "a line must be JSON", place)


def _json_rows(path: Path) -> Iterator[tuple[Place, Any]]:
    """An array or one object if the whole file is one, and lines otherwise."""
    content = read_text(path)
    if content.lstrip().startswith("["):
        for number, row in enumerate(_parsed(content, "the file must be one JSON array", str(path)), start=1):
            yield f"{path}, item {number}", row
        return
    try:
        row = json.loads(content)
    except (ValueError, RecursionError):
        yield from _line_rows(path)
    else:
        yield str(path), row


def _parsed(text: str, must: str, place: Place) -> Any:
    try:
        return json.loads(text)
    except (ValueError, RecursionError) as error:
        raise ValueError(f"{must}; {place}: {error}") from error


def _lines(path: Path) -> Iterator[bytes]:
    rest = b""
    for chunk in chunks(path):
        *lines, rest = (rest + chunk).split(b"\n")
        yield from lines
    if rest:
        yield rest
