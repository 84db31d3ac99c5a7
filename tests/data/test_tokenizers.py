"""Laws of tokenizers: exact round trips, special tokens that never come from text, vocabularies counted right."""

from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from noiselab.data import load_tokenizer, token_support, train_tokenizer, vocabulary_size
from noiselab.data.tokenizers import Encoder, tokenizer_key

SPECIAL = st.sampled_from(["[MASK]", "[PAD]", "<|endoftext|>", " ", "\n", "don't", "\r\n", "a ,b"])
TEXTS = st.lists(st.text(max_size=8) | SPECIAL, max_size=6).map("".join)


@settings(max_examples=200, deadline=None)
@given(text=TEXTS)
def test_round_trip(tokenizer, text: str):
    (ids,) = Encoder(tokenizer)([text])
    assert tokenizer.decode(ids) == text
    assert not set(ids) & set(tokenizer.all_special_ids)
    assert tokenizer.decode(tokenizer(text)["input_ids"]) == text


@settings(max_examples=50, deadline=None)
@given(texts=st.lists(TEXTS, max_size=8), batch=st.integers(1, 30))
def test_batches_change_nothing(tokenizer, texts: list[str], batch: int):
    encode = Encoder(tokenizer)
    assert list(encode(texts, batch=batch)) == [ids for text in texts for ids in encode([text])]


def test_plain_bytes(words: list[str]):
    tokenizer = train_tokenizer(words, vocab_size=259)
    assert len(tokenizer) == tokenizer.vocab_size == vocabulary_size(tokenizer) == 259
    assert [len(ids) for ids in Encoder(tokenizer)(words)] == [len(word.encode()) for word in words]


def test_special_tokens(tokenizer):
    assert len(tokenizer) == 300
    assert (tokenizer.eos_token_id, tokenizer.pad_token_id, tokenizer.mask_token_id) == (0, 1, 2)
    assert token_support(tokenizer).nonzero().flatten().tolist() == [0, *range(3, 300)]


def test_saved_tokenizer_is_the_same(tokenizer, tmp_path: Path, words: list[str]):
    tokenizer.save_pretrained(tmp_path)
    loaded = load_tokenizer(tmp_path)
    assert len(loaded) == len(tokenizer)
    assert tokenizer_key(loaded) == tokenizer_key(tokenizer)
    assert list(Encoder(loaded)(words)) == list(Encoder(tokenizer)(words))


def test_training_is_deterministic(tokenizer, words: list[str]):
    assert tokenizer_key(train_tokenizer(iter(words), vocab_size=300)) == tokenizer_key(tokenizer)
    assert tokenizer_key(train_tokenizer(words, vocab_size=299)) != tokenizer_key(tokenizer)


def test_missing_tokens_are_added(tmp_path: Path):
    """As with GPT-2, whose only special token is the end of text."""
    from tokenizers import Tokenizer, models, pre_tokenizers
    from transformers import PreTrainedTokenizerFast

    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    vocabulary = {sign: place for place, sign in enumerate([*alphabet, "<|endoftext|>"])}
    backend = Tokenizer(models.BPE(vocab=vocabulary, merges=[]))
    backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    PreTrainedTokenizerFast(tokenizer_object=backend, eos_token="<|endoftext|>").save_pretrained(tmp_path)
    tokenizer = load_tokenizer(tmp_path)
    assert (tokenizer.eos_token_id, tokenizer.mask_token_id, tokenizer.pad_token_id) == (256, 257, 258)
    assert tokenizer.vocab_size == 257 and vocabulary_size(tokenizer) == len(tokenizer) == 259
    assert token_support(tokenizer).nonzero().flatten().tolist() == list(range(257))


def test_gaps_in_the_numbering_are_counted():
    from tokenizers import Tokenizer, models
    from transformers import PreTrainedTokenizerFast

    backend = Tokenizer(models.WordLevel({"a": 0, "b": 7, "?": 3}, unk_token="?"))
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=backend, unk_token="?")
    assert len(tokenizer) == 3 and vocabulary_size(tokenizer) == 8
    assert token_support(tokenizer).nonzero().flatten().tolist() == [0, 7]


def test_encoder_ignores_and_keeps_the_settings(tokenizer):
    before = list(Encoder(tokenizer)(["abcdefgh", "ab"]))
    tokenizer(["abcdefgh", "ab"], padding=True, truncation=True, max_length=2)
    key = tokenizer_key(tokenizer)
    assert list(Encoder(tokenizer)(["abcdefgh", "ab"])) == before
    assert tokenizer("[MASK]")["input_ids"] == [tokenizer.mask_token_id]
    assert tokenizer_key(tokenizer) == key


def test_tokenizers_without_a_fast_backend():
    from transformers import ByT5Tokenizer

    tokenizer = ByT5Tokenizer()
    assert getattr(tokenizer, "backend_tokenizer", None) is None
    (ids,) = Encoder(tokenizer)(["aé</s>"])
    assert tokenizer.decode(ids) == "aé</s>"
    assert tokenizer.eos_token_id not in ids
    assert tokenizer_key(tokenizer) == tokenizer_key(ByT5Tokenizer())


def test_errors(tokenizer):
    with pytest.raises(ValueError, match=r"vocab_size must be at least 259.*got 258"):
        train_tokenizer(["a"], vocab_size=258)
    with pytest.raises(ValueError, match="at least one non-empty text"):
        train_tokenizer(iter([""]))
    with pytest.raises(ValueError, match="got one string"):
        train_tokenizer("text")
    with pytest.raises(ValueError, match="valid Unicode"):
        list(Encoder(tokenizer)(["a\ud800"]))
