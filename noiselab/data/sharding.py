"""Writing the tokens of a corpus into shards; what a killed process has finished is kept."""

import contextlib
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from filelock import FileLock, Timeout

from ..files import new_folder, sha256, writable, write_json
from .blocks import TokenBlocks, compact_dtype, is_blocks
from .corpus import Corpus, Part, Place, as_corpus
from .packing import Packer, check_packing, pack_texts
from .shards import FORMAT, INDEX, TOKENIZER, TokenShards, check_shard, read_index, sample
from .tokenizers import Encoder, tokenizer_key, vocabulary_size

if TYPE_CHECKING:
    import transformers

SHARD_TOKENS = 2**25
"""The number of tokens in a shard: 64 MiB at two bytes each."""
Position = tuple[int, Place]
"""A part of a corpus and a place in it."""


def write_shards(
    corpus: Corpus | Iterable[str],
    tokenizer: "transformers.PreTrainedTokenizerBase",
    folder: str | Path,
    length: int,
    *,
    mode: str = "concatenate",
    shard_tokens: int = SHARD_TOKENS,
    progress: Callable[[int, int], None] | None = None,
) -> TokenShards:
    """Encode a corpus, pack it into blocks and write them into a folder, in bounded memory, with the tokenizer beside them.

    A call with the same arguments continues what an earlier one has begun: shards that are finished are kept. Tokens take
    2 bytes each if the vocabulary allows it, otherwise 4. In `"concatenate"` mode the tokens after the last full block, less
    than a block, are dropped.

    **Arguments:**

    - `corpus`: any corpus, or a list of texts.
    - `tokenizer`, `length`, `mode`: as in `pack`.
    - `folder`: the folder, which is made if needed. Other files in it are kept; one with the name of a shard is refused.
    - `shard_tokens`: the number of tokens in a shard; it is held in memory.
    - `progress`: called with the number of blocks written so far and the number of the part of the corpus that is read.

    **Returns:** the shards.

    **Raises:** `ValueError` as `pack` does, if the folder holds shards of another corpus, tokenizer or setting, if another
    process writes into it, or if the corpus does not fill a block; `OSError` if the disk is full: what is finished is kept, and
    the same call continues.

    **Example:**

    ```python
    import tempfile
    from noiselab.data import train_tokenizer, write_shards

    texts = ["to be, or not to be", "that is the question"]
    print(write_shards(texts, train_tokenizer(texts, vocab_size=259), tempfile.mkdtemp(), length=8))
    ```
    """
    check_packing(tokenizer, length, mode)
    if shard_tokens < length:
        raise ValueError(f"a shard must hold at least one block of {length} tokens; got shard_tokens={shard_tokens}")
    corpus, folder = as_corpus(corpus), Path(folder)
    with writable(folder, "a folder"):
        folder.mkdir(parents=True, exist_ok=True)
    settings: dict[str, Any] = {
        "format": FORMAT,
        "corpus": corpus.key,
        "tokenizer": tokenizer_key(tokenizer),
        "vocab_size": vocabulary_size(tokenizer),
        "end": int(tokenizer.eos_token_id),
        "pad": int(tokenizer.pad_token_id),
        "length": length,
        "mode": mode,
        "shard_rows": shard_tokens // length,
    }
    with _locked(folder):
        index = _begun(folder, settings, str(tokenizer.name_or_path))
        _keep_tokenizer(folder / TOKENIZER, tokenizer, settings["tokenizer"])
        if not index["complete"]:
            _write(corpus, tokenizer, folder, index, progress)
    return TokenShards(folder)


@contextlib.contextmanager
def _locked(folder: Path) -> Iterator[None]:
    lock = FileLock(folder / ".lock", timeout=0)
    try:
        lock.acquire()
    except Timeout as error:
        raise ValueError(f"only one process may write into a folder of shards; another one writes {folder}") from error
    except NotImplementedError:  # a file system without locks
        pass
    try:
        yield
    finally:
        lock.release()


def _begun(folder: Path, settings: dict[str, Any], name: str) -> dict[str, Any]:
    """The index of what has been written, or a new one, with the name of the tokenizer for messages."""
    index = read_index(folder)
    if index is None:
        for path in sorted(folder.glob("shard-*.safetensors")):
            if not is_blocks(path):
                raise ValueError(
                    f"a folder for shards must have no other files of their names; {path} is not one (choose another folder)"
                )
        start = {"part": 0, "place": None, "token": 0}
        return {**settings, "tokenizer_name": name, "complete": False, "shards": [], "next": start}
    changed = [name for name, value in settings.items() if index[name] != value]
    if changed:
        lines = "".join(f"\n  {name}: {index[name]!r} then, {settings[name]!r} now" for name in changed)
        raise ValueError(
            f"a folder must hold the shards of one corpus, tokenizer and setting; those in {folder} differ (choose another "
            f"folder):{lines}"
        )
    for shard in index["shards"]:
        check_shard(folder / shard["file"], shard)
    return index


def _keep_tokenizer(place: Path, tokenizer: "transformers.PreTrainedTokenizerBase", key: str) -> None:
    """Store the tokenizer of the shards, unless it is there.

    **Raises:** `ValueError` if another one is.
    """
    if not place.exists():
        with new_folder(place) as temporary:
            tokenizer.save_pretrained(temporary)
        return
    from ..networks.model_folders import open_tokenizer

    if tokenizer_key(open_tokenizer(place)) != key:
        raise ValueError(
            f"the folder {TOKENIZER!r} beside shards must hold their tokenizer; {str(place)!r} holds another (choose another "
            "folder)"
        )


def _write(
    corpus: Corpus,
    tokenizer: "transformers.PreTrainedTokenizerBase",
    folder: Path,
    index: dict[str, Any],
    progress: Callable[[int, int], None] | None,
) -> None:
    length, most, start = index["length"], index["shard_rows"], index["next"]
    texts = _texts(corpus.parts(), (start["part"], start["place"]))
    packer = Packer(length, index["mode"], index["end"])
    rows = pack_texts(texts, Encoder(tokenizer), packer, used=start["token"])
    dtype = np.uint16 if compact_dtype(index["vocab_size"]) == torch.uint16 else np.uint32
    held = np.full((most, length), index["pad"], dtype=dtype)
    real: list[int] = []
    written = sum(shard["rows"] for shard in index["shards"])
    for row, (part, place), token in rows:
        held[len(real), : len(row)] = row
        real.append(len(row))
        if len(real) == most:
            _finish_shard(folder, index, held, real)
            index["next"] = {"part": part, "place": place, "token": token}
            write_json(folder / INDEX, index)
            written, real = written + most, []
            held[:] = index["pad"]
        if progress is not None:
            progress(written + len(real), part)
    if real:
        _finish_shard(folder, index, held[: len(real)], real)
    if not index["shards"]:
        raise ValueError(f"the corpus must fill at least one block of {length} tokens; {corpus.name!r} does not")
    del index["next"]
    index["complete"] = True
    write_json(folder / INDEX, index)


def _texts(parts: Sequence[Part], start: Position) -> Iterator[tuple[str, Position, Position]]:
    """The texts of all parts in their order, from a position on, each with the positions before and after it."""
    number, place = start
    for part in range(number, len(parts)):
        for text, after in parts[part].read(place):
            yield text, (part, place), (part, after)
            place = after
        place = None


def _finish_shard(folder: Path, index: dict[str, Any], tokens: np.ndarray, real: list[int]) -> None:
    """Write a shard, which has its name only once it is whole, and add it to the index."""
    number, counts = len(index["shards"]), torch.tensor(real, dtype=torch.int32)
    path = folder / f"shard-{number:05}.safetensors"
    about = {name: index[name] for name in ("tokenizer", "corpus", "mode")}
    blocks = TokenBlocks(torch.from_numpy(tokens), counts, index["vocab_size"], {**about, "number": number})
    blocks.save(path)
    # The key is that of the tokens: two files of the same tokens may differ in the order of their metadata.
    found = {"file": path.name, "rows": len(real), "tokens": sum(real), "bytes": path.stat().st_size, "key": blocks.key}
    index["shards"].append({**found, "sample": sample(path), "sha256": sha256(path)})
