"""Files and folders that are written as a whole or not at all, without loss of what other programs wrote there."""

import contextlib
import csv
import errno
import hashlib
import json
import math
import os
import shutil
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Any

ADAPTER_FILES = ("adapter_config.json", "adapter_model.safetensors")  # of a saved model only if noiselab.json says so
# Names of the files of a saved model. Three of them are common names, and are recognised by their content.
WEIGHTS = ("model.safetensors", "model-*-of-*.safetensors", "model.safetensors.index.json")
MODEL_FILES = (
    *WEIGHTS,
    *("config.json", "generation_config.json", "noiselab.json", "settings.json", "README.md", "chat_template.jinja"),
    *("tokenizer.json", "tokenizer_config.json", "special_tokens_map.json", "added_tokens.json"),
    *("vocab.json", "vocab.txt", "merges.txt", "tokenizer.model", "spiece.model", "sentencepiece.bpe.model"),
)
MARKS = (
    "config.json",
    "tokenizer_config.json",
    "model.safetensors",
    "noiselab.json",
)  # other names alone prove nothing
KEYS = {
    "config.json": ("model_type", "architectures", "transformers_version"),
    "settings.json": ("numbers", "decay_all"),
}
CARD, CARD_START = "README.md", "---\nlibrary_name: noiselab\n"
NEW, OLD = ".noiselab-new-", ".noiselab-old-"


def as_path(path: object) -> Path:
    """The path of an output.

    **Arguments:**

    - `path`: text that is not empty, or an `os.PathLike` of text.

    **Raises:** `ValueError` for anything else.
    """
    found = os.fspath(path) if isinstance(path, str | os.PathLike) else None
    if not isinstance(found, str) or not found:
        raise ValueError(f"the output must be a path that is not empty, as text or a pathlib.Path; got {path!r}")
    return Path(found)


def sha256(path: Path) -> str:
    """The SHA-256 of a file's contents, in hexadecimal."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


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

    Each writer has a file of its own, of the same name in a folder of its own: of two that write at once, the last wins.
    What killed processes left beside `path` is removed.

    **Arguments:**

    - `path`: the file to create, or to replace.

    **Raises:** `ValueError` if no file can be written there, because it is a folder, or one above it a file.
    """
    with contextlib.ExitStack() as stack:
        with writable(path, "a file"):
            if path.is_dir():
                raise ValueError("it is a folder")
            path.parent.mkdir(parents=True, exist_ok=True)
            remove_abandoned(path, path.parent)
            folder = stack.enter_context(_temporary(path, path.parent))
        temporary = folder / path.name
        yield temporary
        flush(temporary)
        os.replace(temporary, path)
    flush(path.parent)


def write_text(path: Path, text: str) -> None:
    """Write a text file so that `path` holds either its old content or all of the new one, even after a crash."""
    with new_file(path) as temporary:
        temporary.write_text(text, encoding="utf-8")


def write_json(path: Path, content: Mapping[str, Any]) -> None:
    """Write a JSON file in the same way; see `as_json`."""
    write_text(path, as_json(content) + "\n")


def write_csv(path: Path, rows: Sequence[Mapping[str, Any]]) -> None:
    """Write rows as CSV in the same way, under the names of the columns of the first; NaN and infinities are empty.

    **Raises:** `ValueError` if rows have other columns than the first.
    """
    columns = list(rows[0]) if rows else []
    with new_file(path) as temporary, temporary.open("w", encoding="utf-8", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(columns)
        for number, row in enumerate(rows):
            if list(row) != columns:
                raise ValueError(f"all rows must have the columns {columns}; row {number} has {list(row)}")
            writer.writerow(_finite(list(row.values())))


def as_json(content: Any) -> str:
    """JSON text of dicts, lists, texts and numbers; NaN and infinities, which JSON does not have, become null."""
    return json.dumps(_finite(content), indent=2, allow_nan=False)


def _finite(content: Any) -> Any:
    if isinstance(content, float):
        return content if math.isfinite(content) else None
    if isinstance(content, Mapping):
        return {key: _finite(value) for key, value in content.items()}
    return [_finite(value) for value in content] if isinstance(content, list | tuple) else content


@contextmanager
def new_folder(target: Path, *, subfolders: tuple[str, ...] = ()) -> Iterator[Path]:
    """A temporary folder whose content is put into `target` when the block ends, complete and flushed to disk.

    If `target` contains only files of a saved model and files that are written again, it is replaced as a whole.
    Otherwise the new files are added to it: each replaces a file of the same name at once, weights of an earlier save
    are removed, and all other files are kept, including a README.md that is not a model card of this library. What a
    killed process left beside `target` is removed.

    **Arguments:**

    - `target`: the folder to create, to replace or to add to.
    - `subfolders`: names of subfolders that belong to it, such as "ema"; they are replaced with it.

    **Raises:** `ValueError` if `target` is a file, or contains a config.json or settings.json of another program.
    """
    with contextlib.ExitStack() as stack:
        with writable(target, "a folder"):
            target = Path(target).resolve()
            check_target(target)
            target.parent.mkdir(parents=True, exist_ok=True)
            # In a folder that cannot be renamed, such as a mounted one, the files are written first.
            place = target if target.is_dir() and not _can_be_renamed(target) else target.parent
            remove_abandoned(target, place)
            temporary = stack.enter_context(_temporary(target, place))
        yield temporary
        temporary.chmod(target.stat().st_mode & 0o7777 if target.is_dir() else 0o755)
        for path in temporary.rglob("*"):
            flush(path)
        flush(temporary)
        if not target.exists():
            temporary.rename(target)
        elif place != target and _is_ours(target, temporary, subfolders):
            _swap(target, temporary)
        else:
            _add(target, temporary)
        flush(target.parent)


@contextmanager
def _temporary(target: Path, place: Path) -> Iterator[Path]:
    """A folder for a new version of `target`, locked while this process uses it, and removed in the end."""
    with contextlib.ExitStack() as stack:
        while True:
            folder = Path(tempfile.mkdtemp(prefix=f".{target.name}{NEW}", dir=place))
            try:
                stack.enter_context(_locked(folder))
            except (FileNotFoundError, BlockingIOError):
                continue  # another process took it for an abandoned one before it was locked
            except OSError:  # a file system without locks
                break
            if folder.exists():
                break
        try:
            yield folder
        finally:
            shutil.rmtree(folder, ignore_errors=True)


@contextmanager
def writable(path: str | Path, kind: str) -> Iterator[None]:
    """Context manager: whatever keeps a file or folder from being made inside is a `ValueError` that names it.

    **Arguments:**

    - `path`, `kind`: what is written, for the message.
    """
    try:
        yield
    except (OSError, ValueError, RuntimeError) as error:  # the latter of a loop of links
        if getattr(error, "errno", None) in (errno.ENOSPC, errno.EDQUOT, errno.EIO):
            raise  # not the fault of the path
        reason = getattr(error, "strerror", None) or error
        raise ValueError(f"the output must be {kind} that can be written; got {str(path)!r}: {reason}") from error


def check_target(folder: Path) -> None:
    """Check that a path is a folder or can become one.

    **Raises:** `ValueError` if the path, or one above it, is a file.
    """
    for path in (folder, *folder.parents):
        if path.exists() and not path.is_dir():
            raise ValueError(f"the target must be a folder; {str(path)!r} is a file")


def remove_abandoned(target: Path, place: Path) -> None:
    """Remove what killed processes left of earlier writes of `target`; an old folder without a successor is restored.

    **Arguments:**

    - `target`: the file or folder that was written.
    - `place`: where its temporary folders are.
    """
    for old in place.glob(f".{_escaped(target.name)}{OLD}*"):
        if not target.exists() and (old / target.name).is_dir():
            (old / target.name).rename(target)
        if target.exists():
            shutil.rmtree(old, ignore_errors=True)
    for left in place.glob(f".{_escaped(target.name)}{NEW}*"):
        try:
            with _locked(left):  # the lock of a killed process is free
                shutil.rmtree(left, ignore_errors=True)
        except OSError:
            continue


def _escaped(name: str) -> str:
    """The name as a pattern that matches only itself."""
    return "".join(f"[{letter}]" if letter in "*?[" else letter for letter in name)


@contextmanager
def _locked(folder: Path) -> Iterator[None]:
    """Hold the lock of a folder; `OSError` if another process holds it."""
    try:
        import fcntl
    except ImportError as error:
        raise OSError("this system has no locks of files") from error
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        yield
    finally:
        os.close(descriptor)


def _can_be_renamed(folder: Path) -> bool:
    """Whether another folder can take its place: not a mount, not a folder this process works in."""
    return not os.path.ismount(folder) and os.access(folder.parent, os.W_OK) and not Path.cwd().is_relative_to(folder)


def _is_model_file(path: Path) -> bool:
    """Whether a file is one of a saved model, by its name and, for common names, its content."""
    if path.name in ADAPTER_FILES and path.is_file() and not path.is_symlink():
        return _holds_adapter(path.parent)
    if path.is_symlink() or not path.is_file() or not any(fnmatchcase(path.name, name) for name in MODEL_FILES):
        return False
    try:
        if path.name == CARD:
            return path.read_text(encoding="utf-8").startswith(CARD_START)
        if path.name in KEYS:
            content = json.loads(path.read_text(encoding="utf-8"))
            return isinstance(content, dict) and any(key in content for key in KEYS[path.name])
    except (OSError, ValueError):
        return False
    return True


def _holds_adapter(folder: Path) -> bool:
    """Whether noiselab.json of a folder describes adapters."""
    try:
        content = json.loads((folder / "noiselab.json").read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return False
    return isinstance(content, dict) and bool(content.get("adapter"))


def _is_ours(folder: Path, new: Path, subfolders: tuple[str, ...]) -> bool:
    """Whether a folder contains nothing but files of a saved model and files that are written again."""
    entries = list(folder.iterdir())
    for path in entries:
        again = (new / path.name).is_file() and path.is_file() and path.name not in (CARD, *KEYS)
        below = path.name in subfolders and path.is_dir()
        if path.is_symlink() or not (again or _is_model_file(path) or (below and _is_ours(path, new / path.name, ()))):
            return False
    return not entries or any(path.name in MARKS for path in entries)


def _swap(target: Path, temporary: Path) -> None:
    """Replace a folder: a rename cannot replace one that is not empty, so for a moment the old one has another name."""
    old = Path(tempfile.mkdtemp(prefix=f".{target.name}{OLD}", dir=target.parent))
    target.rename(old / target.name)
    temporary.rename(target)
    shutil.rmtree(old)


def _add(target: Path, temporary: Path) -> None:
    """Move the files into a folder that contains others, the configuration last."""
    files = sorted(path.relative_to(temporary) for path in temporary.rglob("*") if not path.is_dir())
    for name in files:
        path = target / name
        check_target(path.parent)
        if path.is_dir():
            raise ValueError(f"a file must not take the place of a folder; {str(path)!r} is one")
        if name.name in KEYS and path.exists() and not _is_model_file(path):
            raise ValueError(
                f"a model must not replace files of other programs; {str(path)!r} is not one of a saved model: choose "
                "another folder"
            )
    for path in (target / name for name in ADAPTER_FILES if Path(name) not in files):
        if _is_model_file(path):  # adapters of an earlier save
            path.unlink()
    for name in sorted(files, key=lambda name: name.name == "config.json"):
        path = target / name
        if path.name == CARD and path.exists() and not _is_model_file(path):
            continue
        path.parent.mkdir(parents=True, exist_ok=True)
        os.replace(temporary / name, path)
    for folder in {name.parent for name in files}:
        weights = (*WEIGHTS, ADAPTER_FILES[1])
        if any(fnmatchcase(path.name, pattern) for path in _written(files, folder) for pattern in weights):
            for path in (target / folder).iterdir():
                stale = path.is_file() and any(fnmatchcase(path.name, pattern) for pattern in WEIGHTS)
                if stale and folder / path.name not in files:
                    path.unlink()
        flush(target / folder)


def _written(files: list[Path], folder: Path) -> list[Path]:
    return [name for name in files if name.parent == folder]
