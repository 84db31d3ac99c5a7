"""The bytes of files, compressed or not, and their text, always in UTF-8."""

import gzip
import io
from collections.abc import Iterator
from pathlib import Path
from typing import Any

COMPRESSED = (".gz", ".zst")
"""The suffixes of compressed files."""


def chunks(path: Path, start: int = 0, most: int | None = None, size: int = 2**20) -> Iterator[bytes]:
    """The decompressed bytes of a file, or at most a number of them from an offset on.

    **Raises:** `ValueError`, with the file, if it cannot be read or decompressed.
    """
    try:
        with _opened(path) as file:
            if start:
                file.seek(start)
            while chunk := file.read(size if most is None else min(size, most)):
                yield chunk
                most = None if most is None else most - len(chunk)
    except (OSError, EOFError, ValueError) as error:  # zlib's errors and those of pyarrow are among these or below
        raise ValueError(f"a file must be readable; {path}: {error}") from error


def _opened(path: Path) -> Any:
    match path.suffix.lower():
        case ".gz":
            return _Gzip(path)
        case ".zst":
            _require_zstd(path)
            import pyarrow

            return io.BufferedReader(pyarrow.input_stream(str(path), compression="zstd"))
        case _:
            return path.open("rb")


class _Gzip(gzip.GzipFile):
    """A gzip file whose damage is always an OSError."""

    def read(self, size: int | None = -1) -> bytes:
        import zlib

        try:
            return super().read(size)
        except zlib.error as error:
            raise OSError(str(error)) from error


def decoded(content: bytes, place: str) -> str:
    """UTF-8 as text, without a byte order mark.

    **Raises:** `ValueError` with the place.
    """
    try:
        return content.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise ValueError(f"a text file must be UTF-8; {place}: {error}") from error


def compressed(content: bytes, compression: str) -> bytes:
    """Content as a part of a compressed file, which may have any number of them."""
    if compression == ".gz":
        return gzip.compress(content, mtime=0)
    if compression == ".zst":
        import pyarrow

        return bytes(pyarrow.compress(content, codec="zstd", asbytes=True))
    return content


def _require_zstd(path: Path) -> None:
    try:
        import pyarrow

        able = pyarrow.Codec.is_available("zstd")
    except ImportError:
        able = False
    if not able:
        raise ValueError(f"a .zst file needs the package pyarrow with zstd (pip install pyarrow); got {path}")
