"""A run on a stream of texts resumes exactly, with and without loader workers."""

import pytest
from toy_training import L, digest, make

from noiselab.data import TextCorpus, TokenShards, TokenStream, character_tokenizer, write_shards
from noiselab.training.options import Data
from noiselab.training.texts import load_data

LETTERS = "abcd"


def stream(readers=None):
    corpus = TextCorpus(LETTERS[n % 4] * (n % 5 + 1) + LETTERS[n % 3] for n in range(30))
    return TokenStream(corpus, character_tokenizer([LETTERS]), L, seed=1, readers=readers, rank=0, world_size=1)


@pytest.mark.parametrize("workers", [0, 2])
def test_a_run_on_a_stream_of_texts_resumes_exactly(tmp_path, workers):
    options = {"workers": workers, "save_every": 3}
    whole = make(tmp_path / "whole", data=stream(), steps=6, **options)
    whole.train()
    (tmp_path / "whole" / "checkpoint-6").rename(tmp_path / "other")
    again = make(tmp_path / "whole", data=stream(), steps=6, **options)
    again.train()
    assert again.resumed.name == "checkpoint-3" and digest(again) == digest(whole)


def test_workers_that_do_not_divide_the_readers_are_refused_at_once(tmp_path):
    assert stream().readers == 16
    with pytest.raises(
        ValueError, match="times loader workers must divide the number of readers of a stream, 16; got 1 and 3"
    ):
        make(tmp_path, data=stream(), workers=3)
    make(tmp_path, data=stream(9), workers=3)


def test_the_settings_of_a_run_choose_the_readers(tmp_path):
    (tmp_path / "one.jsonl").write_text("".join(f'{{"text": "number {n}"}}\n' for n in range(60)))
    for asked, found in ((0, 4), (6, 6)):
        data = Data(str(tmp_path / "one.jsonl"), vocab_size=270, length=6, stream=True, readers=asked)
        assert load_data(data, tmp_path / "tokenizer", seed=1)[1].readers == found


def test_a_run_on_shards_resumes_exactly(tmp_path):
    tokenizer = character_tokenizer([LETTERS])
    shards = write_shards([LETTERS * 9, "dcba" * 11], tokenizer, tmp_path / "shards", L, shard_tokens=5 * L)
    whole = make(tmp_path / "run", data=shards, steps=6, save_every=3)
    whole.train()
    (tmp_path / "run" / "checkpoint-6").rename(tmp_path / "other")
    again = make(tmp_path / "run", data=TokenShards(tmp_path / "shards", separate=False), steps=6, save_every=3)
    again.train()
    assert again.resumed.name == "checkpoint-3" and digest(again) == digest(whole)
    (tmp_path / "run" / "checkpoint-6").rename(tmp_path / "third")
    other = write_shards([LETTERS * 9, "dcba" * 10], tokenizer, tmp_path / "others", L)
    with pytest.raises(ValueError, match="contents"):
        make(tmp_path / "run", data=other, steps=6, save_every=3).train()
