"""Sealed checkpoints that detect damage, and the check that a resumed run has the same settings.

A checkpoint is *sealed*: after its last file, a manifest with the size and SHA-256 of every file is written, flushed to
disk and renamed into place. A folder without a manifest is incomplete; a folder that does not match its manifest, or
lacks a file that a resumed run reads, is damaged. Neither is ever loaded.
"""

import errno
import json
import logging
import re
import shutil
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from ..files import as_json, flush, sha256, write_json

logger = logging.getLogger(__name__)

MANIFEST = "manifest.json"
SETTINGS = "settings.json"
DAMAGED = "damaged-"
PROGRESS = "progress.json"
# What a resumed run reads, by name and a pattern of which one must be there.
NEEDED = {
    "the weights and the optimizer": "state/*.safetensors",
    "the step": PROGRESS,
    "the settings": SETTINGS,
}


def files(folder: Path) -> list[Path]:
    """All files below `folder` except the manifest, in a fixed order."""
    return sorted(path for path in folder.rglob("*") if path.is_file() and path != folder / MANIFEST)


def missing(folder: Path) -> str | None:
    """Describe what a resumed run needs and does not find in a checkpoint, or return `None` if all is there."""
    for what, pattern in NEEDED.items():
        if not any(folder.glob(pattern)):
            return f"{what} ({pattern}) is missing from {folder.name}"
    try:
        processes = int(json.loads((folder / PROGRESS).read_text(encoding="utf-8"))["processes"])
    except (OSError, ValueError, TypeError, KeyError, RecursionError, OverflowError) as error:
        return f"{PROGRESS} cannot be read ({error})"
    absent = processes - len(list(folder.glob("data-*.json")))
    return f"the position in the data of {absent} of {processes} processes is missing" if absent > 0 else None


def seal(folder: Path) -> None:
    """Mark a checkpoint as complete: flush its files, then write their sizes and hashes to the manifest.

    **Arguments:**

    - `folder`: a checkpoint to which nothing more will be written.

    **Raises:** `FileNotFoundError` if a file that a resumed run reads is missing.
    """
    absent = missing(folder)
    if absent is not None:
        raise FileNotFoundError(errno.ENOENT, f"a checkpoint must contain all that a resumed run reads; {absent}")
    content = {}
    for path in files(folder):
        flush(path)
        content[str(path.relative_to(folder))] = {"size": path.stat().st_size, "sha256": sha256(path)}
    write_json(folder / MANIFEST, content)
    flush(folder.parent)


def damage(folder: Path) -> str | None:
    """Describe the damage to a checkpoint, or return `None` if it is as it was sealed and has all that a run resumes from."""
    try:
        content = json.loads((folder / MANIFEST).read_text(encoding="utf-8"))
        expected = {name: (entry["size"], entry["sha256"]) for name, entry in content.items()}
    except FileNotFoundError:
        return f"it was never finished ({MANIFEST} is missing)"
    except (OSError, ValueError, TypeError, KeyError, AttributeError, RecursionError) as error:
        return f"{MANIFEST} cannot be read ({error})"
    for name, (size, digest) in expected.items():
        path = folder / name
        if not path.is_file():
            return f"{name} is missing"
        if path.stat().st_size != size:
            return f"{name} has {path.stat().st_size} bytes instead of {size}"
        if sha256(path) != digest:
            return f"the content of {name} has changed"
    extra = sorted({str(path.relative_to(folder)) for path in files(folder)} - set(expected))
    return f"{extra[0]} does not belong to it" if extra else missing(folder)


def intact(folder: Path) -> bool:
    """Whether a checkpoint is exactly as it was sealed, with all that a resumed run reads."""
    return damage(folder) is None


def checkpoints(run: Path) -> list[Path]:
    """The checkpoint folders of a run, sealed or not, newest first."""
    found = [
        (int(m[1]), path) for path in run.glob("checkpoint-*") if (m := re.fullmatch(r"checkpoint-(\d+)", path.name))
    ]
    return [path for _, path in sorted(found, reverse=True) if path.is_dir()]


def rotate(run: Path, written: Path, keep: int | None) -> None:
    """Delete all but the newest checkpoints up to the one just written, in the order of their steps, and unfinished ones.

    Modification times are not used: a clock may be set back. Checkpoints of later steps, of a run that was resumed from an
    earlier one, neither count nor are deleted: they are written again when the run arrives there.

    **Arguments:**

    - `run`: the folder of the run.
    - `written`: its checkpoint that was sealed last; never deleted.
    - `keep`: the number of checkpoints to keep, or `None` for all.
    """
    found = checkpoints(run)
    if keep is not None and written in found:
        for folder in found[found.index(written) :][keep:]:
            shutil.rmtree(folder, ignore_errors=True)
    remove_unfinished(run)


def remove_unfinished(run: Path) -> None:
    """Delete what killed saves left in a run that has an intact checkpoint: folders without a manifest."""
    for folder in [*checkpoints(run), *run.glob(f"{DAMAGED}checkpoint-*")]:
        if folder.is_dir() and not (folder / MANIFEST).exists():
            shutil.rmtree(folder, ignore_errors=True)
            logger.warning("deleted %s: it was never finished", folder)


def last_intact(run: Path, *, set_aside: bool = False) -> Path | None:
    """The newest intact checkpoint of a run; damage to newer ones is logged.

    **Arguments:**

    - `run`: the folder that contains `checkpoint-<step>` folders; it need not exist.
    - `set_aside`: rename unusable checkpoints to `damaged-checkpoint-<step>`, so that they neither count towards the
      limit on checkpoints nor mix with new files. Those that were never finished are deleted once there is an intact one.

    **Returns:** the folder, or `None` if there is none.
    """
    for folder in checkpoints(run):
        reason = damage(folder)
        if reason is None:
            if set_aside:
                remove_unfinished(run)
            return folder
        kept = folder
        if set_aside:
            kept = folder.with_name(DAMAGED + folder.name)
            shutil.rmtree(kept, ignore_errors=True)
            folder.rename(kept)
        logger.warning("ignored checkpoint %s: %s%s", folder, reason, f"; kept as {kept.name}" if set_aside else "")
    return None


def differences(saved: Any, now: Any, name: str = "") -> Iterator[tuple[str, Any, Any]]:
    """Yield (name, saved value, current value) of each setting that differs; names of nested settings are dotted."""
    if isinstance(saved, Mapping) and isinstance(now, Mapping):
        for key in [*saved, *(key for key in now if key not in saved)]:
            yield from differences(saved.get(key), now.get(key), f"{name}.{key}" if name else str(key))
    elif saved != now:
        yield name, saved, now


def check_settings(folder: Path, now: Mapping[str, Any]) -> None:
    """Check that a checkpoint is resumed with the settings that determine its numerical results.

    **Arguments:**

    - `folder`: a sealed checkpoint.
    - `now`: the current settings, of JSON types.

    **Raises:** `ValueError` naming each setting that differs, with both values.
    """
    saved = json.loads((folder / SETTINGS).read_text(encoding="utf-8"))
    changed = list(differences(saved, json.loads(as_json(now))))
    if changed:
        lines = "".join(f"\n  {name}: {old!r} in the checkpoint, {new!r} now" for name, old, new in changed)
        raise ValueError(f"{folder} must be resumed with the settings it was trained with; these differ:{lines}")
