"""Tokens of a corpus in files on disk, read at random places: an index and any number of shards of equal rows."""

import bisect
import hashlib
import itertools
import json
import os
from collections import OrderedDict
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import Dataset

from ..files import sha256
from .blocks import as_row
from .corpus import fingerprint
from .tokenizers import load_tokenizer, tokenizer_key, vocabulary_size

if TYPE_CHECKING:
    import transformers

FORMAT = "noiselab.token_shards.1"
INDEX = "index.json"
FIELDS: dict[str, type] = {
    **{"corpus": str, "tokenizer": str, "vocab_size": int, "end": int, "pad": int, "length": int, "mode": str},
    **{"shard_rows": int, "complete": bool, "shards": list},
}
SHARD_FIELDS: dict[str, type] = {
    **{"file": str, "rows": int, "tokens": int, "bytes": int, "key": str, "sample": str, "sha256": str}
}
SAMPLES, SAMPLE = 4, 4096
"""How many places of a shard are compared when it is opened, and how many bytes at each."""
TOKENIZER = "tokenizer"
"""The folder, within that of the shards, of their tokenizer."""
OPEN = 256
"""The largest number of files that are open at a time; a process may often have no more than 1,024."""


class TokenShards(Dataset[dict[str, Tensor]]):
    """A map-style data set of the token blocks that `write_shards` or `noiselab tokenize` has written into a folder.

    Items are those of `TokenBlocks`. Each row is read from the disk when it is used, so that the memory does not grow with the
    data. When the folder is opened, the size of each shard and a few places in it are compared with the index; `verify`
    compares everything.

    **Arguments:**

    - `folder`: the folder.
    - `tokenizer`: the tokenizer that the tokens must be of; by default, any. `tokenizer()` loads that of the folder.
    - `separate`: as in `pack`.

    **Raises:** `ValueError` if the folder holds no complete shards, one is missing, cut or changed, or they are of another
    tokenizer.

    **Example:**

    ```python
    import tempfile
    from noiselab.data import TextCorpus, TokenShards, train_tokenizer, write_shards

    corpus = TextCorpus(["to be, or not to be", "that is the question"])
    tokenizer = train_tokenizer(corpus, vocab_size=259)
    folder = tempfile.mkdtemp()
    write_shards(corpus, tokenizer, folder, length=8)
    shards = TokenShards(folder, tokenizer=tokenizer)
    assert tokenizer.decode(shards[0]["input_ids"]) == "to be, o"
    ```
    """

    def __init__(
        self,
        folder: str | Path,
        *,
        tokenizer: "transformers.PreTrainedTokenizerBase | None" = None,
        separate: bool = False,
    ) -> None:
        self.folder = Path(folder)
        index = read_index(self.folder)
        if index is None or not index["complete"]:
            what = "none" if index is None else f"only {len(index['shards'])} (run the same noiselab tokenize again)"
            raise ValueError(f"a folder must hold all shards of a corpus; {str(folder)!r} has {what}")
        self.length, self.vocab_size = index["length"], index["vocab_size"]
        self.separate_at = index["end"] if separate else None
        self.index = index
        for shard in index["shards"]:
            check_shard(self.folder / shard["file"], shard)
        if tokenizer is not None:
            self.check_tokenizer(tokenizer)
        self._ends = list(itertools.accumulate(shard["rows"] for shard in index["shards"]))
        self._places = torch.arange(self.length)
        self._open: OrderedDict[int, _Shard] = OrderedDict()

    @property
    def key(self) -> str:
        """A hash of all that items depend on, from the hashes of tokens in the index."""
        settings = [FORMAT, *map(str, (self.length, self.vocab_size, self.separate_at))]
        return fingerprint([*settings, *(shard["key"] for shard in self.index["shards"])])

    @property
    def real_tokens(self) -> int:
        """The total number of tokens without padding."""
        return sum(shard["tokens"] for shard in self.index["shards"])

    def check_tokenizer(self, tokenizer: "transformers.PreTrainedTokenizerBase") -> None:
        """Raise `ValueError`, with the names of both, unless the tokens are of this tokenizer."""
        if self.index["tokenizer"] != tokenizer_key(tokenizer):
            raise ValueError(
                f"the shards must be of the same tokenizer; those in {str(self.folder)!r} are of {_described(self.index)}; got "
                f"{tokenizer.name_or_path or 'one'!r} of {vocabulary_size(tokenizer):,} tokens"
            )

    def tokenizer(self) -> "transformers.PreTrainedTokenizerBase":
        """Load the tokenizer of the tokens, which is stored beside them.

        **Raises:** `ValueError` if there is none, or another one.
        """
        place = self.folder / TOKENIZER
        if not place.is_dir():
            raise ValueError(
                f"a folder of shards must hold their tokenizer to train from it alone; {str(self.folder)!r} has none (name the "
                f"one that they are of: {_described(self.index)})"
            )
        from ..networks.model_folders import open_tokenizer

        if tokenizer_key(open_tokenizer(place)) != self.index["tokenizer"]:
            raise ValueError(
                f"the tokenizer in a folder of shards must be theirs; {str(place)!r} differs from that of the index"
            )
        return load_tokenizer(place)  # adds special tokens that it lacks

    def verify(self) -> None:
        """Read all shards and compare them with the index.

        **Raises:** `ValueError` naming the first that has changed.
        """
        for shard in self.index["shards"]:
            if sha256(self.folder / shard["file"]) != shard["sha256"]:
                raise ValueError(_changed(self.folder / shard["file"]))

    def __len__(self) -> int:
        return self._ends[-1]

    def __getitem__(self, index: int) -> dict[str, Tensor]:
        index = int(index)
        place = index + len(self) if index < 0 else index
        if not 0 <= place < len(self):
            raise IndexError(f"a row must lie in [0, {len(self) - 1}]; got {index}")
        number = bisect.bisect_right(self._ends, place)
        tokens, real = self._shard(number).row(place - (self._ends[number - 1] if number else 0))
        return as_row(torch.from_numpy(tokens.astype(np.int64)), self._places < real, self.separate_at)

    def _shard(self, number: int) -> "_Shard":
        """An open file; those that were used last stay open."""
        if number in self._open:
            self._open.move_to_end(number)
        else:
            found = self.index["shards"][number]
            self._open[number] = _Shard(self.folder / found["file"], (found["rows"], self.length))
            if len(self._open) > OPEN:
                self._open.popitem(last=False)
        return self._open[number]

    def __getstate__(self) -> dict[str, Any]:
        return {**vars(self), "_open": OrderedDict()}  # a loader worker that is spawned opens the files itself

    def __repr__(self) -> str:
        shards = len(self.index["shards"])
        return (
            f"TokenShards(blocks={len(self)}, length={self.length}, real_tokens={self.real_tokens}, "
            f"vocab_size={self.vocab_size}, shards={shards})"
        )


def read_index(folder: Path) -> dict[str, Any] | None:
    """The index of a folder of shards, or `None` if it has none.

    **Raises:** `ValueError` if it cannot be read or has another format.
    """
    path = folder / INDEX
    if not path.is_file():
        return None
    try:
        index = json.loads(path.read_text(encoding="utf-8"))
    except (ValueError, RecursionError) as error:
        raise ValueError(f"the index of shards must be JSON; {path}: {error}") from error
    if not isinstance(index, dict) or index.get("format") != FORMAT:
        found = index.get("format") if isinstance(index, dict) else None
        raise ValueError(f"the index of shards must be of the format {FORMAT!r}; {path} is {found!r}")
    _check_fields(index, FIELDS, str(path))
    for number, shard in enumerate(index["shards"]):
        _check_fields(shard, SHARD_FIELDS, f"shard {number} of {path}")
        if Path(shard["file"]).name != shard["file"]:
            raise ValueError(f"a shard must be in the folder of its index; {path} names {shard['file']!r}")
    if index["complete"] and not index["shards"]:
        raise ValueError(f"the index of shards must name at least one; {path} has none")
    return index


def _described(index: dict[str, Any]) -> str:
    """The tokenizer of shards, for messages."""
    return f"{index.get('tokenizer_name') or 'a tokenizer'!r} of {index['vocab_size']:,} tokens"


def _check_fields(content: Any, fields: dict[str, type], place: str) -> None:
    for name, kind in fields.items():
        value = content.get(name) if isinstance(content, dict) else None
        if type(value) is not kind or (isinstance(value, int) and value < 0):
            raise ValueError(f"the index of shards must have {name}, a {kind.__name__}; {place} has {value!r:.60}")


def sample(path: Path) -> str:
    """A hash of a few places of a file, spread evenly from its start to its end."""
    digest, size = hashlib.blake2b(digest_size=16), path.stat().st_size
    with path.open("rb") as file:
        for number in range(SAMPLES):
            file.seek(max(0, size - SAMPLE) * number // (SAMPLES - 1))
            digest.update(file.read(SAMPLE))
    return digest.hexdigest()


def check_shard(path: Path, shard: dict[str, Any]) -> None:
    """Compare the size of a shard and a few places in it with the index.

    **Raises:** `ValueError` if it is missing, cut or changed.
    """
    if not path.is_file():
        raise ValueError(f"all shards of the index must be there; {path} is missing")
    size = path.stat().st_size
    if size != shard["bytes"]:
        raise ValueError(f"a shard must be whole; {path} has {size:,} bytes instead of {shard['bytes']:,}")
    if sample(path) != shard["sample"]:
        raise ValueError(_changed(path))


def _changed(path: Path) -> str:
    return (
        f"a shard must be as it was written; {path} differs from the index, so that it is damaged or one of other tokens "
        "(delete it and index.json, and run the same noiselab tokenize again)"
    )


class _Shard:
    """An open shard. Rows are read, not mapped: a map counts as memory of the process and ends it when a disk fails."""

    def __init__(self, path: Path, shape: tuple[int, int]) -> None:
        self.path, self.length = path, shape[1]
        self._file = path.open("rb", buffering=0)
        start = int.from_bytes(self._file.read(8), "little")
        header = json.loads(self._file.read(start))
        self._begins: dict[str, tuple[np.dtype[Any], int]] = {}
        for name in ("tokens", "real"):
            entry = header[name]
            if tuple(entry["shape"]) != (shape if name == "tokens" else shape[:1]):
                raise ValueError(_changed(path))
            dtype: np.dtype[Any] = np.dtype({"U16": "<u2", "U32": "<u4", "I32": "<i4"}[entry["dtype"]])
            self._begins[name] = dtype, 8 + start + entry["data_offsets"][0]

    def row(self, row: int) -> tuple[np.ndarray, int]:
        """The tokens of a row, and the number of those that are real.

        **Raises:** `ValueError` if the file has been cut since it was opened.
        """
        return self._read("tokens", row * self.length, self.length), int(self._read("real", row, 1)[0])

    def _read(self, name: str, first: int, count: int) -> np.ndarray:
        dtype, begin = self._begins[name]
        size = count * dtype.itemsize
        # At a place of its own: processes that were forked share the position of the file.
        found = os.pread(self._file.fileno(), size, begin + first * dtype.itemsize)
        if len(found) != size:
            raise ValueError(_changed(self.path))
        return np.frombuffer(found, dtype)

    def __del__(self) -> None:
        if hasattr(self, "_file"):
            self._file.close()
