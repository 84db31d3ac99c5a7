"""The parts of local files: what can be read without reading the file from its beginning.

| File | Part | Place in it |
| --- | --- | --- |
| plain text | the file, or a piece of a large one (`pieces`) | none |
| JSON Lines | the lines that begin in a range of bytes | offset of a line |
| Parquet | a row group | number of a row |
| a JSON array; a compressed file | the file | number of a text |
"""

import bisect
import itertools
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

from .contents import COMPRESSED
from .corpus import Part, Place
from .pieces import PIECE, is_large, piece_at, whole_or_pieces
from .records import PLAIN, kind_of, line_text, read_rows, text_of
from .tables import row_groups, table_rows

RANGES = 4096
"""About how many ranges of bytes all files of JSON Lines are divided into."""
SMALLEST, LARGEST = 2**8, 2**20
"""The least and the largest range, in bytes."""


class FileParts(Sequence[Part]):
    """The parts of all files, in their order; a part is made when it is read.

    **Arguments:**

    - `paths`: the files.
    - `field`: as for `FileCorpus`.
    """

    def __init__(self, paths: Sequence[Path], field: str) -> None:
        lines = sum(path.stat().st_size for path in paths if path.suffix.lower() == ".jsonl")
        size = min(LARGEST, max(SMALLEST, lines // RANGES))
        found = [_divided(path, field, size) for path in paths]
        self._make = [make for _, make in found]
        self._ends = list(itertools.accumulate(count for count, _ in found))

    def __len__(self) -> int:
        return self._ends[-1]

    def __getitem__(self, index: Any) -> Any:
        if isinstance(index, slice):
            return [self[number] for number in range(*index.indices(len(self)))]
        if not 0 <= index < len(self):
            raise IndexError(index)
        file = bisect.bisect_right(self._ends, index)
        return self._make[file](index - (self._ends[file - 1] if file else 0))


def _divided(path: Path, field: str, size: int) -> tuple[int, Callable[[int], Part]]:
    """The number of parts of a file, and what makes one of them."""
    kind, packed = kind_of(path), path.suffix.lower() in COMPRESSED
    if kind in PLAIN and not packed and is_large(path):
        return -(-path.stat().st_size // PIECE), lambda number: _Piece(path, number)
    if kind in PLAIN:
        return 1, lambda number: _Plain(path)
    if kind == ".jsonl" and not packed:
        count = max(1, -(-path.stat().st_size // size))
        return count, lambda number: _Lines(path, field, number * size, (number + 1) * size)
    if kind == ".parquet":
        return row_groups(path), lambda number: _RowGroup(path, field, number)
    return 1, lambda number: _Rows(path, field)


class _Plain(Part):
    """A file of plain text; compressed, it may be large and have several pieces."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def read(self, start: Place = None) -> Iterator[tuple[str, Place]]:
        first = start or 0
        if first and self.path.suffix.lower() not in COMPRESSED:
            return  # the one text has been read
        for number, text in enumerate(whole_or_pieces(self.path), start=1):
            if text and number > first:
                yield text, number


class _Piece(Part):
    """A piece of a large file of plain text."""

    def __init__(self, path: Path, number: int) -> None:
        self.path, self.number = path, number

    def read(self, start: Place = None) -> Iterator[tuple[str, Place]]:
        if start is None and (text := piece_at(self.path, self.number)):
            yield text, 1


class _Lines(Part):
    """The lines that begin in a range of bytes of a file of JSON Lines."""

    def __init__(self, path: Path, field: str, begin: int, end: int) -> None:
        self.path, self.field, self.begin, self.end = path, field, begin, end

    def read(self, start: Place = None) -> Iterator[tuple[str, Place]]:
        with self.path.open("rb") as file:
            offset = self._first(file) if start is None else start
            file.seek(offset)
            while offset < self.end and (line := file.readline()):
                text = line_text(line, self.field, self.path, offset)
                offset += len(line)
                if text:
                    yield text, offset

    def _first(self, file: Any) -> int:
        """The offset of the first line that begins in the range, or its end."""
        if not self.begin:
            return 0
        file.seek(self.begin - 1)
        size = self.end - self.begin
        line = file.readline(size + 1)
        return self.begin - 1 + len(line) if line.endswith(b"\n") else self.end


class _RowGroup(Part):
    """A row group of a Parquet file."""

    def __init__(self, path: Path, field: str, number: int) -> None:
        self.path, self.field, self.number = path, field, number

    def read(self, start: Place = None) -> Iterator[tuple[str, Place]]:
        first = start or 0
        rows = table_rows(self.path, (self.field,), self.number, first)
        for number, (place, row) in enumerate(rows, start=first + 1):
            if text := text_of(row, self.field, place):
                yield text, number


class _Rows(Part):
    """The rows of a file that is read from its beginning."""

    def __init__(self, path: Path, field: str) -> None:
        self.path, self.field = path, field

    def read(self, start: Place = None) -> Iterator[tuple[str, Place]]:
        first = start or 0
        rows = read_rows(self.path, (self.field,), first)
        for number, (place, row) in enumerate(rows, start=first + 1):
            if text := text_of(row, self.field, place):
                yield text, number
