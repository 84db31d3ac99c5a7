"""Odd files in place of valid ones, and the law: a sentence that names the file, or a result; and nothing written."""

import json
import os
import traceback
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from fuzzing import LIBRARY

DEEP = 5_000
TYPES = {
    "array": "[]",
    "number": "3",
    "text": '"x"',
    "null": "null",
    "truth": "true",
    "object": "{}",
    "rows": '[{"a": 1}]',
}
VALUES = {
    "null": "null",
    "array": "[]",
    "object": "{}",
    "text": '"x"',
    "-1": "-1",
    "NaN": "NaN",
    "1e400": "1e400",
    "nested": "[[[1]]]",
}


def _link(path: Path, target: str) -> None:
    path.unlink()
    path.symlink_to(target)


def _folder(path: Path) -> None:
    path.unlink()
    path.mkdir()


def _unreadable(path: Path) -> None:
    path.chmod(0)


def spoilt(content: bytes, text: bool) -> Iterator[tuple[str, Callable[[Path], Any]]]:
    """Ways to spoil a file with this content, by name."""
    yield "missing", Path.unlink
    yield "a folder", _folder
    yield "a loop of links", lambda path: _link(path, path.name)
    yield "a link to nothing", lambda path: _link(path, "nothing there")
    if os.geteuid():
        yield "unreadable", _unreadable
    half, middle = len(content) // 2, bytes([content[len(content) // 2] ^ 255])
    contents = {
        "empty": b"",
        "truncated": content[:half],
        "without its last byte": content[:-1],
        "a changed byte": content[:half] + middle + content[half + 1 :],
        "binary": bytes(range(256)) * 4,
        "zeros": bytes(64),
    }
    if text:
        words = content.decode()
        contents |= {
            "latin-1": content[:half] + "é".encode("latin-1") + content[half:],
            "utf-16": words.encode("utf-16"),
            "a byte order mark": b"\xef\xbb\xbf" + content,
            "line ends of Windows": words.replace("\n", "\r\n").encode(),
            "deep arrays": b"[" * DEEP,
            "deep objects": b'{"a":' * DEEP,
            "a number of 5,000 digits": b'{"text": ' + b"1" * 5000 + b"}",
            "NaN": b'{"text": NaN}',
            **{f"JSON of another type: {name}": value.encode() for name, value in TYPES.items()},
        }
    for name, new in contents.items():
        yield name, lambda path, new=new: path.write_bytes(new)


def other_values(content: bytes) -> Iterator[tuple[str, Callable[[Path], Any]]]:
    """Each value of a JSON object replaced by others, and left out."""
    settings = json.loads(content)
    for key in settings:
        rest = {name: value for name, value in settings.items() if name != key}
        yield f"without {key}", lambda path, rest=rest: path.write_text(json.dumps(rest))
        for name, value in VALUES.items():
            new = json.dumps({**rest, key: 0}).replace(f'"{key}": 0', f'"{key}": {value}')
            yield f"{key} is {name}", lambda path, new=new: path.write_text(new)


def snapshot(folder: Path) -> dict[str, Any]:
    """Everything in a folder, to notice what is written."""
    found: dict[str, Any] = {}
    for path in sorted(folder.rglob("*")):
        name = str(path.relative_to(folder))
        found[name] = os.readlink(path) if path.is_symlink() else path.is_dir() or path.stat().st_size
    return found


def verdict_of(call: Callable[[], Any], names: tuple[str, ...]) -> tuple[str, Any]:
    """ "right" with the result, "refused" for a sentence that names the file, or what is wrong."""
    try:
        return "right", call()
    except ValueError as error:
        last = Path(traceback.extract_tb(error.__traceback__)[-1].filename)
        if LIBRARY not in last.parents:
            return f"ValueError of {last.name}: {str(error)[:90]}", None
        if len(str(error).split()) < 5 or not any(name in str(error) for name in names):
            return f"a sentence that names no file: {str(error)[:120]}", None
        return "refused", None
    except Exception as error:
        return f"{type(error).__name__}: {str(error)[:90]}", None
