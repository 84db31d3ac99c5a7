"""Large files of plain text as pieces: documents of about 64 KiB that end where a paragraph does.

A file of at most 4 MiB is one document. The cuts of a larger one are near the multiples of 64 KiB, each found from the
bytes that follow it, so that a piece can be read without those before it, and a compressed copy has the same pieces.
"""

import re
from collections.abc import Iterator
from pathlib import Path

from .contents import chunks, decoded

LARGE = 2**22
"""The size, in bytes of text, above which a file is read in pieces."""
PIECE = 2**16
"""The distance between cuts, in bytes."""
SEARCHED = 2**14
"""How far a cut is moved to find the end of a paragraph, a line or a word."""

_ENDS = (re.compile(rb"\n(?:[ \t\r]*\n)+"), re.compile(rb"\n"), re.compile(rb"[ \t]+"))


def is_large(path: Path) -> bool:
    """Whether a file of plain text that is not compressed is read in pieces."""
    return path.stat().st_size > LARGE


def piece_at(path: Path, number: int) -> str:
    """The text of a piece of a large file that is not compressed.

    **Raises:** `ValueError`, with the file, if it is not UTF-8 or cannot be read.
    """
    begin = number * PIECE
    content = b"".join(chunks(path, begin, PIECE + SEARCHED))
    first = _cut(content[:SEARCHED]) if number else 0
    last = PIECE + _cut(content[PIECE:]) if begin + PIECE < path.stat().st_size else len(content)
    return decoded(content[first:last], f"{path}, byte {begin + first}")


def whole_or_pieces(path: Path) -> Iterator[str]:
    """The text of a file, or the pieces of a large one, compressed or not.

    **Raises:** `ValueError`, with the file, if it is not UTF-8 or cannot be read.
    """
    held, begin, first = bytearray(), 0, 0
    large = False
    for chunk in chunks(path):
        held += chunk
        large = large or len(held) > LARGE
        while large and len(held) > PIECE + SEARCHED:  # so that the cut is not at the end of the file
            last = PIECE + _cut(bytes(held[PIECE : PIECE + SEARCHED]))
            yield decoded(bytes(held[first:last]), f"{path}, byte {begin + first}")
            del held[:PIECE]
            begin, first = begin + PIECE, last - PIECE
    while large and len(held) > PIECE:
        last = PIECE + _cut(bytes(held[PIECE : PIECE + SEARCHED]))
        yield decoded(bytes(held[first:last]), f"{path}, byte {begin + first}")
        del held[:PIECE]
        begin, first = begin + PIECE, last - PIECE
    yield decoded(bytes(held[first:]), f"{path}, byte {begin + first}" if large else str(path))


def _cut(content: bytes) -> int:
    """Where to cut, in the bytes that follow a multiple of the distance: after a paragraph, a line or a word, or before a
    character.
    """
    for end in _ENDS:
        if found := end.search(content):
            return found.end()
    return next((place for place, byte in enumerate(content) if byte & 0xC0 != 0x80), len(content))
