"""From data settings to a tokenizer and data sets."""

import itertools
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from torch.utils.data import Dataset

from ..data import (
    Corpus,
    FileCorpus,
    HubCorpus,
    TokenBlocks,
    TokenStream,
    hold_out,
    load_tokenizer,
    pack,
    standard_library,
    train_tokenizer,
)
from ..data.corpus import fingerprint
from ..files import new_folder, write_json
from .checkpoints import checkpoints, differences
from .options import Data

FEW = 20  # documents; so few are cut up, for held-out texts are whole documents
PIECES = 200
ORIGIN = "trained_on.json"


class Pieces(Corpus):
    """The texts of a corpus in pieces, cut at blank lines if possible, else at line ends.

    **Arguments:**

    - `corpus`: a few long texts.
    - `size`: characters in a piece, about.
    """

    def __init__(self, corpus: Corpus, size: int) -> None:
        self.corpus, self.size, self.name = corpus, size, corpus.name
        self.key = fingerprint([corpus.key, "pieces", str(size)])

    def __iter__(self) -> Iterator[str]:
        for text in self.corpus:
            piece = ""
            for line in text.splitlines(keepends=True):
                piece += line
                while len(piece) >= 4 * self.size:  # a line without end
                    yield piece[: self.size]
                    piece = piece[self.size :]
                if len(piece) >= (self.size if not line.strip() else 2 * self.size):
                    yield piece
                    piece = ""
            if piece:
                yield piece


def corpora(data: Data) -> tuple[Corpus, Corpus]:
    """The texts for training and those held out."""
    kind, _, name = data.corpus.partition(":")
    if data.held_out:
        training: Corpus = (
            HubCorpus(name, field=data.field) if kind == "hub" else FileCorpus(data.corpus, field=data.field)
        )
        if kind == "library":
            training = standard_library(name, "train", validation_share=data.validation)
        return training, FileCorpus(data.held_out, field=data.field)
    if kind == "library":
        share = data.validation
        training = standard_library(name, "train", validation_share=share)
        return training, standard_library(name, "validation", validation_share=share)
    whole: Corpus = HubCorpus(name, field=data.field) if kind == "hub" else FileCorpus(data.corpus, field=data.field)
    if kind != "hub" and len(list(itertools.islice(whole, FEW))) < FEW:
        whole = Pieces(whole, max(1, min(2000, sum(map(len, whole)) // PIECES)))
    return hold_out(whole, data.validation)


def trained_tokenizer(training: Corpus, data: Data, folder: Path) -> None:
    """Make sure that a folder holds the tokenizer that these settings ask for; train it unless it is there.

    **Raises:** `ValueError` if it holds another one, with which a run was trained.
    """
    origin = {
        "corpus": data.corpus,
        "texts": training.key,
        "vocab_size": data.vocab_size,
        "validation": data.validation,
    }
    if folder.is_dir():
        file, used = folder / ORIGIN, bool(checkpoints(folder.parent))
        known = json.loads(file.read_text()) if file.is_file() else {}
        changed = list(differences(known, origin))
        if not changed or (used and not known):
            return
        if used:
            lines = "".join(f"\n  {name}: {old!r} then, {new!r} now" for name, old, new in changed)
            raise ValueError(
                f"a run must keep the texts that its tokenizer in {folder} was trained on; use another --output, for these "
                f"differ:{lines}"
            )
    with new_folder(folder) as temporary:
        train_tokenizer(training, data.vocab_size).save_pretrained(temporary)
        write_json(temporary / ORIGIN, origin)


def load_data(data: Data, folder: Path, seed: int) -> tuple[Any, Dataset[Any], TokenBlocks]:
    """The tokenizer, the training data and the held-out sequences.

    **Arguments:**

    - `folder`: where a tokenizer that is trained is kept, for the next start of the same run.
    - `seed`: of the order in which a stream is read.

    **Returns:** a tokenizer with mask, padding and end-of-text tokens; what to give to `Trainer`.

    **Raises:** `ValueError` if the folder's tokenizer, with which a run was trained, is of other texts or another size.
    """
    training, held_out = corpora(data)
    if data.tokenizer != "train":
        tokenizer = load_tokenizer(data.tokenizer)
    else:
        trained_tokenizer(training, data, folder)
        tokenizer = load_tokenizer(folder)
    if data.stream:
        # One stream for all processes: the trainer deals its batches out.
        texts: Any = list(itertools.islice(held_out, data.validation_sequences))
        blocks: Any = TokenStream(training, tokenizer, data.length, seed=seed, rank=0, world_size=1)
    else:
        texts, cache = held_out, data.cache
        blocks = pack(training, tokenizer, data.length, keep_partial=False, cache=cache)
    validation = pack(texts, tokenizer, data.length, keep_partial=False)
    count = data.validation_sequences
    return (
        tokenizer,
        blocks,
        TokenBlocks(validation.tokens[:count], validation.real[:count], validation.vocab_size, validation.about),
    )
