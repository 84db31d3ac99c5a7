"""Rows are those of the data code of GIDD and MDLM, whose outputs on the same texts are in fixtures/published_data.

`gidd.json`: `get_dataloaders` and `subsample_collator` of github.com/dvruette/gidd with batches of four rows and three texts
held out; `draws` are the arguments and results of the calls of `np.random.randint`. `mdlm.json`: `get_dataset` of
github.com/kuleshov-group/mdlm with `wrap=True`.
"""

import itertools
import json
from collections import Counter
from functools import partial
from pathlib import Path

import numpy as np
import pytest
from kinds_of_corpora import CORPORA
from published_texts import documents, letters

from noiselab.data import Corpus, FileCorpus, Part, TextCorpus, TokenStream, hold_out_last, pack
from noiselab.data import packing as packing_module
from noiselab.data.cropping import crop_document
from noiselab.data.packing import packer_for
from noiselab.data.rows import real_tokens, stack_rows
from noiselab.data.tokenizers import Encoder
from noiselab.training.options import Data
from noiselab.training.texts import corpora, load_data

FIXTURES = Path(__file__).parents[1] / "fixtures" / "published_data"
GIDD, MDLM = (json.loads((FIXTURES / f"{name}.json").read_text()) for name in ("gidd", "mdlm"))


@pytest.fixture
def corpus_file(tmp_path):
    file = tmp_path / "texts.jsonl"
    file.write_text("".join(json.dumps({"text": text}) + "\n" for text in documents()))
    return str(file)


def settings(corpus_file, tmp_path, **data):
    letters().save_pretrained(tmp_path / "letters")
    return Data(corpus=corpus_file, tokenizer=str(tmp_path / "letters"), length=24, held_out="last:3", **data)


def test_the_first_three_batches_of_gidd_with_the_numbers_that_it_draws():
    tokenizer, texts = letters(), documents()
    ids = list(Encoder(tokenizer)(texts))
    random = np.random.RandomState(GIDD["numpy_seed"])  # the global generator of numpy, which the published code seeds
    crop = partial(crop_document, length=24, begin=tokenizer.bos_token_id, end=tokenizer.eos_token_id)
    recorded = iter(GIDD["draws"])
    for batch in GIDD["batches"]:
        for number, row, mask in zip(batch["documents"], batch["input_ids"], batch["attention_mask"], strict=True):
            found = crop(ids[number], draw=lambda count: random.randint(0, count)).tolist()
            assert found == row[: sum(mask)] and set(row[sum(mask) :]) <= {tokenizer.pad_token_id}
            if len(ids[number]) + 2 > 24:
                assert next(recorded)[0] == len(ids[number]) + 2 - 24
    assert next(recorded, None) is None


@pytest.mark.parametrize("learn_padding", [False, True])
def test_a_stream_makes_the_batches_of_gidd(monkeypatch, learn_padding):
    tokenizer, texts = letters(), documents()
    draws = iter(GIDD["draws"])

    def draw(seed, place, count):
        wanted, drawn = next(draws)
        assert count == wanted
        return drawn

    monkeypatch.setattr("noiselab.data.streams.draw_place", draw)
    order = [number for batch in GIDD["batches"] for number in batch["documents"]]

    class Ordered(Corpus):
        name, key = "ordered", "1"

        def __iter__(self):
            return (texts[number] for number in order)

    stream = TokenStream(Ordered(), tokenizer, 24, mode="crop", learn_padding=learn_padding, buffer=0)
    rows = list(itertools.islice(stream, len(order)))
    for number, batch in enumerate(GIDD["batches"]):
        found = stack_rows(rows[4 * number : 4 * number + 4])
        assert found["input_ids"].tolist() == batch["input_ids"]
        if learn_padding:  # as their diffusion losses, which are means over all positions
            assert "attention_mask" not in found
        else:  # as their autoregressive loss
            assert real_tokens(found).long().tolist() == batch["attention_mask"]


def test_texts_that_gidd_holds_out(corpus_file, tmp_path):
    training, held_out = corpora(settings(corpus_file, tmp_path))
    texts = documents()
    assert list(held_out) == [texts[number] for number in GIDD["held_out"]]
    assert list(training) == [text for text in texts if text not in set(held_out)]


def test_all_sequences_of_mdlm(corpus_file, tmp_path):
    tokenizer, training, held_out = load_data(settings(corpus_file, tmp_path, packing="wrap"), tmp_path, seed=1)
    assert [row["input_ids"].tolist() for row in training] == MDLM["train"]
    assert [row["input_ids"].tolist() for row in held_out] == MDLM["validation"]
    assert all(row["attention_mask"].all() for row in training)
    partial_row = pack(documents()[:1], tokenizer, 60, mode="wrap")[0]
    ids = tokenizer(documents()[0])["input_ids"]
    end = tokenizer.eos_token_id
    assert partial_row["input_ids"][partial_row["attention_mask"]].tolist() == [end, *ids, end, end]


def test_a_stream_of_wrapped_rows_joins_its_texts():
    tokenizer, texts = letters(), documents()
    stream = TokenStream(TextCorpus(texts), tokenizer, 24, mode="wrap", readers=1, buffer=0)
    rows = [row["input_ids"].tolist() for row in itertools.islice(stream, 100)]
    end = tokenizer.eos_token_id
    assert all(row[0] == row[-1] == end for row in rows)
    joined = "".join(tokenizer.convert_ids_to_tokens([token for row in rows for token in row[1:-1]]))
    passed = joined.split("<|endoftext|>")[:-1]
    assert len(passed) > 45 and sorted(passed[:15]) == sorted(passed[15:30]) == sorted(texts)


def test_crops_begin_at_every_place_but_the_last_with_equal_probability():
    tokenizer = letters()
    text = max(documents(), key=len)
    ids = [tokenizer.bos_token_id, *tokenizer(text)["input_ids"], tokenizer.eos_token_id]
    stream = TokenStream(TextCorpus([text]), tokenizer, len(ids) - 6, mode="crop", seed=5)  # a new crop in each pass
    rows = [tuple(row["input_ids"].tolist()) for row in itertools.islice(stream, 3000)]
    counts = Counter(rows)
    places = [tuple(ids[place : place + len(ids) - 6]) for place in range(6)]  # the seventh holds the end
    assert set(counts) == set(places)
    assert sum((counts[place] - 500) ** 2 / 500 for place in places) < 20.5  # chi-square, 5 df, .1 %
    other = TokenStream(TextCorpus([text]), tokenizer, len(ids) - 6, mode="crop", seed=6)
    assert rows[:100] != [tuple(row["input_ids"].tolist()) for row in itertools.islice(other, 100)]


def test_packed_crops_stay_and_depend_on_the_seed():
    tokenizer, texts = letters(), documents()
    first, again, other = (pack(texts, tokenizer, 24, mode="crop", seed=seed) for seed in (1, 1, 2))
    assert first.tokens.equal(again.tokens) and not first.tokens.equal(other.tokens)
    assert len({blocks.about["key"] for blocks in (first, again, other)}) == 2
    whole = pack(texts, tokenizer, 24, mode="crop", seed=1, learn_padding=True)
    assert whole.tokens.equal(first.tokens) and (whole.real == 24).all() and not (first.real == 24).all()
    streams = {
        TokenStream(TextCorpus(texts), tokenizer, 24, mode=mode, learn_padding=learn).key
        for mode, learn in itertools.product(("concatenate", "wrap", "crop"), (False, True))
    }
    assert len(streams) == 6
    shown = repr(TokenStream(TextCorpus(texts), tokenizer, 24, mode="crop", learn_padding=True))
    assert shown == "TokenStream(corpus='texts', length=24, mode='crop', learn_padding=True, seed=0)"


@pytest.mark.parametrize(
    ("document", "row"),
    [([], [1, 2]), ([5], [1, 5, 2]), ([1, 5], [1, 5, 2]), ([5, 2], [1, 5, 2]), ([1], [1, 2]), ([2], [1, 2])],
)
def test_special_tokens_are_added_where_there_are_none(document, row):
    assert crop_document([], 8, begin=1, end=1, draw=lambda count: 0).tolist() == [1, 1]
    assert crop_document(document, 8, begin=1, end=2, draw=lambda count: 0).tolist() == row


@pytest.mark.parametrize("kind", CORPORA)
@pytest.mark.parametrize("count", [1, 2, 7])
def test_the_last_texts_are_held_out(kind, count, tmp_path, words):
    whole = CORPORA[kind](tmp_path, words)
    texts = list(whole)
    training, held_out = hold_out_last(whole, count)
    for side, expected in ((training, texts[:-count]), (held_out, texts[-count:])):
        assert list(side) == expected
        found = [pair for part in side.parts() for pair in part.read()]
        assert [text for text, _ in found] == expected
        for part in side.parts():  # each continues at any text
            own = list(part.read())
            for number, (_, place) in enumerate(own):
                rest = list(part.read(json.loads(json.dumps(place))))
                assert [text for text, _ in rest] == [text for text, _ in own[number + 1 :]]
    assert training.key != held_out.key != hold_out_last(whole, count + 1)[1].key


def test_a_border_between_parts_and_too_few_texts():
    training, held_out = hold_out_last(["a", "b", "c"], 2)
    assert (list(training), list(held_out)) == (["a"], ["b", "c"])
    for count in (3, 4):
        with pytest.raises(ValueError, match=rf"more than the {count} texts that are held out; 'texts' has 3"):
            list(hold_out_last(["a", "b", "c"], count)[0])
    with pytest.raises(ValueError, match="count must be at least 1; got 0"):
        hold_out_last(["a"], 0)


@pytest.mark.parametrize("files", [["", "", "a b"], ["a b"], ["", "a", "", "b", ""]])
def test_a_part_without_texts_is_no_rest_to_train_on(files, tmp_path):
    for number, texts in enumerate(files):
        rows = "".join(json.dumps({"text": text}) + "\n" for text in texts.split() or [""])
        (tmp_path / f"{number}.jsonl").write_text(rows)
    with pytest.raises(ValueError, match=r"more than the 2 texts that are held out; .* has 2"):
        list(hold_out_last(FileCorpus(str(tmp_path)), 2)[0])
    training, held_out = hold_out_last(FileCorpus(str(tmp_path)), 1)
    assert (list(training), list(held_out)) == (["a"], ["b"])


def test_counting_reads_the_last_parts_alone():
    read = []

    class Noted(Part):
        def __init__(self, number):
            self.number = number

        def read(self, start=None):
            read.append(self.number)
            yield from [("a", 1), ("b", 2)][start or 0 :]

    class Twos(Corpus):
        name, key = "twos", "1"

        def __iter__(self):
            yield from "ab" * 100

        def parts(self):
            return [Noted(number) for number in range(100)]

    training, held_out = hold_out_last(Twos(), 5)
    assert len(training.parts()) == 98 and len(held_out.parts()) == 3
    assert sorted(read) == [97, 98, 99]
    assert list(held_out) == ["b", *"abab"] and len(list(training)) == 195


def test_settings_that_are_refused(corpus_file, tmp_path, tokenizer):
    for wrong in ("last:", "last:0", "last:-1", "last:many"):
        with pytest.raises(ValueError, match="held_out must be last: and a positive number of texts; got 'last"):
            corpora(Data(corpus=corpus_file, held_out=wrong))
    with pytest.raises(ValueError, match="validation_sequences must be at least 1; got 0"):
        load_data(Data(corpus=corpus_file, validation_sequences=0), tmp_path, seed=1)
    for shards in ({"packing": "crop"}, {"learn_padding": True}, {"held_out": "last:3"}):
        with pytest.raises(ValueError, match="packed, and divided, as they were written; got"):
            load_data(Data(corpus=f"shards:{tmp_path}", **shards), tmp_path, seed=1)
    bare = letters()
    bare.bos_token = None
    with pytest.raises(ValueError, match="must have a start token"):
        pack(["a"], bare, 8, mode="crop")
    with pytest.raises(ValueError, match="length must be at least 3; got 2"):
        pack(["a"], tokenizer, 2, mode="wrap")
    bare.cls_token = "a"
    assert packer_for(bare, 8, "wrap").begin == bare.convert_tokens_to_ids("a")
    assert packing_module.MODES == ("concatenate", "document")  # the modes of shards, which have no start token
