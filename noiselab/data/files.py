"""Corpora in local files: plain text, JSON lines, parquet."""

import glob
import json
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from .corpus import Corpus, fingerprint

_TEXT = {".txt", ".text", ".md", ".rst", ".py"}
_SUFFIXES = {*_TEXT, ".jsonl", ".parquet"}


class FileCorpus(Corpus):
    r"""Texts in local files: a text file is one document, a JSON line or a parquet row is one document.

    **Arguments:**

    - `paths`: files, folders (searched below for every known suffix, without hidden names) or glob patterns (`**`
      crosses folders). Known: `.txt .text .md .rst .py`, `.jsonl`, `.parquet`. Text must be UTF-8.
    - `field`: the field of a JSON line, or the column of a parquet file, that holds the text. Texts that are empty or
      null are skipped.
    - `name`: a short word for file names and messages.

    **Raises:** `ValueError` if a path names nothing or a suffix is unknown; while reading, if a line or a file lacks
    the field or holds no text, with the file and the line; after reading, if there was no text at all.

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
        self.key = fingerprint([field, *(signature(path) for path in self.paths)])

    def __iter__(self) -> Iterator[str]:
        found = False
        for path in self.paths:
            for text in _read(path, self.field):
                if text:
                    found = True
                    yield text
        if not found:
            raise ValueError(f"a corpus must hold at least one text that is not empty; {self.paths[0]} ... hold none")


def signature(path: Path) -> str:
    """Return what identifies the state of a file without reading it: its place, size and time of change."""
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
            raise ValueError(f"a folder must hold files that end in {_known()}; {path} holds none")
        return files
    if place.is_file():
        files = [place]
    else:
        files = [Path(file) for file in glob.glob(str(place), recursive=True) if Path(file).is_file()]
        if not files:
            raise ValueError(f"a path must name a file, a folder or a pattern that matches; nothing found at {path}")
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
            yield path.read_bytes().decode("utf-8")  # not read_text: line ends stay as they are
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
    """Return the text in a field, empty for null; raise `ValueError` for anything else."""
    if value is None:
        return ""
    if not isinstance(value, str):
        raise ValueError(f"the field {field!r} must hold text; {place} holds a {type(value).__name__}")
    return value
