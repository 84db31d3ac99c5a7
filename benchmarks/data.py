"""Reading training data: memory, time to the first block, resuming, and work shared by processes: `python benchmarks/data.py`.

Writes text of Python's standard library, repeated with changes, in two sizes (100 and 1,000 MB; `--megabytes`) and in each
format, and prints for each kind of corpus:

- memory: the growth of the resident memory of a fresh process at its peak (VmHWM) while 2,000 blocks of 512 tokens are read,
  after the library has been loaded and a tiny corpus read, for the larger size; and its ratio to that for the smaller size.
- first: CPU seconds to the first block of one reader, of a corpus that is opened anew.
- resume: CPU time to the next block of each reader of a run that continues at block 8,000, over that at block 0 (medians).
- encoded: tokens that W processes encode together for 1,600 blocks, over those of one, the larger of W = 2 and 4.
- equal: whether the first 100 blocks are the same for W = 1, 2 and 4.
- late: the same as resume where nine tenths of the data have been read; it has no limit, see below.

The last row is `write_shards` (`noiselab tokenize`) of the larger size, for which only memory is measured.
The exit status is 1 if memory or resuming takes more than 1.2 times as much, tokens more than 1.1 times, or blocks differ;
"hub parquet" has no limit of memory, because `datasets` reads the footer of the file in each reader.
A compressed file has no places that can be reached at once: a reader that resumes decompresses it from its start, so that
"late" grows with the size of a file (here 16 MB of text).
"""

import argparse
import functools
import gc
import json
import os
import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

os.environ["TOKENIZERS_PARALLELISM"] = "false"  # CPU times of one thread
os.environ.setdefault("HF_HUB_OFFLINE", "1")

from measure import peak_memory

LENGTH, BLOCKS, RESUMED, SHARED, BATCH, FILES = 512, 2_000, 8_000, 1_600, 64, 64
MEMORY_LIMIT, RESUME_LIMIT, ENCODED_LIMIT = 1.2, 1.2, 1.1


def documents(megabytes: int) -> Iterator[str]:
    """Texts of about 3 kB, so many that they take this much; each copy of the library has changes of its own."""
    from noiselab.data import standard_library

    left, copy, source = megabytes * 10**6, 0, standard_library("sources", "all").texts
    while True:
        for number, text in enumerate(source):
            text = text.replace("self", f"self{copy}").replace("return", f"return_{copy % 7}")
            for begin in range(0, len(text), 3000):
                found = f"# {copy}.{number}.{begin}\n{text[begin : begin + 3000]}\n\n"
                yield found
                left -= len(found.encode())
                if left <= 0:
                    return
        copy += 1


def write_files(folder: Path, megabytes: int) -> None:
    """The texts in each format: one file, or 64 files that are compressed."""
    import gzip

    import pyarrow
    import pyarrow.parquet

    for name in ("text", "lines", "gz", "zst", "parquet"):
        (folder / name).mkdir(parents=True)
    packed = {
        "gz": [gzip.open(folder / "gz" / f"{n:02}.jsonl.gz", "wb", compresslevel=1) for n in range(FILES)],
        "zst": [pyarrow.output_stream(folder / "zst" / f"{n:02}.jsonl.zst", compression="zstd") for n in range(FILES)],
    }
    schema, rows, each = pyarrow.schema({"text": pyarrow.string()}), [], megabytes * 10**6 // FILES
    size = 0
    with (
        open(folder / "text" / "a.txt", "wb") as text,
        open(folder / "lines" / "a.jsonl", "wb") as lines,
        pyarrow.parquet.ParquetWriter(folder / "parquet" / "a.parquet", schema) as table,
    ):
        for document in documents(megabytes):
            line = json.dumps({"text": document}).encode() + b"\n"
            text.write(document.encode())
            lines.write(line)
            for files in packed.values():
                files[min(size // each, FILES - 1)].write(line)
            size += len(document.encode())
            rows.append(document)
            if len(rows) == 300:  # about 1 MB in a row group
                table.write_table(pyarrow.table({"text": rows}, schema=schema))
                rows = []
        table.write_table(pyarrow.table({"text": rows}, schema=schema))
    for file in (*packed["gz"], *packed["zst"]):
        file.close()


def _files(name: str) -> Callable[[Path], Any]:
    def corpus(folder: Path) -> Any:
        from noiselab.data import FileCorpus

        return FileCorpus(folder / name)

    return corpus


def _hub(name: str) -> Callable[[Path], Any]:
    def corpus(folder: Path) -> Any:
        from noiselab.data import HubCorpus

        return HubCorpus(str(folder / name))

    return corpus


def _training_side(name: str) -> Callable[[Path], Any]:
    def corpus(folder: Path) -> Any:
        from noiselab.data import hold_out

        return hold_out(_files(name)(folder), 0.05)[0]

    return corpus


CORPORA: dict[str, Callable[[Path], Any]] = {
    "text": _files("text"),
    "lines": _files("lines"),
    "gz": _files("gz"),
    "zst": _files("zst"),
    "parquet": _files("parquet"),
    "text, held out": _training_side("text"),
    "lines, held out": _training_side("lines"),
    "zst, held out": _training_side("zst"),
    "parquet, held out": _training_side("parquet"),
    "hub parquet": _hub("parquet"),
    "hub zst": _hub("zst"),
}
TOKENS = "tokens"
FOOTERS = ("hub parquet",)
"""`datasets` reads the whole footer of a Parquet file in each reader: it grows with the row groups, and has no limit here."""


def feed_of(kind: str, folder: Path, rank: int = 0, world: int = 1) -> Any:
    """What gives the trainer its batches: a new one, of data that are opened anew."""
    from noiselab.data import TokenShards, TokenStream, load_tokenizer
    from noiselab.data.rows import stack_rows
    from noiselab.training.feeding import Loading, Share, feed

    if kind == TOKENS:
        data: Any = TokenShards(folder / TOKENS)
    else:
        tokenizer = load_tokenizer(folder.parent / "tokenizer")
        data = TokenStream(CORPORA[kind](folder), tokenizer, LENGTH, seed=1, rank=0, world_size=1)
    return feed(data, Share(BATCH, BATCH // world, rank, world), Loading(stack_rows), seed=1)


def rows_of(feed: Any, step: int, steps: int) -> list[list[int]]:
    """The rows of some steps of one process, in order."""
    batches = feed.steps(step)
    return [row for _ in range(steps) for batch in next(batches) for row in batch["input_ids"].tolist()]


def reading(kind: str, folder: str, tiny: str) -> Callable[[], object]:
    """Reads blocks; of a tiny corpus first."""

    def read(place: str, steps: int) -> None:
        batches = feed_of(kind, Path(place)).steps(0)
        for _ in range(steps):
            next(batches)

    def piece() -> object:
        return read(folder, BLOCKS // BATCH)

    piece.warm = lambda: read(tiny, 2)  # type: ignore[attr-defined]
    return piece


def writing(folder: str, tiny: str) -> Callable[[], object]:
    """Writes shards; of a tiny corpus first."""
    from noiselab.data import FileCorpus, load_tokenizer, write_shards

    def write(place: Path) -> None:
        write_shards(FileCorpus(place / "lines"), load_tokenizer(place.parent / "tokenizer"), place / TOKENS, LENGTH)

    def piece() -> object:
        return write(Path(folder))

    piece.warm = lambda: write(Path(tiny))  # type: ignore[attr-defined]
    return piece


def cpu(work: Callable[[], object]) -> float:
    """The CPU seconds of some work in this process."""
    gc.collect()
    start = time.process_time()
    work()
    return time.process_time() - start


def late(kind: str, folder: Path) -> list[Any]:
    """Positions of all readers where nine tenths of their data have been read."""
    found, stream = [], feed_of(kind, folder).stream
    for reader in range(stream.readers):
        own = range(reader, len(stream._parts), stream.readers)
        part = own[int(len(own) * 0.9)]
        # Of a part that is a whole file, the place after nine tenths of it.
        texts = [place for _, place in stream._parts[part].read()] if len(own) < 10 else []
        place = texts[int(len(texts) * 0.9)] if texts else None
        found.append([reader, {"part": part, "place": place, "passed": 0, "text": 0, "token": 0}])
    return found


def resuming(kind: str, folder: Path, rounds: int) -> tuple[float, float]:
    """CPU time of the next step at block 8,000 and late in the data, over that of the first step."""
    places: dict[str, tuple[int, Any]] = {"start": (0, None), "later": (RESUMED // BATCH, None)}
    if kind != TOKENS:
        run = feed_of(kind, folder)
        batches = run.steps(0)
        for _ in range(RESUMED // BATCH):
            next(batches)
        places["later"] = (RESUMED // BATCH, run.position())
        places["late"] = (RESUMED // BATCH, late(kind, folder))
    times: dict[str, list[float]] = {name: [] for name in places}
    for _ in range(rounds):
        for name, (step, position) in places.items():

            def work(step: int = step, position: Any = position) -> None:
                new = feed_of(kind, folder)
                new.resume([json.loads(json.dumps(position))])
                next(new.steps(step))

            times[name].append(cpu(work))
    start, later, last = (statistics.median(times.get(name, times["later"])) for name in ("start", "later", "late"))
    return later / start, last / start


def sharing(kind: str, folder: Path) -> tuple[float, bool]:
    """Tokens that several processes encode together, over those of one, and whether their first 100 blocks are equal."""
    from noiselab.data.tokenizers import Encoder

    original, count = Encoder._encode, 0

    def counted(encoder: Any, texts: list[str]) -> Any:
        nonlocal count
        rows = original(encoder, texts)
        count += sum(map(len, rows))
        return rows

    Encoder._encode = counted  # type: ignore[method-assign]
    blocks, encoded = {}, {}
    try:
        for world in (1, 2, 4):
            count, shares = 0, []
            for rank in range(world):
                shares.append(rows_of(feed_of(kind, folder, rank, world), 0, SHARED // BATCH))
            blocks[world] = [shares[row % world][row // world] for row in range(100)]
            encoded[world] = count
    finally:
        Encoder._encode = original  # type: ignore[method-assign]
    most = max(encoded[world] / max(1, encoded[1]) for world in (2, 4))
    return most if encoded[1] else 1.0, blocks[1] == blocks[2] == blocks[4]


def measure(kind: str, small: Path, large: Path, tiny: Path, rounds: int) -> bool:
    """Measure a kind of corpus and print its row; whether all limits hold."""
    memory = [peak_memory(functools.partial(reading, kind, str(place), str(tiny))) / 1e6 for place in (small, large)]
    first = statistics.median(cpu(lambda: next(_first(kind, large))) for _ in range(rounds))
    resume, last = resuming(kind, large, rounds)
    encoded, equal = sharing(kind, large)
    ratio = memory[1] / memory[0]
    cells = (
        f"{memory[1]:.0f}",
        f"{ratio:.2f}",
        f"{first:.2f}",
        f"{resume:.2f}",
        f"{encoded:.3f}",
        str(equal),
        f"{last:.2f}",
    )
    print(f"| {kind} | {' | '.join(cells)} |", flush=True)
    bounded = ratio <= MEMORY_LIMIT or kind in FOOTERS
    return bounded and resume <= RESUME_LIMIT and encoded <= ENCODED_LIMIT and equal


def _first(kind: str, folder: Path) -> Iterator[Any]:
    """The blocks of the first reader, or the rows in the order of the run."""
    new = feed_of(kind, folder)
    return new.steps(0) if kind == TOKENS else new.stream.read(0)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("kinds", nargs="*", help=f"which: {', '.join([*CORPORA, TOKENS])}; by default all")
    parser.add_argument("--megabytes", type=int, nargs=2, default=(100, 1000), help="the two sizes")
    parser.add_argument("--rounds", type=int, default=5, help="measurements of each time, of which the median is taken")
    parser.add_argument("--folder", type=Path, help="keep the files here; by default they are deleted")
    options = parser.parse_args()
    from noiselab.data import train_tokenizer

    with tempfile.TemporaryDirectory() as place:
        home = options.folder or Path(place)
        sizes = {name: home / name for name in ("tiny", "small", "large")}
        for folder, megabytes in zip(sizes.values(), (1, *options.megabytes), strict=True):
            if not folder.is_dir():
                write_files(folder, megabytes)
        if not (home / "tokenizer").is_dir():
            train_tokenizer(documents(2), vocab_size=4096).save_pretrained(home / "tokenizer")
        print("| corpus | memory, MB | large / small | first, s | resume | encoded | equal | late |")
        print("| --- | ---: | ---: | ---: | ---: | ---: | --- | ---: |")
        tiny, small, large = sizes.values()
        chosen = options.kinds or [TOKENS, *CORPORA]
        held = True
        if TOKENS in chosen and not (large / TOKENS).is_dir():
            memory = [
                peak_memory(functools.partial(writing, str(folder), str(tiny))) / 1e6 for folder in (small, large)
            ]
            ratio = memory[1] / memory[0]
            held = ratio <= MEMORY_LIMIT
            print(f"| write_shards | {memory[1]:.0f} | {ratio:.2f} | | | | | |", flush=True)
        held = all([measure(kind, small, large, tiny, options.rounds) for kind in chosen]) and held
    return 0 if held else 1


if __name__ == "__main__":
    sys.exit(main())
