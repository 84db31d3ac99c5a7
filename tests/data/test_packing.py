"""Laws of packing: nothing is lost, masks tell real tokens from padding, a cache gives what packing gave."""

import itertools
from pathlib import Path

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from noiselab.data import TextCorpus, TokenBlocks, TokenStream, pack, train_tokenizer
from noiselab.data.packing import Packer, pack_rows
from noiselab.data.rows import document_numbers, same_document, stack_rows
from noiselab.data.tokenizers import Encoder

DOCUMENTS = st.lists(st.lists(st.integers(1, 9), max_size=12), max_size=8)


@settings(max_examples=200, deadline=None)
@given(documents=DOCUMENTS, length=st.integers(2, 9))
def test_concatenation_loses_nothing(documents: list[list[int]], length: int):
    rows = [row.tolist() for row in pack_rows(documents, Packer(length, "concatenate", end=0))]
    assert list(itertools.chain(*rows)) == [token for document in documents for token in [*document, 0]]
    assert all(len(row) == length for row in rows[:-1])
    assert all(0 < len(row) <= length for row in rows)


@settings(max_examples=100, deadline=None)
@given(documents=DOCUMENTS, length=st.integers(2, 9))
def test_documents_are_cut_only_at_the_end(documents: list[list[int]], length: int):
    rows = [row.tolist() for row in pack_rows(documents, Packer(length, "document", end=0))]
    assert rows == [[*document, 0][:length] for document in documents]


@pytest.mark.parametrize("mode", ["concatenate", "document"])
def test_real_tokens_come_first_and_the_rest_is_padding(tokenizer, words: list[str], mode: str):
    blocks = pack(words, tokenizer, 16, mode=mode)
    ids = list(Encoder(tokenizer)(words))
    for block in blocks:
        mask = block["attention_mask"]
        assert block["input_ids"].dtype == torch.int64 and mask.dtype == torch.bool
        assert (block["input_ids"][~mask] == tokenizer.pad_token_id).all()
        assert (block["input_ids"][mask] != tokenizer.pad_token_id).all()
        assert mask.sum() == mask.to(torch.int64).cumprod(0).sum()
    real = [block["input_ids"][block["attention_mask"]].tolist() for block in blocks]
    if mode == "concatenate":
        assert list(itertools.chain(*real)) == [token for document in ids for token in [*document, 0]]
        assert blocks.real_tokens == sum(map(len, ids)) + len(ids)
    else:
        assert real == [[*document, 0][:16] for document in ids]


def test_partial_block_is_dropped_by_choice(tokenizer, words: list[str]):
    kept, dropped = (pack(words, tokenizer, 16, keep_partial=keep) for keep in (True, False))
    assert kept.real_tokens % 16 != 0  # else this test tests nothing
    assert len(dropped) == len(kept) - 1 and dropped.real_tokens == 16 * len(dropped)
    assert torch.equal(kept.tokens[:-1].long(), dropped.tokens.long())


def test_batches(tokenizer, words: list[str]):
    batch = next(iter(torch.utils.data.DataLoader(pack(words, tokenizer, 16), batch_size=3)))
    assert batch["input_ids"].shape == batch["attention_mask"].shape == (3, 16)


@pytest.mark.parametrize("vocab_size", [100, 2**16, 2**16 + 1])
def test_saved_blocks_come_back(tmp_path: Path, vocab_size: int):
    tokens = torch.randint(vocab_size, (5, 7), generator=torch.Generator().manual_seed(0))
    tokens[0, 0] = vocab_size - 1
    blocks = TokenBlocks(tokens, torch.tensor([7, 7, 3, 1, 2]), vocab_size, {"from": "here"})
    blocks.save(tmp_path / "deep" / "blocks.safetensors")
    assert [path.name for path in (tmp_path / "deep").iterdir()] == ["blocks.safetensors"]
    loaded = TokenBlocks.load(tmp_path / "deep" / "blocks.safetensors")
    assert loaded.tokens.dtype == (torch.uint16 if vocab_size <= 2**16 else torch.uint32)
    assert loaded.about == {"from": "here"} and loaded.vocab_size == vocab_size
    assert torch.equal(loaded.tokens.long(), tokens)
    assert len(loaded) == len(blocks)
    for one, other in zip(loaded, blocks, strict=False):
        assert torch.equal(one["input_ids"], other["input_ids"])
        assert torch.equal(one["attention_mask"], other["attention_mask"])


def test_cached_is_fresh(tokenizer, words: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    fresh = pack(words, tokenizer, 16, cache=tmp_path)
    with monkeypatch.context() as patch:
        patch.setattr("noiselab.data.packing.Encoder", None)  # the second run must not encode
        cached = pack(TextCorpus(words), tokenizer, 16, cache=tmp_path)
    assert torch.equal(cached.tokens.long(), fresh.tokens.long()) and torch.equal(cached.real, fresh.real)
    assert cached.about == fresh.about


def test_cache_is_keyed_by_all_that_matters(tokenizer, words: list[str], tmp_path: Path):
    pack(words, tokenizer, 16, cache=tmp_path)
    pack(words, tokenizer, 17, cache=tmp_path)
    pack(words, tokenizer, 16, mode="document", cache=tmp_path)
    pack(words, tokenizer, 16, keep_partial=False, cache=tmp_path)
    pack(words[:-1], tokenizer, 16, cache=tmp_path)
    pack(words, train_tokenizer(words, vocab_size=280), 16, cache=tmp_path)
    assert len(list(tmp_path.iterdir())) == 6


def test_ids_outside_the_vocabulary_are_refused(tokenizer, words: list[str], tmp_path: Path):
    pack(words, tokenizer, 16, cache=tmp_path)
    (path,) = tmp_path.iterdir()
    with pytest.raises(ValueError, match=r"safetensors: token ids must lie between 0 and 9; got 0 to"):
        TokenBlocks.load(path, vocab_size=10)
    blocks = TokenBlocks.load(path)
    tokens = blocks.tokens.long()
    tokens[-1, 0] = 999
    TokenBlocks(tokens, blocks.real, 1000, blocks.about).save(path)
    with pytest.raises(ValueError, match="between 0 and 299; got 0 to 999"):
        pack(words, tokenizer, 16, cache=tmp_path)


@pytest.mark.parametrize(
    ("tokens", "real", "message"),
    [
        ([[1, 2], [3, -1]], [2, 2], "token ids must lie between 0 and 9; got -1 to 3"),
        ([[1, 2], [3, 10]], [2, 2], "token ids must lie between 0 and 9; got 1 to 10"),
        ([[1, 2]], [3], "real tokens must lie between 1 and 2; got 3 to 3"),
        ([[1, 2]], [0], "real tokens must lie between 1 and 2; got 0 to 0"),
        ([[1]], [1], "at least 2 tokens"),
    ],
)
def test_blocks_refuse_what_cannot_be(tokens: list, real: list, message: str):
    with pytest.raises(ValueError, match=message):
        TokenBlocks(torch.tensor(tokens), torch.tensor(real), vocab_size=10)


def test_files_that_are_no_blocks_are_refused(tmp_path: Path):
    from safetensors.torch import save_file

    with pytest.raises(ValueError, match=r"nothing found at .*absent"):
        TokenBlocks.load(tmp_path / "absent")
    (tmp_path / "broken").write_bytes(b"not a file of tensors")
    with pytest.raises(ValueError, match=r"must be readable; .*broken"):
        TokenBlocks.load(tmp_path / "broken")
    save_file({"tokens": torch.zeros(2, 2)}, tmp_path / "other")
    with pytest.raises(ValueError, match=r"must be of the format .*other is None"):
        TokenBlocks.load(tmp_path / "other")


def test_packing_errors(tokenizer):
    from transformers import PreTrainedTokenizerFast

    with pytest.raises(ValueError, match="length must be at least 2; got 1"):
        pack(["a"], tokenizer, 1)
    with pytest.raises(ValueError, match="mode must be one of concatenate, document, wrap, crop; got 'rows'"):
        pack(["a"], tokenizer, 8, mode="rows")
    with pytest.raises(ValueError, match="at least one non-empty text"):
        pack([], tokenizer, 8)
    with pytest.raises(ValueError, match="got one string"):
        pack("text", tokenizer, 8)
    with pytest.raises(ValueError, match="at least one block of 8 tokens"):
        pack(["a"], tokenizer, 8, keep_partial=False)
    bare = PreTrainedTokenizerFast(tokenizer_object=tokenizer.backend_tokenizer, eos_token="<|endoftext|>")
    with pytest.raises(ValueError, match="must have a token for pad_token"):
        pack(["a"], bare, 8)


@pytest.mark.parametrize("mode", ["concatenate", "document"])
def test_document_numbers_change_where_a_text_ends(tokenizer, words, mode, tmp_path):
    blocks = pack(words, tokenizer, 24, mode=mode, separate=True)
    stream = TokenStream(TextCorpus(words), tokenizer, 24, mode=mode, separate=True)
    blocks.save(tmp_path / "blocks.safetensors")
    loaded = TokenBlocks.load(tmp_path / "blocks.safetensors")
    for rows in (blocks, loaded, itertools.islice(stream, 30)):
        several = False
        for row in rows:
            ids, real, numbers = (row[name].tolist() for name in ("input_ids", "attention_mask", "documents"))
            text = [
                [i for i, n, r in zip(ids, numbers, real, strict=True) if r and n == d] for d in range(max(numbers) + 1)
            ]
            assert numbers[0] == 0 and all(b - a in (0, 1) for a, b in itertools.pairwise(numbers))
            # Each document but the last ends with the only end of text in it.
            assert all(part[-1] == tokenizer.eos_token_id for part in text[:-1])
            assert all(tokenizer.eos_token_id not in part[:-1] for part in text)
            several |= len(text) > 2
        assert several == (mode == "concatenate")
    assert blocks.key == loaded.key != pack(words, tokenizer, 24, mode=mode).key
    assert "documents" not in pack(words, tokenizer, 24, mode=mode)[0]
    assert stream.key != TokenStream(TextCorpus(words), tokenizer, 24, mode=mode).key


@pytest.mark.parametrize("make", [pack, TokenStream])
def test_documents_are_not_separated_where_tokens_belong_to_none(tokenizer, words, make):
    """The start token is the end-of-text token of this tokenizer, as of GPT-2: it would be a document of its own."""
    assert tokenizer.bos_token_id == tokenizer.eos_token_id
    for mode in ("wrap", "crop"):
        with pytest.raises(ValueError, match=f"of the modes concatenate, document; got '{mode}'"):
            make(words, tokenizer, 24, mode=mode, separate=True)
    with pytest.raises(ValueError, match="separate must not be given with learn_padding"):
        make(words, tokenizer, 24, mode="document", separate=True, learn_padding=True)


def test_a_cache_of_separate_documents_is_another(tokenizer, words, tmp_path):
    for separate in (False, True, False, True):
        assert ("documents" in pack(words, tokenizer, 24, separate=separate, cache=tmp_path)[0]) == separate
    assert len(list(tmp_path.iterdir())) == 2


def test_attention_within_documents_by_hand():
    ids = torch.tensor([[5, 0, 6, 7, 0], [0, 5, 5, 5, 5]])
    rows = [{"input_ids": row, "documents": document_numbers(row, 0)} for row in ids]
    batch = stack_rows(rows)
    assert batch["documents"].tolist() == [[0, 0, 1, 1, 1], [0, 1, 1, 1, 1]]
    expected = torch.block_diag(torch.ones(2, 2), torch.ones(3, 3)).bool()
    assert same_document(batch["documents"])[0].equal(expected)
    with pytest.raises(ValueError, match=r"documents must have the shape of input_ids, \[5\]; row 1 has \[4\]"):
        stack_rows([rows[0], {**rows[1], "documents": [0, 0, 1, 1]}])
