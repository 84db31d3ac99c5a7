"""Corpora streamed from data sets on the Hugging Face Hub."""

import glob
import io
import json
import zlib
from collections import deque
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from .contents import COMPRESSED, chunks
from .corpus import Corpus, Mapped, Part, Place, fingerprint
from .files import signature
from .records import text_of

if TYPE_CHECKING:
    import datasets

CHUNK = 2**20
"""How many bytes of JSON or text `datasets` parses at once."""
FEW_SHARDS = 64
"""With fewer shards, a data set is divided more finely where that is possible."""


class HubCorpus(Corpus):
    """The texts of any data set that the `datasets` library can stream.

    Nothing is stored on disk, and the data set is opened when the first text is read. Its parts are its shards (the row
    groups of Parquet files if it has fewer than 64 shards), each of which is opened by one reader only. A reader that
    resumes opens its shard again and skips the rows that it has read, as the state of a stream of `datasets` does: no other
    shard is opened, and row groups before its own are not read.

    **Arguments:**

    - `path`: the name of a data set, such as `"roneneldan/TinyStories"`, a folder of files, or a format (`"json"`, `"parquet"`,
      `"text"`) together with `data_files`.
    - `config`: the configuration of the data set, if it has several.
    - `split`: the split to read.
    - `field`: the column that contains the text, as for `FileCorpus`. Empty and null texts are skipped.
    - `revision`: a commit of the data set. Without it, the cache of packed tokens does not notice that a data set on the
      Hub has changed.
    - `data_files`: as in `datasets.load_dataset`. Changes of local files, also of those that a pattern or a local folder
      `path` finds, are noticed; changes behind a URL are not.
    - `name`: a short name used in file names and messages; default: derived from `path` and `split`.

    **Raises:** `ValueError` while reading, if the field is missing or is not text, if a file cannot be read or has been cut, or
    if all texts are empty.
    """

    def __init__(
        self,
        path: str,
        config: str | None = None,
        *,
        split: str = "train",
        field: str = "text",
        revision: str | None = None,
        data_files: str | Sequence[str] | Mapping[str, str | Sequence[str]] | None = None,
        name: str | None = None,
    ) -> None:
        self.path, self.config, self.split, self.field, self.revision = path, config, split, field, revision
        self.data_files = data_files
        self.name = name if name is not None else f"{path}-{split}".replace("/", "-")
        self._opened: tuple[str, datasets.IterableDataset] | None = None

    @property
    def key(self) -> str:  # type: ignore[override]
        """A hash of the arguments and of the contents of all local files, as they are now and wherever they are."""
        home = Path(self.path)
        path = _contents(home) if home.exists() else self.path
        asked = [path, self.config, self.split, self.field, self.revision, _named(self.data_files, home)]
        return fingerprint([json.dumps(asked, default=str)])

    @property
    def dataset(self) -> "datasets.IterableDataset":
        """The underlying streamed data set, opened on first use, and anew when a local file has changed."""
        from datasets import load_dataset_builder

        key = self.key
        _register_zstd()
        if self._opened is None or self._opened[0] != key:
            try:
                builder = load_dataset_builder(
                    self.path, self.config, revision=self.revision, data_files=self.data_files
                )
                opened = builder.as_streaming_dataset(split=self.split)
            except (EOFError, OSError, zlib.error) as error:  # of the first file, which has the names of the columns
                cut = self._cut()
                if isinstance(error, OSError) and not cut:
                    raise  # such as a data set that is not found
                raise ValueError(f"a data set must be readable; {self.name!r}{cut}: {error}") from error
            # The columns and their types have been read from ten megabytes; each reader holds as much as is parsed at once.
            if getattr(builder.config, "chunksize", 0) > CHUNK:
                builder.config.chunksize = CHUNK
            self._opened = key, opened
        return self._opened[1]

    def _cut(self) -> str:
        """The first local file that is compressed and cannot be read to its end, for messages."""
        for path in sorted(Path(self.path).rglob("*")) if Path(self.path).is_dir() else []:
            try:
                if path.suffix.lower() in COMPRESSED and path.is_file():
                    deque(chunks(path), maxlen=0)
            except ValueError:
                return f", {path}"
        return ""

    def __iter__(self) -> Iterator[str]:
        found = False
        for text in filter(None, self.read(self.dataset)):
            found = True
            yield text
        if not found:
            raise ValueError(f"a corpus must contain at least one non-empty text; {self.name!r} has none")

    def parts(self) -> Sequence[Part]:
        """One part for each shard of the data set, or row group of a Parquet file if there are few shards."""
        dataset = self.dataset
        if dataset.num_shards < FEW_SHARDS and hasattr(dataset, "reshard"):
            dataset = dataset.reshard()
        count = dataset.num_shards
        return Mapped(range(count), lambda number: _Shard(self, dataset.shard(count, number)))

    def read(self, dataset: "datasets.IterableDataset") -> Iterator[str]:
        """Yield the texts of rows of the data set; empty and null ones are empty."""
        # `iter`, not `__iter__`, which divides the shards among loader workers. The parts are already divided, so that
        # dividing them again would leave all workers but the first without data.
        _register_zstd()
        batches = dataset.iter(batch_size=64)
        while True:
            try:
                batch = next(batches, None)
            except (EOFError, OSError, ValueError, zlib.error) as error:  # pyarrow's are among these
                raise ValueError(
                    f"a data set must be readable; {self.name!r}{self._cut()}: {type(error).__name__}, {error}"
                ) from error
            if batch is None:
                return
            column = self.field if self.field in batch else self.field.partition(".")[0]
            if column not in batch:
                raise ValueError(f"a data set must have the field {self.field!r}; {self.name!r} has {sorted(batch)}")
            for value in batch[column]:
                yield text_of({column: value}, self.field, self.name) or ""


def _register_zstd() -> None:
    """Let fsspec, with which `datasets` opens files, read .zst by pyarrow where it has no other package for it."""
    from fsspec.compression import available_compressions, register_compression

    if "zstd" not in available_compressions():
        register_compression("zstd", _zstd_file, "zst")


def _zstd_file(file: Any, mode: str = "rb", **_: Any) -> Any:
    import pyarrow

    return io.BufferedReader(pyarrow.CompressedInputStream(pyarrow.PythonFile(file, mode="r"), "zstd"))


class _Shard(Part):
    """A shard of a data set; a place is a number of rows, which the library of data sets skips without decoding them."""

    def __init__(self, corpus: HubCorpus, shard: "datasets.IterableDataset") -> None:
        self.corpus, self.shard = corpus, shard

    def read(self, start: Place = None) -> Iterator[tuple[str, Place]]:
        first = start or 0
        rows = self.shard.skip(first) if first else self.shard
        for number, text in enumerate(self.corpus.read(rows), start=first + 1):
            if text:
                yield text, number


def _named(data_files: str | Sequence[str] | Mapping[str, str | Sequence[str]] | None, home: Path) -> Any:
    """The same structure with the contents of files on this machine in place of their names."""
    if data_files is None:
        return None
    if isinstance(data_files, Mapping):
        return {split: _named(files, home) for split, files in data_files.items()}
    if not isinstance(data_files, str):
        return [_named(str(file), home) for file in data_files]
    name = data_files.removeprefix("file://")
    # A name may contain signs of patterns, and a pattern may find folders.
    patterns = [name, str(home / name)] if home.exists() else [name]
    found = [
        _contents(Path(place))
        for pattern in patterns
        for place in sorted({pattern, *glob.glob(pattern, recursive=True, include_hidden=True)})
        if Path(place).exists()
    ]
    return found or data_files


def _contents(place: Path) -> list[list[str]]:
    """The names and contents of all files in a folder but hidden ones, or the contents of one file."""
    if place.is_file():
        return [[signature(place)]]
    below = [(file, file.relative_to(place)) for file in sorted(place.rglob("*")) if file.is_file()]
    return [[str(name), signature(file)] for file, name in below if not any(part[0] == "." for part in name.parts)]
