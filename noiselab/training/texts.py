"""From data settings to a tokenizer and data sets."""

import itertools
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
from .checkpoints import new_folder
from .options import Data


def corpora(data: Data) -> tuple[Corpus, Corpus]:
    """The texts for training and those held out."""
    kind, _, name = data.corpus.partition(":")
    if kind == "library":
        share = data.validation
        training = standard_library(name, "train", validation_share=share)
        return training, standard_library(name, "validation", validation_share=share)
    whole = HubCorpus(name, field=data.field) if kind == "hub" else FileCorpus(data.corpus, field=data.field)
    return hold_out(whole, data.validation)


def load_data(data: Data, folder: Path, seed: int) -> tuple[Any, Dataset[Any], TokenBlocks]:
    """The tokenizer, the training data and the held-out sequences.

    **Arguments:**

    - `folder`: where a tokenizer that is trained is kept, for the next start of the same run.
    - `seed`: of the order in which a stream is read.

    **Returns:** a tokenizer with mask, padding and end-of-text tokens; what to give to `Trainer`.
    """
    training, held_out = corpora(data)
    if data.tokenizer != "train":
        tokenizer = load_tokenizer(data.tokenizer)
    else:
        if not folder.is_dir():
            with new_folder(folder) as temporary:
                train_tokenizer(training, data.vocab_size).save_pretrained(temporary)
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
