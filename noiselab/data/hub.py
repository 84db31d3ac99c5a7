"""Corpora streamed from data sets on the Hugging Face Hub."""

import glob
import json
import random
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from .corpus import Corpus, check_part, fingerprint
from .files import signature
from .records import text_of

if TYPE_CHECKING:
    import datasets


class HubCorpus(Corpus):
    """The texts of any data set that the `datasets` library can stream.

    Nothing is stored on disk, and the data set is opened when the first text is read. If it has at least one shard for
    each part, a part opens only its own shards; otherwise every part reads all shards and keeps every `count`-th text.

    **Arguments:**

    - `path`: the name of a data set, such as `"roneneldan/TinyStories"`, or a format (`"json"`, `"parquet"`, `"text"`)
      together with `data_files`.
    - `config`: the configuration of the data set, if it has several.
    - `split`: the split to read.
    - `field`: the column that contains the text, as for `FileCorpus`. Empty and null texts are skipped.
    - `revision`: a commit of the data set. Without it, the cache of packed tokens does not notice that a data set on the
      Hub has changed.
    - `data_files`: as in `datasets.load_dataset`. Changes of local files, also of those that a pattern or a local folder
      `path` finds, are noticed; changes behind a URL are not.
    - `name`: a short name used in file names and messages; default: derived from `path` and `split`.

    **Raises:** `ValueError` while reading, if the field is missing or is not text, or if all texts are empty.
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
        from datasets import load_dataset

        key = self.key
        if self._opened is None or self._opened[0] != key:
            opened = load_dataset(
                self.path,
                self.config,
                split=self.split,
                revision=self.revision,
                data_files=self.data_files,
                streaming=True,
            )
            self._opened = key, opened
        return self._opened[1]

    def __iter__(self) -> Iterator[str]:
        found = False
        for text in self._read(self.dataset):
            found = True
            yield text
        if not found:
            raise ValueError(f"a corpus must contain at least one non-empty text; {self.name!r} has none")

    def part(self, index: int, count: int, order: int | None = None) -> Iterator[str]:
        """Yield one of `count` disjoint parts: whole shards if there are enough; with `order`, the shards are shuffled
        first.
        """
        check_part(index, count)
        dataset = self.dataset
        shards = list(range(dataset.num_shards))
        if order is not None:
            random.Random(order).shuffle(shards)
        for number, shard in enumerate(shards):
            if len(shards) >= count and number % count != index:
                continue
            texts = self._read(dataset.shard(len(shards), shard))
            if len(shards) >= count:
                yield from texts
            else:
                yield from (text for place, text in enumerate(texts) if (place + number) % count == index)

    def _read(self, dataset: "datasets.IterableDataset") -> Iterator[str]:
        # `iter`, not `__iter__`, which divides the shards among loader workers. The parts are already divided here, so
        # that dividing them again would leave all workers but the first without data.
        for batch in dataset.iter(batch_size=256):
            column = self.field if self.field in batch else self.field.partition(".")[0]
            if column not in batch:
                raise ValueError(f"a data set must have the field {self.field!r}; {self.name!r} has {sorted(batch)}")
            for value in batch[column]:
                text = text_of({column: value}, self.field, self.name)
                if text:
                    yield text


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
