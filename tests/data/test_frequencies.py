import itertools

import pytest
import torch

from noiselab.data import TextCorpus, TokenBlocks, TokenStream, token_frequencies, train_tokenizer, vocabulary_size


def test_frequencies_by_hand():
    blocks = TokenBlocks(torch.tensor([[1, 2, 2], [1, 0, 0]]), torch.tensor([3, 1]), vocab_size=4)
    assert token_frequencies(blocks, 4).tolist() == [0, 0.5, 0.5, 0]  # padding is not counted
    assert token_frequencies(blocks, 5).tolist() == [0, 0.5, 0.5, 0, 0]
    with pytest.raises(ValueError, match=r"tokens must lie in \[0, 2\); got 2"):
        token_frequencies(blocks, 2)


def test_a_stream_is_counted_from_its_start(monkeypatch):
    corpus = TextCorpus(["to be, or not to be", "that is the question", "whether it is nobler"])
    tokenizer = train_tokenizer(corpus, vocab_size=270)
    size = vocabulary_size(tokenizer)
    stream = TokenStream(corpus, tokenizer, length=8, seed=1, rank=0, world_size=1)
    monkeypatch.setattr("noiselab.data.frequencies.SAMPLE_BLOCKS", 5)
    rows = [block["input_ids"][block["attention_mask"]] for block in itertools.islice(stream, 5)]
    counts = torch.bincount(torch.cat(rows), minlength=size).double()
    assert torch.equal(token_frequencies(stream, size), counts / counts.sum())
    assert token_frequencies(stream, size)[tokenizer.mask_token_id] == 0
    with pytest.raises(ValueError, match="counts"):
        token_frequencies(iter([]), size)
