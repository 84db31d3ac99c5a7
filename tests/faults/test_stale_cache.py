"""Packed tokens follow the files: behind a pattern, in a folder, and when a corpus is packed again."""

import json

import pytest

from noiselab.data import FileCorpus, HubCorpus, TextCorpus, hold_out, pack, train_tokenizer


@pytest.fixture(scope="module")
def words():
    return train_tokenizer(["the cat", "the dog"], vocab_size=262)


def write(file, *texts):
    file.parent.mkdir(exist_ok=True)
    file.write_text("".join(json.dumps({"text": text}) + "\n" for text in texts))


def packed(corpus, words, folder):
    blocks = pack(corpus, words, 32, mode="document", cache=folder / "cache")
    return [words.decode(row, skip_special_tokens=True) for row in blocks.tokens.tolist()]


PLACES = {
    "a file": lambda folder: {"path": "json", "data_files": str(folder / "part.jsonl")},
    "a pattern": lambda folder: {"path": "json", "data_files": str(folder / "*.jsonl")},
    "a list of patterns": lambda folder: {"path": "json", "data_files": [str(folder / "p*.jsonl")]},
    "splits": lambda folder: {"path": "json", "data_files": {"train": str(folder / "**" / "*.jsonl")}},
    "a folder": lambda folder: {"path": str(folder)},
    "a pattern in a folder": lambda folder: {"path": str(folder), "data_files": "*.jsonl"},
}


@pytest.mark.parametrize("place", PLACES)
def test_changed_files_are_seen(tmp_path, words, place):
    folder = tmp_path / "data"
    write(folder / "part.jsonl", "the cat")
    corpus = HubCorpus(**PLACES[place](folder))
    assert packed(corpus, words, tmp_path) == ["the cat"]
    write(folder / "part.jsonl", "the dog")  # the same size
    assert packed(HubCorpus(**PLACES[place](folder)), words, tmp_path) == ["the dog"]
    assert packed(corpus, words, tmp_path) == ["the dog"]


def test_a_new_file_behind_a_pattern_is_seen(tmp_path, words):
    folder = tmp_path / "data"
    write(folder / "1.jsonl", "the cat")
    corpus = HubCorpus("json", data_files=str(folder / "*.jsonl"))
    assert packed(corpus, words, tmp_path) == ["the cat"]
    write(folder / "2.jsonl", "the dog")
    assert packed(corpus, words, tmp_path) == ["the cat", "the dog"]


def test_a_corpus_of_files_and_its_sides_follow_the_files(tmp_path, words):
    write(tmp_path / "part.jsonl", "the cat")
    corpus = FileCorpus(tmp_path / "part.jsonl")
    sides = hold_out(corpus, 0.5)
    before = [corpus.key, *(side.key for side in sides)]
    assert packed(corpus, words, tmp_path) == ["the cat"]
    write(tmp_path / "part.jsonl", "the dog")
    assert packed(corpus, words, tmp_path) == ["the dog"]
    assert not set(before) & {corpus.key, *(side.key for side in sides)}
    assert TextCorpus(["the cat"]).key == TextCorpus(["the cat"]).key
