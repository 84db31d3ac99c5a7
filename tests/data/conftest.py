"""Small corpora and tokenizers for the tests of `noiselab.data`."""

import os
import random

import pytest

os.environ.setdefault("HF_HUB_OFFLINE", "1")  # read when the hub library is imported, which the tests do later


@pytest.fixture(scope="session")
def words() -> list[str]:
    """Forty short documents of different lengths; each begins with its own number."""
    generator = random.Random(0)
    letters = "abcdefgh äöß 試験"
    return [f"{place}:" + "".join(generator.choices(letters, k=generator.randrange(1, 60))) for place in range(40)]


@pytest.fixture(scope="session")
def tokenizer(words: list[str]):
    """A trained tokenizer with some merges."""
    from noiselab.data import train_tokenizer

    return train_tokenizer(words, vocab_size=300)
