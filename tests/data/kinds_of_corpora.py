"""One corpus of each kind, with the same texts."""

import gzip
import json
from pathlib import Path

import pyarrow
import pyarrow.parquet

from noiselab.data import Corpus, FileCorpus, HubCorpus, TextCorpus, hold_out


class Counted(Corpus):
    """A corpus of one's own, which can only be read from its start."""

    name, key = "counted", "1"

    def __init__(self, texts):
        self.texts = texts

    def __iter__(self):
        yield from self.texts


def write_lines(path: Path, texts) -> Path:
    lines = "".join(json.dumps({"text": text, "n": 1}, ensure_ascii=False) + "\n" for text in texts)
    raw = lines.encode() + b"\n  \n"
    if path.suffix == ".zst":
        path.write_bytes(pyarrow.compress(raw, codec="zstd", asbytes=True))
    else:
        path.write_bytes(gzip.compress(raw) if path.suffix == ".gz" else raw)
    return path


def write_table(path: Path, texts) -> Path:
    pyarrow.parquet.write_table(pyarrow.table({"text": pyarrow.array(texts, pyarrow.string())}), path, row_group_size=7)
    return path


def some_files(folder: Path, texts) -> FileCorpus:
    (folder / "a.txt").write_text("line\n\nline")
    write_lines(folder / "b.jsonl", [*texts[:20], "", None])
    write_lines(folder / "c.jsonl.gz", [None, *texts[20:25]])
    write_table(folder / "d.parquet", [*texts[25:35], None, ""])
    write_lines(folder / "e.jsonl.zst", texts[35:])
    (folder / "f.json").write_text(json.dumps([{"text": text} for text in ["one", "", "two"]]))
    return FileCorpus([folder, folder / "f.json"])


CORPORA = {
    "memory": lambda folder, texts: TextCorpus(texts),
    "one side": lambda folder, texts: hold_out(TextCorpus(texts), 0.3)[1],
    "lines": lambda folder, texts: FileCorpus(write_lines(folder / "a.jsonl", [*texts, None])),
    "files": some_files,
    "one side of files": lambda folder, texts: hold_out(some_files(folder, texts), 0.3)[1],
    "hub lines": lambda folder, texts: HubCorpus("json", data_files=str(write_lines(folder / "a.jsonl", [*texts, ""]))),
    "hub tables": lambda folder, texts: HubCorpus("parquet", data_files=str(write_table(folder / "a.parquet", texts))),
    "one's own": lambda folder, texts: Counted(texts),
}
