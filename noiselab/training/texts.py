"""Building the tokenizer and the data sets from data settings."""

import itertools
import json
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import torch
from torch.utils.data import Dataset

from ..data import (
    Corpus,
    FileCorpus,
    HubCorpus,
    TextCorpus,
    TokenBlocks,
    TokenShards,
    TokenStream,
    hold_out,
    hold_out_last,
    load_tokenizer,
    pack,
    standard_library,
    train_tokenizer,
)
from ..data.corpus import Part, fingerprint
from ..data.packing import PUBLISHED_MODES
from ..data.shards import INDEX
from ..files import new_folder, write_json
from ..numerics import require_count
from .checkpoints import checkpoints, differences
from .options import Data

FEW = 20  # corpora with fewer documents are cut into pieces, because whole documents are held out
PIECES = 200
ORIGIN = "trained_on.json"
LAST = "last:"


class Pieces(Corpus):
    """The texts of a corpus, cut into pieces at blank lines if possible, otherwise at line ends.

    **Arguments:**

    - `corpus`: a few long texts.
    - `size`: the approximate number of characters in a piece.
    """

    def __init__(self, corpus: Corpus, size: int) -> None:
        self.corpus, self.size, self.name = corpus, size, corpus.name

    @property
    def key(self) -> str:  # type: ignore[override]
        """That of the corpus, which may change, and of the size."""
        return fingerprint([self.corpus.key, "pieces", str(self.size)])

    def __iter__(self) -> Iterator[str]:
        for text in self.corpus:
            piece = ""
            for line in text.splitlines(keepends=True):
                piece += line
                while len(piece) >= 4 * self.size:  # a very long line
                    yield piece[: self.size]
                    piece = piece[self.size :]
                if len(piece) >= (self.size if not line.strip() else 2 * self.size):
                    yield piece
                    piece = ""
            if piece:
                yield piece

    def parts(self) -> Sequence[Part]:
        """One part for each piece; a corpus that is cut is small enough to be held in memory."""
        return TextCorpus(self).parts()


def corpora(data: Data) -> tuple[Corpus, Corpus]:
    """Return the training corpus and the held-out corpus."""
    kind, _, name = data.corpus.partition(":")
    if data.held_out.startswith(LAST):
        return hold_out_last(whole_corpus(data), last_texts(data.held_out))
    if data.held_out:
        training: Corpus = whole_corpus(data)
        if kind == "library":
            training = standard_library(name, "train", validation_share=data.validation)
        return training, FileCorpus(data.held_out, field=data.field)
    if kind == "library":
        share = data.validation
        training = standard_library(name, "train", validation_share=share)
        return training, standard_library(name, "validation", validation_share=share)
    whole = whole_corpus(data)
    if kind != "hub" and len(list(itertools.islice(whole, FEW))) < FEW:
        whole = Pieces(whole, max(1, min(2000, sum(map(len, whole)) // PIECES)))
    return hold_out(whole, data.validation)


def whole_corpus(data: Data) -> Corpus:
    """The corpus before texts are held out."""
    kind, _, name = data.corpus.partition(":")
    if kind == "library":
        return standard_library(name, "all")
    return HubCorpus(name, field=data.field) if kind == "hub" else FileCorpus(data.corpus, field=data.field)


def last_texts(held_out: str) -> int:
    """The number N of `last:N`.

    **Raises:** `ValueError` unless it is a positive number.
    """
    number = held_out.removeprefix(LAST)
    if not number.isdecimal() or not int(number):
        raise ValueError(f"held_out must be {LAST} and a positive number of texts; got {held_out!r}")
    return int(number)


def trained_tokenizer(training: Corpus, data: Data, folder: Path) -> None:
    """Train the tokenizer described by the settings and store it in a folder, unless it is already there.

    **Raises:** `ValueError` if the folder contains another tokenizer, used by an existing run.
    """
    origin = {
        "corpus": data.corpus,
        "texts": training.key,
        "vocab_size": data.vocab_size,
        "validation": data.validation,
    }
    if folder.is_dir():
        file, used = folder / ORIGIN, bool(checkpoints(folder.parent))
        known = json.loads(file.read_text(encoding="utf-8")) if file.is_file() else {}
        # The same texts may be read from another place.
        changed = [difference for difference in differences(known, origin) if difference[0] != "corpus"]
        if not changed or (used and not known):
            return
        if used:
            lines = "".join(f"\n  {name}: {old!r} then, {new!r} now" for name, old, new in changed)
            raise ValueError(
                f"a run must keep the texts that its tokenizer in {folder} was trained on, or use another --output; these "
                f"differ:{lines}"
            )
    with new_folder(folder) as temporary:
        train_tokenizer(training, data.vocab_size).save_pretrained(temporary)
        write_json(temporary / ORIGIN, origin)


def load_data(data: Data, folder: Path, seed: int) -> tuple[Any, Dataset[Any], TokenBlocks]:
    """Build the tokenizer, the training data and the held-out sequences.

    **Arguments:**

    - `folder`: where a trained tokenizer is stored, for later starts of the same run.
    - `seed`: the seed of the order in which a stream is read.

    **Returns:** a tokenizer with mask, padding and end-of-text tokens; the training and evaluation data for `Trainer`.

    **Raises:** `ValueError` if the folder's tokenizer belongs to a run with other texts or another vocabulary size, or as
    `load_shards`.
    """
    kind, _, name = data.corpus.partition(":")
    require_count("validation_sequences", data.validation_sequences)
    if kind == "shards":
        return load_shards(data, Path(name))
    training, held_out = corpora(data)
    if data.tokenizer != "train":
        tokenizer = load_tokenizer(data.tokenizer)
    else:
        trained_tokenizer(training, data, folder)
        tokenizer = load_tokenizer(folder)
    packing: dict[str, Any] = {"mode": data.packing, "learn_padding": data.learn_padding}
    if data.separate_documents:
        if data.packing != "concatenate":
            raise ValueError(
                f"separate_documents is for sequences of several texts, packing='concatenate'; got packing={data.packing!r}"
            )
        packing["separate"] = True
    if data.stream:
        # One stream for all processes: the trainer distributes its batches.
        texts: Any = list(itertools.islice(held_out, data.validation_sequences))
        own: dict[str, Any] = {"readers": data.readers or None, "rank": 0, "world_size": 1}
        blocks: Any = TokenStream(training, tokenizer, data.length, seed=seed, **packing, **own)
    else:
        texts, cache = held_out, data.cache
        blocks = pack(training, tokenizer, data.length, keep_partial=False, seed=seed, cache=cache, **packing)
    validation = pack(texts, tokenizer, data.length, keep_partial=False, **packing)
    return tokenizer, blocks, _first(validation, data.validation_sequences)


def _first(blocks: TokenBlocks, count: int) -> TokenBlocks:
    """The first blocks of some."""
    own = {"separate_at": blocks.separate_at}
    return TokenBlocks(blocks.tokens[:count], blocks.real[:count], blocks.vocab_size, blocks.about, **own)


def load_shards(data: Data, folder: Path) -> tuple[Any, TokenShards, TokenBlocks]:
    """The same of tokens that `noiselab tokenize` has written to disk, in `folder/train` and `folder/validation`.

    Held-out sequences are those of `folder/validation`, or of `data.held_out`, texts or `shards:FOLDER`; in the second case the
    tokens may also be in `folder` itself.

    **Raises:** `ValueError` for a packing or division that shards cannot have, if there are no shards, no held-out
    ones, or they have another length or tokenizer.
    """
    if data.packing in PUBLISHED_MODES or data.learn_padding or data.held_out.startswith(LAST):
        raise ValueError(
            f"tokens in shards are packed, and divided, as they were written; got packing={data.packing!r}, "
            f"learn_padding={data.learn_padding} and held_out={data.held_out!r} (read texts instead)"
        )
    divided = (folder / "train" / INDEX).is_file()
    separate = data.separate_documents
    training = TokenShards(folder / "train" if divided else folder, separate=separate)
    tokenizer = training.tokenizer() if data.tokenizer == "train" else load_tokenizer(data.tokenizer)
    _check_shards(training, tokenizer, data.length)
    mode = training.index["mode"]
    if data.packing != "concatenate" and data.packing != mode:  # concatenate is the default of all recipes
        raise ValueError(
            f"tokens in shards are packed as they were written, those in {str(training.folder)!r} with {mode!r}; got "
            f"packing={data.packing!r}"
        )
    kind, _, name = data.held_out.partition(":")
    if data.held_out and kind != "shards":
        texts = list(itertools.islice(FileCorpus(data.held_out, field=data.field), data.validation_sequences))
        packed = pack(texts, tokenizer, data.length, keep_partial=False, separate=separate)
        return tokenizer, training, _first(packed, data.validation_sequences)
    if not data.held_out and not divided:
        raise ValueError(
            f"some texts must be held out; {str(folder)!r} has no folders train and validation (run noiselab tokenize with "
            "--validation, or give --held-out texts or shards:FOLDER)"
        )
    held_out = TokenShards(Path(name) if data.held_out else folder / "validation", separate=separate)
    _check_shards(held_out, tokenizer, data.length)
    rows = [held_out[number] for number in range(min(len(held_out), data.validation_sequences))]
    tokens = torch.stack([row["input_ids"] for row in rows])
    real = torch.stack([row["attention_mask"].sum() for row in rows])
    return tokenizer, training, TokenBlocks(tokens, real, held_out.vocab_size, separate_at=held_out.separate_at)


def _check_shards(shards: TokenShards, tokenizer: Any, length: int) -> None:
    shards.check_tokenizer(tokenizer)
    if shards.length != length:
        raise ValueError(
            f"sequences must have the length of the blocks in the shards, {shards.length} tokens in {str(shards.folder)!r}; "
            f"got {length} (--length)"
        )
