"""Corpora in local files: plain text, JSON Lines and Parquet."""

import glob
import json
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from .corpus import Corpus, fingerprint

_TEXT = {".txt", ".text", ".md", ".rst", ".py"}
_SUFFIXES = {*_TEXT, ".jsonl", ".parquet"}


class FileCorpus(Corpus):
    r"""Texts in local files. Each text file, each line of a JSON Lines file and each row of a Parquet file is one
    document.

    **Arguments:**

    - `paths`: files, folders (searched recursively for supported suffixes; hidden names are skipped) or glob patterns
      (`**` crosses folders). Supported: `.txt .text .md .rst .py`, `.jsonl`, `.parquet`. Text must be UTF-8.
    - `field`: the JSON field or Parquet column that contains the text. Empty and null texts are skipped.
    - `name`: a short name used in file names and messages.

    **Raises:** `ValueError` if a path matches no file or a suffix is not supported; while reading, if the field is
    missing or is not text (the message gives file and line); after reading, if all texts were empty.

    **Example:**

    ```python
    import json, pathlib, tempfile
    from noiselab.data import FileCorpus

    path = pathlib.Path(tempfile.mkdtemp()) / "lines.jsonl"
    path.write_text(json.dumps({"text": "one document"}) + "\n")
    assert list(FileCorpus(path)) == ["one document"]
    ```
    """

    def __init__(self, paths: str | Path | Sequence[str | Path], *, field: str = "text", name: str = "files") -> None:
        given = [paths] if isinstance(paths, str | Path) else list(paths)
        self.paths = sorted({file for path in given for file in _find(path)})
        if not self.paths:
            raise ValueError("paths must name at least one file; got none")
        self.field = field
        self.name = name

    @property
    def key(self) -> str:  # type: ignore[override]
        """A hash of the field and of the state of the files as they are now."""
        return fingerprint([self.field, *(signature(path) for path in self.paths)])

    def __iter__(self) -> Iterator[str]:
        found = False
        for path in self.paths:
            for text in _read(path, self.field):
                if text:
                    found = True
                    yield text
        if not found:
            raise ValueError(f"a corpus must contain at least one non-empty text; {self.paths[0]} ... have none")


def signature(path: Path) -> str:
    """Return a string that identifies the state of a file without reading it: path, size and modification time."""
    state = path.stat()
    return f"{path.resolve().as_posix()}:{state.st_size}:{state.st_mtime_ns}"


def _find(path: str | Path) -> list[Path]:
    place = Path(path).expanduser()
    if place.is_dir():
        files = [
            file
            for file in place.rglob("*")
            if file.suffix.lower() in _SUFFIXES
            and not any(part.startswith(".") for part in file.relative_to(place).parts)
            and file.is_file()
        ]
        if not files:
            raise ValueError(f"a folder must contain files that end in {_known()}; {path} has none")
        return files
    if place.is_file():
        files = [place]
    else:
        files = [Path(file) for file in glob.glob(str(place), recursive=True) if Path(file).is_file()]
        if not files:
            raise ValueError(f"a path must be a file, a folder or a matching pattern; nothing found at {path}")
    for file in files:
        if file.suffix.lower() not in _SUFFIXES:
            raise ValueError(f"a file must end in {_known()}; got {file}")
    return files


def _known() -> str:
    return ", ".join(sorted(_SUFFIXES))


def _read(path: Path, field: str) -> Iterator[str]:
    suffix = path.suffix.lower()
    if suffix == ".jsonl":
        yield from _read_json_lines(path, field)
    elif suffix == ".parquet":
        yield from _read_parquet(path, field)
    else:
        try:
            yield path.read_bytes().decode("utf-8")  # not read_text, which converts line ends
        except UnicodeDecodeError as error:
            raise ValueError(f"a text file must be UTF-8; {path}: {error}") from error


def _read_json_lines(path: Path, field: str) -> Iterator[str]:
    with path.open("rb") as file:
        for number, line in enumerate(file, start=1):
            if not line.strip():
                continue
            try:
                row = json.loads(line)
            except ValueError as error:
                raise ValueError(f"a line must be JSON; {path}, line {number}: {error}") from error
            if not isinstance(row, dict) or field not in row:
                came = f"the fields {sorted(row)}" if isinstance(row, dict) else f"a {type(row).__name__}"
                raise ValueError(f"a line must have the field {field!r}; {path}, line {number} has {came}")
            yield checked_text(row[field], field, f"{path}, line {number}")


def _read_parquet(path: Path, field: str) -> Iterator[str]:
    import pyarrow.parquet

    with pyarrow.parquet.ParquetFile(path) as file:
        columns = file.schema_arrow.names
        if field not in columns:
            raise ValueError(f"a parquet file must have the column {field!r}; {path} has {sorted(columns)}")
        number = 0
        for batch in file.iter_batches(batch_size=1024, columns=[field]):
            for value in batch.column(0).to_pylist():
                yield checked_text(value, field, f"{path}, row {number}")
                number += 1


def checked_text(value: Any, field: str, place: str) -> str:
    """Return the text of a field, or an empty string for null; raise `ValueError` for any other type."""
    if value is None:
        return ""
    if not isinstance(value, str):
        raise ValueError(f"the field {field!r} must be text; {place} has a {type(value).__name__}")
    return value
