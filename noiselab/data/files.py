"""Corpora in local files: plain text, JSON and Parquet."""

import functools
import glob
from collections.abc import Iterator, Sequence
from pathlib import Path

from ..files import sha256
from .contents import COMPRESSED
from .corpus import Corpus, Part, fingerprint
from .file_parts import FileParts
from .pieces import PIECE, is_large, whole_or_pieces
from .records import PLAIN, STRUCTURED, kind_of, known_suffixes, read_rows, text_of


class FileCorpus(Corpus):
    r"""Texts in local files. Each text file, each line of a JSON Lines file, each item of a JSON array and each row of a
    Parquet file is one document. A text file of more than 4 MiB is cut into documents of about 64 KiB where a paragraph
    ends (else a line, else a word), so that files of any size are read in bounded memory.

    A reader of a `TokenStream` goes to any place of text files, JSON Lines and Parquet files at once. Compressed files and JSON
    arrays are read from their beginning, each by one reader only.

    **Arguments:**

    - `paths`: files, folders or glob patterns (`**` crosses folders). Supported: `.txt .text .md .rst .py`, `.jsonl`, `.json`
      (an array, an object or lines), `.parquet`, each also with `.gz` or `.zst`. Text must be UTF-8. Folders are searched
      recursively, without hidden names, `.json` files (often settings: name them), and compressed copies of other files.
    - `field`: the JSON field or Parquet column that contains the text; `data.text` is the field `text` of the field `data`.
      Empty and null texts are skipped.
    - `name`: a short name used in file names and messages.

    **Raises:** `ValueError` if a path matches no file or a suffix is not supported; while reading, if the field is
    missing or is not text (the message gives file and line); after reading, if all texts were empty.

    **Example:**

    ```python
    import json, pathlib, tempfile
    from noiselab.data import FileCorpus

    path = pathlib.Path(tempfile.mkdtemp()) / "lines.jsonl"
    path.write_text(json.dumps({"text": "one document"}) + "\n")
    assert list(FileCorpus(path)) == ["one document"]
    ```
    """

    def __init__(self, paths: str | Path | Sequence[str | Path], *, field: str = "text", name: str = "files") -> None:
        given = [paths] if isinstance(paths, str | Path) else list(paths)
        self.paths = sorted({file for path in given for file in find_files(path)})
        if not self.paths:
            raise ValueError("paths must name at least one file; got none")
        self.field = field
        self.name = name

    @property
    def key(self) -> str:  # type: ignore[override]
        """A hash of the field and of the contents of the files as they are now, wherever they are."""
        pieces = [f"pieces-{PIECE}"] if any(map(_has_pieces, self.paths)) else []
        return fingerprint([self.field, *(signature(path) for path in self.paths), *pieces])

    def __iter__(self) -> Iterator[str]:
        found = False
        for path in self.paths:
            for text in _texts(path, self.field):
                if text:
                    found = True
                    yield text
        if not found:
            raise ValueError(f"a corpus must contain at least one non-empty text; {named(self.paths)} none")

    def parts(self) -> Sequence[Part]:
        """The parts of the files that can be read apart: see `file_parts`."""
        return FileParts(self.paths, self.field)


def named(paths: Sequence[Path]) -> str:
    """The files as the subject of a sentence: "a.txt has", or "a.txt and 2 others have"."""
    others = len(paths) - 1
    return f"{paths[0]} and {others} other{'s' * (others > 1)} have" if others else f"{paths[0]} has"


def signature(path: Path) -> str:
    """Return a hash of the contents of a file and its suffix; it does not change if the file is copied, moved or touched.

    The file is read once in a process, and again only after its size or one of its dates has changed.
    """
    state = path.stat()
    return _hashed(str(path.absolute()), (state.st_ino, state.st_size, state.st_mtime_ns, state.st_ctime_ns))


@functools.lru_cache(maxsize=100_000)
def _hashed(path: str, state: tuple[int, ...]) -> str:
    return f"{''.join(Path(path).suffixes[-2:]).lower()}:{sha256(Path(path))}"


def find_files(path: str | Path) -> list[Path]:
    """The files that a file, a folder or a pattern names, as in `FileCorpus`.

    **Raises:** `ValueError` if there is none, or one has a suffix that cannot be read.
    """
    place = Path(path).expanduser()
    if place.is_dir():
        files = [
            file
            for file in place.rglob("*")
            if kind_of(file) in {*PLAIN, *STRUCTURED} - {".json"}
            and not any(part.startswith(".") for part in file.relative_to(place).parts)
            and not (file.suffix.lower() in COMPRESSED and file.with_suffix("").is_file())
            and file.is_file()
        ]
        if not files:
            raise ValueError(
                f"a folder must contain files that end in {known_suffixes()}; {path} has none (.json files must be named, or "
                "found by a pattern)"
            )
        return files
    if place.is_file():
        files = [place]
    else:
        files = [Path(file) for file in glob.glob(str(place), recursive=True) if Path(file).is_file()]
        if not files:
            raise ValueError(f"a path must be a file, a folder or a matching pattern; nothing found at {path}")
    for file in files:
        if kind_of(file) not in (*PLAIN, *STRUCTURED):
            raise ValueError(f"a file must end in {known_suffixes()}; got {file}")
    return files


def _has_pieces(path: Path) -> bool:
    """Whether a file is, or may be, read in pieces."""
    return kind_of(path) in PLAIN and (path.suffix.lower() in COMPRESSED or is_large(path))


def _texts(path: Path, field: str) -> Iterator[str]:
    """The texts of a file; null is an empty text."""
    if kind_of(path) in PLAIN:
        yield from whole_or_pieces(path)
    else:
        yield from (text_of(row, field, place) or "" for place, row in read_rows(path, (field,)))
