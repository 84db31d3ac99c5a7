"""Rows of Parquet files, from any row of any row group on."""

import contextlib
import functools
from collections.abc import Iterator
from pathlib import Path
from typing import Any


def row_groups(path: Path) -> int:
    """The number of row groups of a Parquet file.

    **Raises:** `ValueError`, with the file, if it cannot be read.
    """
    with _opened(path) as file:
        return int(file.num_row_groups)


def table_rows(
    path: Path, fields: tuple[str, ...], group: int | None = None, start: int = 0
) -> Iterator[tuple[str, dict[str, Any]]]:
    """Yield the place of each row, for messages, and the row.

    **Arguments:**

    - `path`: the file.
    - `fields`: the columns that are read, as far as they exist; `data.text` is in the column `data`.
    - `group`: the number of a row group; by default, the whole file.
    - `start`: the number of rows to leave out.

    **Raises:** `ValueError`, with the file, if it cannot be read or has none of the columns.
    """
    groups, within = (None, "") if group is None else ([group], f" of row group {group}")
    with _opened(path) as file:
        there, number = file.schema_arrow.names, 0
        columns = [name for name in there if name in fields or any(f.startswith(f"{name}.") for f in fields)]
        if not columns:
            raise ValueError(f"a parquet file must have the column {fields[0]!r}; {path} has {sorted(there)}")
        for batch in file.iter_batches(batch_size=256, row_groups=groups, columns=columns):
            first = min(len(batch), max(0, start - number))
            for place, row in enumerate(batch.slice(first).to_pylist(), start=number + first):
                yield f"{path}, row {place}{within}", row
            number += len(batch)


def _metadata(path: Path) -> Any:
    """The footer of a file, which is large where there are many row groups: read once for all who read the file."""
    state = path.stat()
    return _footer(path, (state.st_ino, state.st_size, state.st_mtime_ns))


@functools.lru_cache(maxsize=4)
def _footer(path: Path, state: tuple[int, ...]) -> Any:
    import pyarrow.parquet

    return pyarrow.parquet.read_metadata(path)


@contextlib.contextmanager
def _opened(path: Path) -> Iterator[Any]:
    import pyarrow
    import pyarrow.parquet

    try:
        with pyarrow.parquet.ParquetFile(path, metadata=_metadata(path)) as file:
            yield file
    except (pyarrow.ArrowException, OSError) as error:
        raise ValueError(f"a parquet file must be readable; {path}: {error}") from error
