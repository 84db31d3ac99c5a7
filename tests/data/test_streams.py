"""Laws of streams: endless, deterministic, complete in each pass, disjoint over processes and workers."""

import itertools
import json
import subprocess
import sys
from collections import Counter
from pathlib import Path

import pytest
import torch
from torch.utils.data import DataLoader

from noiselab.data import HubCorpus, TextCorpus, TokenStream
from noiselab.data.streams import derive_seed, shuffled


def take(stream: TokenStream, count: int) -> list[list[int]]:
    return [block["input_ids"].tolist() for block in itertools.islice(stream, count)]


def texts(stream: TokenStream, count: int) -> list[str]:
    """Return the first whole texts of a stream that has one text to a block."""
    decode = stream.tokenizer.decode
    return [
        decode(block["input_ids"][block["attention_mask"]][:-1].tolist()) for block in itertools.islice(stream, count)
    ]


@pytest.mark.parametrize("buffer", [0, 1, 3, 100])
def test_shuffling_keeps_every_text(words: list[str], buffer: int):
    once = list(shuffled(words, buffer, seed=1))
    assert Counter(once) == Counter(words)
    assert once == list(shuffled(words, buffer, seed=1))
    assert (once == words) == (buffer < 2)


def test_every_pass_holds_every_text_in_a_new_order(tokenizer, words: list[str]):
    stream = TokenStream(TextCorpus(words), tokenizer, 256, mode="document", seed=3)
    found = texts(stream, 3 * len(words))
    passes = [found[start : start + len(words)] for start in range(0, len(found), len(words))]
    assert all(sorted(one) == sorted(words) for one in passes)
    assert passes[0] != passes[1] != passes[2] != passes[0]
    stream.set_epoch(1)
    assert texts(stream, 2 * len(words)) == passes[1] + passes[2]


def test_the_stream_is_full_endless_and_deterministic(tokenizer, words: list[str]):
    stream = TokenStream(TextCorpus(words), tokenizer, 32, seed=3)
    first = take(stream, 200)  # several passes
    assert first == take(stream, 200) == take(TokenStream(TextCorpus(words), tokenizer, 32, seed=3), 200)
    assert first != take(TokenStream(TextCorpus(words), tokenizer, 32, seed=4), 200)
    assert all(block["attention_mask"].all() for block in itertools.islice(stream, 200))
    decoded = tokenizer.decode([token for block in first for token in block]).split("<|endoftext|>")
    assert set(decoded[:-1]) == set(words)


@pytest.fixture(params=["memory", "two shards", "five shards"])
def corpus(request: pytest.FixtureRequest, tmp_path: Path, words: list[str]) -> TextCorpus | HubCorpus:
    """The same texts in memory, and streamed from files fewer and more than readers."""
    if request.param == "memory":
        return TextCorpus(words)
    files = 2 if request.param == "two shards" else 5
    for place in range(files):
        lines = [json.dumps({"text": text}) for text in words[place::files]]
        (tmp_path / f"{place}.jsonl").write_text("\n".join(lines), encoding="utf-8")
    return HubCorpus("json", data_files=sorted(str(path) for path in tmp_path.iterdir()))


def test_ranks_share_a_pass_without_overlap(tokenizer, words: list[str], corpus: TextCorpus | HubCorpus):
    found: Counter[str] = Counter()
    for rank in range(4):
        # How many texts a rank has in a pass depends on how the shards are dealt out in that pass.
        size = len(list(corpus.part(rank, 4, order=derive_seed(3, 0))))
        stream = TokenStream(corpus, tokenizer, 256, mode="document", seed=3, buffer=8, rank=rank, world_size=4)
        found.update(texts(stream, size))
    assert found == Counter(words)


def test_loader_workers_share_a_pass_without_overlap(tokenizer, words: list[str], tmp_path: Path):
    for place in range(4):
        lines = [json.dumps({"text": text}) for text in words[place::4]]
        (tmp_path / f"{place}.jsonl").write_text("\n".join(lines), encoding="utf-8")
    for corpus in (
        TextCorpus(words),
        HubCorpus("json", data_files=sorted(str(path) for path in tmp_path.iterdir())),
    ):
        found: Counter[str] = Counter()
        for rank in range(2):
            stream = TokenStream(corpus, tokenizer, 256, mode="document", rank=rank, world_size=2)
            blocks = itertools.islice(DataLoader(stream, batch_size=None, num_workers=2), 20)
            found.update(tokenizer.decode(block["input_ids"][block["attention_mask"]][:-1]) for block in blocks)
        assert found == Counter(words)


def test_the_process_group_is_asked_for_the_rank(tokenizer, words: list[str], monkeypatch: pytest.MonkeyPatch):
    corpus = TextCorpus(words)
    explicit = take(TokenStream(corpus, tokenizer, 16, rank=1, world_size=3), 20)
    monkeypatch.setattr(torch.distributed, "is_initialized", lambda: True)
    monkeypatch.setattr(torch.distributed, "get_rank", lambda: 1)
    monkeypatch.setattr(torch.distributed, "get_world_size", lambda: 3)
    assert take(TokenStream(corpus, tokenizer, 16), 20) == explicit


def test_errors(tokenizer, words: list[str]):
    corpus = TextCorpus(words)
    with pytest.raises(ValueError, match="length must be at least 2; got 1"):
        TokenStream(corpus, tokenizer, 1)
    with pytest.raises(ValueError, match="mode must be one of"):
        TokenStream(corpus, tokenizer, 8, mode="rows")
    with pytest.raises(ValueError, match="must be given together; got 1 and None"):
        TokenStream(corpus, tokenizer, 8, rank=1)
    with pytest.raises(ValueError, match="got part 2 of 2"):
        TokenStream(corpus, tokenizer, 8, rank=2, world_size=2)
    with pytest.raises(ValueError, match=r"a text for each of 41 readers .* none for reader 40"):
        next(iter(TokenStream(corpus, tokenizer, 8, rank=40, world_size=41)))


def test_the_import_is_light():
    heavy = "{'transformers', 'datasets', 'tokenizers', 'pyarrow', 'safetensors'}"
    code = f"import sys, noiselab.data; assert not {heavy} & set(sys.modules), {heavy} & set(sys.modules)"
    subprocess.run([sys.executable, "-c", code], check=True)
