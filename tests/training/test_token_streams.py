"""A run on a stream of texts resumes exactly, with and without loader workers."""

import json
import shutil
from dataclasses import replace

import pytest
from toy_training import L, digest, make

from noiselab.commands.main import run
from noiselab.data import (
    TextCorpus,
    TokenShards,
    TokenStream,
    character_tokenizer,
    hold_out,
    load_tokenizer,
    pack,
    train_tokenizer,
    write_shards,
)
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


def sentences(count):
    return [f"In chapter {i} the reader learns that {i} and {i} are {2 * i}. " * 3 for i in range(count)]


@pytest.fixture
def divided(tmp_path):
    """Shards of length 16 that `noiselab tokenize` has divided, and their tokenizer."""
    (tmp_path / "texts.jsonl").write_text("".join(json.dumps({"text": text}) + "\n" for text in sentences(60)))
    train_tokenizer(sentences(60), vocab_size=300).save_pretrained(tmp_path / "ours")
    arguments = [str(tmp_path / "texts.jsonl"), "--tokenizer", str(tmp_path / "ours"), "--length", "16", "--quiet"]
    run("tokenize", [*arguments, "--output", str(tmp_path / "shards"), "--validation", "0.2", "--shard-tokens", "320"])
    return tmp_path / "shards"


def test_settings_read_shards_with_their_tokenizer(divided, tmp_path):
    data = Data(f"shards:{divided}", length=16, validation_sequences=5, stream=True)
    tokenizer, train, held_out = load_data(data, tmp_path / "unused", seed=1)
    sides = hold_out(sentences(60), 0.2)
    packed = [pack(side, tokenizer, 16, keep_partial=False) for side in sides]
    assert len(train) == len(packed[0]) and len(held_out) == 5 and not (tmp_path / "unused").exists()
    for found, expected in zip((train, held_out), packed, strict=True):
        assert all(found[n]["input_ids"].equal(expected[n]["input_ids"]) for n in range(len(found)))
    named = replace(data, tokenizer=str(tmp_path / "ours"))
    assert load_data(named, tmp_path, seed=1)[2].key == held_out.key
    alone = replace(data, corpus=f"shards:{divided / 'train'}", held_out=f"shards:{divided / 'validation'}")
    assert load_data(alone, tmp_path, seed=1)[2].key == held_out.key
    (tmp_path / "held_out.txt").write_text("In chapter 99 the reader learns that 99 and 99 are 198. " * 5)
    texts = load_data(replace(data, held_out=str(tmp_path / "held_out.txt")), tmp_path, seed=1)[2]
    assert tokenizer.decode(texts[0]["input_ids"]).startswith("In chapter 99")


def test_settings_that_do_not_fit_shards_are_refused(divided, tmp_path):
    data = Data(f"shards:{divided}", length=16)

    def refused(match, **changes):
        with pytest.raises(ValueError, match=match):
            load_data(replace(data, **changes), tmp_path, seed=1)

    train_tokenizer(sentences(60), vocab_size=280).save_pretrained(tmp_path / "another")
    refused(r"are of '.*ours' of 300 tokens; got '.*another' of 280 tokens", tokenizer=str(tmp_path / "another"))
    refused("have the length of the blocks in the shards, 16 tokens in .*; got 32", length=32)
    refused("some texts must be held out; .* has no folders train and validation", corpus=f"shards:{divided / 'train'}")
    refused("has none", corpus=f"shards:{tmp_path}")
    (divided / "train" / "shard-00001.safetensors").unlink()
    refused(r"all shards of the index must be there; .*train/shard-00001\.safetensors is missing")
    shutil.rmtree(divided / "validation")
    write_shards(sentences(40), load_tokenizer(tmp_path / "another"), divided / "validation", 16)
    refused(r"shard-00001\.safetensors is missing")
    run(
        "tokenize",
        [
            str(tmp_path / "texts.jsonl"),
            "--tokenizer",
            str(tmp_path / "ours"),
            "--length",
            "16",
            "--quiet",
            "--output",
            str(tmp_path / "new"),
        ],
    )
    refused(
        r"in '.*validation' are of '.*another' of 280 tokens; got '.*' of 300",
        corpus=f"shards:{tmp_path / 'new'}",
        held_out=f"shards:{divided / 'validation'}",
    )
