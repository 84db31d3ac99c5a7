"""Files and folders that are written as a whole or not at all."""

import json
import os
import shutil
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any


def flush(path: Path) -> None:
    """Force a file, or the entries of a folder, onto the disk."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


@contextmanager
def new_file(path: Path) -> Iterator[Path]:
    """A temporary file that replaces `path` when the block ends, so `path` holds either the old or all of the new content.

    **Arguments:**

    - `path`: the file to create, or to replace.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.tmp")
    try:
        yield temporary
        flush(temporary)
        os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)
    flush(path.parent)


def write_text(path: Path, text: str) -> None:
    """Write a text file so that `path` holds either its old content or all of the new one, even after a crash."""
    with new_file(path) as temporary:
        temporary.write_text(text, encoding="utf-8")


def write_json(path: Path, content: Mapping[str, Any]) -> None:
    """Write a JSON file in the same way."""
    write_text(path, json.dumps(content, indent=2) + "\n")


@contextmanager
def new_folder(target: Path) -> Iterator[Path]:
    """A temporary folder that replaces `target` when the block ends, complete and flushed to disk.

    **Arguments:**

    - `target`: the folder to create, or to replace.
    """
    target.parent.mkdir(parents=True, exist_ok=True)
    temporary = Path(tempfile.mkdtemp(prefix=f".{target.name}-", dir=target.parent))
    try:
        yield temporary
        temporary.chmod(0o755)
        for path in temporary.rglob("*"):
            flush(path)
        flush(temporary)
        if target.exists():
            # A rename cannot replace a folder that is not empty; between these two renames the old one has another name.
            old = Path(tempfile.mkdtemp(prefix=f".{target.name}-old-", dir=target.parent))
            target.rename(old / target.name)
            temporary.rename(target)
            shutil.rmtree(old)
        else:
            temporary.rename(target)
        flush(target.parent)
    finally:
        shutil.rmtree(temporary, ignore_errors=True)
