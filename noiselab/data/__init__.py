"""Data: corpora, tokenizers, and packing texts into blocks of tokens.

    corpus -> tokenizer -> pack (all at once, cached) or TokenStream (while reading) -> batches

The libraries underneath (`transformers`, `datasets`, `pyarrow`) are imported when a function needs them.
"""

from noiselab.data.blocks import TokenBlocks
from noiselab.data.corpus import Corpus, TextCorpus, hold_out
from noiselab.data.files import FileCorpus
from noiselab.data.hub import HubCorpus
from noiselab.data.library import standard_library
from noiselab.data.packing import pack
from noiselab.data.streams import TokenStream
from noiselab.data.tokenizers import load_tokenizer, token_support, train_tokenizer, vocabulary_size

__all__ = [
    "Corpus",
    "FileCorpus",
    "HubCorpus",
    "TextCorpus",
    "TokenBlocks",
    "TokenStream",
    "hold_out",
    "load_tokenizer",
    "pack",
    "standard_library",
    "token_support",
    "train_tokenizer",
    "vocabulary_size",
]
