"""A resumed run notices other data by their contents, and accepts data that were only copied or touched."""

import json
import os
import shutil
import sys
from dataclasses import dataclass
from pathlib import Path

import pytest
import torch

sys.path.insert(0, str(Path(__file__).parents[1] / "training"))

from toy_training import Rows, Stream, make, network

from noiselab.data import FileCorpus, HubCorpus, TextCorpus, TokenBlocks, TokenStream, pack, train_tokenizer
from noiselab.training import identity
from noiselab.training.options import Data, numbers_of
from noiselab.training.texts import load_data

TEXTS = [f"the {animal} of number {n}" for n in range(10) for animal in ("cat", "dog", "cow")]
OPTIONS = {"steps": 2, "save_every": 2, "process": None}


@pytest.fixture(scope="module")
def words():
    return train_tokenizer(TEXTS, vocab_size=262)


def write(file, texts=TEXTS):
    file.parent.mkdir(exist_ok=True)
    file.write_text("".join(json.dumps({"text": text}) + "\n" for text in texts))
    return file


def changed(row):
    """The texts with one in the middle replaced by another of the same length."""
    return [*TEXTS[:row], TEXTS[row].replace("number", "rebmun"), *TEXTS[row + 1 :]]


@dataclass(frozen=True)
class Settings:
    data: Data


def loss(model, batch, *, place, tokens):
    return sum(p.sum() for p in model.parameters()) * 0.0


def run(folder, data):
    trainer = make(folder, data=data, model=network(), **OPTIONS, extra={"loss": loss})
    trainer.train()
    return trainer


@pytest.mark.parametrize("row", [0, 7, 31, 63])
@pytest.mark.parametrize("packed", [True, False])
def test_a_row_anywhere_is_noticed(tmp_path, row, packed):
    first, other = Rows(padded=False), Rows(padded=False)
    other.ids = other.ids.clone()
    other.ids[row, 3] = (other.ids[row, 3] + 1) % 7

    def data(rows):
        return TokenBlocks(rows.ids, torch.full((64,), 6), vocab_size=9) if packed else rows

    run(tmp_path, data(first))
    assert run(tmp_path, data(first)).resumed is not None
    with pytest.raises(ValueError, match=r"data\.contents: .* in the checkpoint, .* now"):
        run(tmp_path, data(other))


def test_the_number_of_real_tokens_is_a_part_of_the_contents():
    ids = torch.zeros(3, 4, dtype=torch.long)
    keys = {TokenBlocks(ids, torch.tensor(real), vocab_size=9).key for real in ([4, 4, 4], [4, 3, 4], [4, 4, 3])}
    assert len(keys) == 3 and TokenBlocks(ids, torch.tensor([4, 4, 4]), vocab_size=9).key in keys


def test_reading_the_rows_draws_no_numbers_of_the_run():
    class Noisy(Rows):
        def __getitem__(self, i):
            return {**super().__getitem__(i), "noise": torch.rand(3)}

    state = torch.get_rng_state()
    assert identity.row_contents(Noisy()) == identity.row_contents(Noisy()) != identity.row_contents(Noisy(seed=1))
    assert torch.equal(torch.get_rng_state(), state)


CORPORA = {
    "files": lambda folder: FileCorpus(folder / "part.jsonl"),
    "a folder": lambda folder: FileCorpus(folder),
    "a hub's data files": lambda folder: HubCorpus("json", data_files=str(folder / "*.jsonl")),
    "a hub's folder": lambda folder: HubCorpus(str(folder)),
}


@pytest.mark.parametrize("name", CORPORA)
def test_the_key_of_a_corpus_is_that_of_its_contents(tmp_path, words, name):
    corpus = CORPORA[name]
    file = write(tmp_path / "one" / "part.jsonl")
    key = corpus(tmp_path / "one").key
    os.utime(file, (1e9, 1e9))  # touched
    assert corpus(tmp_path / "one").key == key
    shutil.copytree(tmp_path / "one", tmp_path / "two")  # copied
    assert corpus(tmp_path / "two").key == key
    date = file.stat().st_mtime_ns
    write(file, changed(15))
    os.utime(file, ns=(date, date))  # other contents of the same size and date
    assert corpus(tmp_path / "one").key != key
    write(file)
    assert corpus(tmp_path / "one").key == key


def test_files_whose_contents_changed_places_are_others(tmp_path):
    def key():
        return HubCorpus("json", data_files={"train": str(tmp_path / "a.jsonl"), "test": str(tmp_path / "b.jsonl")}).key

    write(tmp_path / "a.jsonl", TEXTS[:3])
    write(tmp_path / "b.jsonl", TEXTS[3:])
    first, files = key(), FileCorpus(tmp_path).key
    write(tmp_path / "a.jsonl", TEXTS[3:])
    write(tmp_path / "b.jsonl", TEXTS[:3])
    assert key() != first and FileCorpus(tmp_path).key != files


@pytest.mark.parametrize("stream", [True, False])
def test_a_command_notices_other_texts_and_accepts_a_copy(tmp_path, stream, words):
    """As a recipe does: the data of its options, for a run and for the same run started again."""
    words.save_pretrained(tmp_path / "words")

    def again(corpus):
        options = Data(str(corpus), tokenizer=str(tmp_path / "words"), length=6, validation=0.2, stream=stream)
        _, data, _ = load_data(options, tmp_path / "tokenizer", seed=1)
        trainer = make(
            tmp_path / "run",
            data=data,
            model=network(),
            **OPTIONS,
            extra={"loss": loss, "settings": numbers_of(Settings(options))},
        )
        trainer.train()
        return trainer

    file = write(tmp_path / "one" / "part.jsonl")
    again(file)
    os.utime(file, (1e9, 1e9))
    assert again(file).resumed is not None
    shutil.copytree(tmp_path / "one", tmp_path / "two")
    assert again(tmp_path / "two" / "part.jsonl").resumed is not None
    write(file, [*TEXTS[:10], "all", *TEXTS[10:]])
    with pytest.raises(ValueError, match="contents"):
        again(file)


def test_a_tokenizer_of_the_run_goes_on_with_a_copy_of_its_texts(tmp_path):
    def again(corpus):
        load_data(Data(str(corpus), vocab_size=270, length=6), tmp_path / "run" / "tokenizer", seed=1)

    again(write(tmp_path / "one" / "part.jsonl"))
    (tmp_path / "run" / "checkpoint-2").mkdir()
    again(write(tmp_path / "two" / "part.jsonl"))
    with pytest.raises(ValueError, match="must keep the texts"):
        again(write(tmp_path / "three" / "part.jsonl", changed(15)))


def test_the_key_of_a_stream_follows_all_that_its_blocks_depend_on(words):
    def key(texts=TEXTS, tokenizer=words, length=8, **options):
        return TokenStream(TextCorpus(texts), tokenizer, length, **options).key

    others = [
        *(key(changed(15)), key(length=9), key(seed=1), key(buffer=1), key(mode="document")),
        key(tokenizer=train_tokenizer(TEXTS, vocab_size=263)),
    ]
    assert len({key(), *others}) == 7 and key() == key()


def test_a_stream_without_a_key_says_that_it_is_not_compared(tmp_path, caplog):
    make(tmp_path, data=Stream(Rows(24)))
    assert "cannot notice that the data of this Stream have changed" in caplog.text
    caplog.clear()
    keyed = Stream(Rows(24))
    keyed.key = "rows of seed 0"
    run(tmp_path, keyed)
    assert not [record for record in caplog.records if record.levelname == "WARNING"]
    other = Stream(Rows(24, seed=1))
    other.key = "rows of seed 1"
    with pytest.raises(ValueError, match="'rows of seed 0' in the checkpoint, 'rows of seed 1' now"):
        run(tmp_path, other)


def test_packed_tokens_are_found_again_after_a_copy(tmp_path, words):
    for folder in ("one", "two"):
        pack(FileCorpus(write(tmp_path / folder / "part.jsonl")), words, 8, cache=tmp_path / "cache")
    assert len(list((tmp_path / "cache").iterdir())) == 1
