"""Data: corpora, tokenizers, and packing texts into blocks of tokens.

    corpus -> tokenizer -> pack (all in memory, cached), write_shards (on disk) or TokenStream (while reading) -> batches

The libraries `transformers`, `datasets` and `pyarrow` are imported only when a function needs them.
"""

from .blocks import TokenBlocks
from .corpus import Corpus, Part, TextCorpus, hold_out
from .files import FileCorpus
from .frequencies import token_frequencies
from .held_out import hold_out_last
from .hub import HubCorpus
from .library import standard_library
from .packing import pack
from .patterns import json_automaton, regex_automaton
from .responses import ResponseRows
from .sharding import write_shards
from .shards import TokenShards
from .streams import TokenStream
from .tokenizers import character_tokenizer, load_tokenizer, token_support, train_tokenizer, vocabulary_size

__all__ = [
    "Corpus",
    "FileCorpus",
    "HubCorpus",
    "Part",
    "ResponseRows",
    "TextCorpus",
    "TokenBlocks",
    "TokenShards",
    "TokenStream",
    "character_tokenizer",
    "hold_out",
    "hold_out_last",
    "json_automaton",
    "load_tokenizer",
    "pack",
    "regex_automaton",
    "standard_library",
    "token_frequencies",
    "token_support",
    "train_tokenizer",
    "vocabulary_size",
    "write_shards",
]
