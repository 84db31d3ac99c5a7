"""Laws of streams: endless, deterministic, complete in each pass, the same for any number of processes and workers."""

import itertools
import json
import pickle
import subprocess
import sys
from collections import Counter

import pytest
import torch
from kinds_of_corpora import CORPORA, Counted
from torch.utils.data import DataLoader, IterableDataset, get_worker_info

from noiselab.data import Corpus, TextCorpus, TokenStream, hold_out
from noiselab.data import reading as reading_module
from noiselab.data.reading import Reading, permutation, reader_count
from noiselab.data.tokenizers import Encoder


@pytest.fixture(params=CORPORA)
def corpus(request, tmp_path, words) -> Corpus:
    return CORPORA[request.param](tmp_path, words)


def take(stream: TokenStream, count: int) -> list[list[int]]:
    return [block["input_ids"].tolist() for block in itertools.islice(stream, count)]


def texts(stream: TokenStream, count: int) -> list[str]:
    """Return the first whole texts of a stream that has one text to a block."""
    decode = stream.tokenizer.decode
    return [
        decode(block["input_ids"][block["attention_mask"]][:-1].tolist()) for block in itertools.islice(stream, count)
    ]


def test_a_permutation_is_the_order_of_published_numbers():
    # The first values of splitmix64 with seed 0 are e220a8397b1dcdaf, 6e789e6aa1b965f4, 06c45d188009454f, f88bb8a8724c81ec.
    assert permutation(4, 0).tolist() == [2, 1, 0, 3]
    counts = Counter(tuple(permutation(3, seed * 7919)) for seed in range(6000))
    assert len(counts) == 6 and sum((n - 1000) ** 2 / 1000 for n in counts.values()) < 20.5  # chi-square, 5 df, .1 %
    assert sorted(permutation(1000, 5)) == list(range(1000))


@pytest.mark.parametrize("readers", [1, 3, 8, 64])
def test_readers_share_each_pass_without_overlap(corpus, readers):
    parts, expected = corpus.parts(), Counter(corpus)
    passes = [Counter() for _ in range(3)]
    for reader in range(readers):
        one, five = (Reading(parts, reader, readers, seed=3, window=window) for window in (1, 5))
        shuffled = five.texts(five.start())
        for number, group in itertools.groupby(one.texts(one.start()), lambda found: found[2].part // len(parts)):
            if number >= 3:
                break
            own = Counter(text for text, _, _ in group)
            assert Counter(text for text, _, _ in itertools.islice(shuffled, own.total())) == own
            passes[number] += own
    assert passes == [expected] * 3


@pytest.mark.parametrize("mode", ["concatenate", "document", "wrap", "crop"])
@pytest.mark.parametrize("readers", [None, 3])
def test_a_reader_continues_after_any_block(tokenizer, corpus, mode, readers):
    stream = TokenStream(corpus, tokenizer, 16, mode=mode, seed=3, buffer=12, readers=readers)
    for reader in range(min(2, stream.readers)):
        rows = list(itertools.islice(stream.read(reader), 40))
        for number in (0, 1, 2, 3, 5, 8, 31):
            state = json.loads(json.dumps(rows[number][1]))
            again = itertools.islice(stream.read(reader, state), 8)
            for (block, after), (expected, expected_after) in zip(again, rows[number + 1 :], strict=False):
                assert block["input_ids"].equal(expected["input_ids"]) and after == expected_after


def test_blocks_come_from_the_readers_in_turn(tokenizer, corpus):
    stream = TokenStream(corpus, tokenizer, 16, seed=3)
    rows = [stream.read(reader) for reader in range(stream.readers)]
    assert take(stream, 50) == [next(rows[b % stream.readers])[0]["input_ids"].tolist() for b in range(50)]


@pytest.mark.parametrize("world", [1, 2, 4])
@pytest.mark.parametrize("mode", ["concatenate", "crop"])
def test_the_order_does_not_depend_on_processes_or_workers(tokenizer, words, world, mode):
    expected = take(TokenStream(TextCorpus(words), tokenizer, 16, seed=3, mode=mode), 100)
    for workers in (0, 2):
        found: list = [None] * 100
        for rank in range(world):
            stream = TokenStream(TextCorpus(words), tokenizer, 16, seed=3, mode=mode, rank=rank, world_size=world)
            found[rank::world] = take(DataLoader(stream, batch_size=None, num_workers=workers), 100 // world)
        assert found == expected


class Resumed(IterableDataset):
    """What an engine does: the readers dealt to a rank and its loader workers, each from its state, in the order of blocks."""

    def __init__(self, stream, states, rank, world):
        self.stream, self.states, self.rank, self.world = stream, states, rank, world

    def __iter__(self):
        worker = get_worker_info()
        number, workers = (worker.id, worker.num_workers) if worker else (0, 1)
        dealt = range(self.rank + self.world * number, self.stream.readers, self.world * workers)
        rows = [self.stream.read(reader, self.states[reader]) for reader in dealt]
        while True:
            yield from (next(one)[0] for one in rows)


@pytest.mark.parametrize("world", [1, 2, 4])
@pytest.mark.parametrize("workers", [0, 2])
def test_a_run_continues_with_any_number_of_processes_and_workers(tokenizer, words, world, workers):
    stream = TokenStream(TextCorpus(words), tokenizer, 16, seed=3)
    expected = take(stream, 320 + 100)[320:]  # 10 blocks of each reader, then 100 more
    states = [[state for _, state in itertools.islice(stream.read(reader), 10)][-1] for reader in range(stream.readers)]
    found: list = [None] * 100
    for rank in range(world):
        rows = DataLoader(Resumed(stream, states, rank, world), batch_size=None, num_workers=workers)
        found[rank::world] = take(rows, 100 // world)
    assert found == expected


class Encoded:
    """The number of texts and tokens that were encoded."""

    def __init__(self, monkeypatch):
        self.texts = self.tokens = 0
        encode = Encoder._encode

        def counted(encoder, given):
            rows = encode(encoder, given)
            self.texts += len(rows)
            self.tokens += sum(map(len, rows))
            return rows

        monkeypatch.setattr(Encoder, "_encode", counted)

    def of(self, rows) -> tuple[int, int]:
        self.texts = self.tokens = 0
        list(rows)
        return self.texts, self.tokens


class Observed(TextCorpus):
    """Counts the texts that are read."""

    def parts(self):
        found = super().parts()
        self.read = 0

        class Parts(list):
            def __len__(_):
                return len(found)

            def __getitem__(_, index):
                self.read += 1
                return found[index]

        return Parts()


def test_resuming_reads_and_encodes_no_more_than_starting(tokenizer, words, monkeypatch):
    encoded, corpus = Encoded(monkeypatch), Observed(f"{n}:{word}" for n in range(50) for word in words)
    stream = TokenStream(corpus, tokenizer, 32, seed=1, buffer=64)
    assert stream.readers == 64
    costs = []
    for reader in (0, 17):
        states = [None, *(state for _, state in itertools.islice(stream.read(reader), 125))]  # block 8,000 of all
        for state in (states[0], states[-1]):
            corpus.read = 0
            costs.append((*encoded.of(itertools.islice(stream.read(reader, state), 2)), corpus.read))
    for start, later in zip(costs[::2], costs[1::2], strict=True):
        assert all(b <= 1.2 * a for a, b in zip(start, later, strict=True)), (start, later)


def test_all_readers_share_one_copy_of_the_tokenizer(tokenizer, words, monkeypatch):
    made, start = [], Encoder.__init__
    monkeypatch.setattr(Encoder, "__init__", lambda self, given: made.append(given) or start(self, given))
    stream = TokenStream(TextCorpus(words), tokenizer, 8)
    take(stream, 64)
    take(stream, 64)
    assert stream.readers == 32 and len(made) == 1
    copy = pickle.loads(pickle.dumps(stream))
    assert take(copy, 40) == take(stream, 40) and len(made) == 2


def test_processes_together_encode_as_much_as_one(tokenizer, words, monkeypatch):
    encoded, corpus = Encoded(monkeypatch), TextCorpus(f"{n}:{word}" for n in range(20) for word in words)
    alone = encoded.of(itertools.islice(TokenStream(corpus, tokenizer, 32, seed=1), 640))[1]
    for world in (2, 4):
        shares = [
            encoded.of(
                itertools.islice(TokenStream(corpus, tokenizer, 32, seed=1, rank=rank, world_size=world), 640 // world)
            )[1]
            for rank in range(world)
        ]
        assert sum(shares) <= 1.1 * alone and max(shares) <= 1.5 * alone / world


def test_every_pass_holds_every_text_in_a_new_order(tokenizer, words):
    stream = TokenStream(TextCorpus(words), tokenizer, 256, mode="document", seed=3)
    found = texts(stream, 3 * len(words))
    passes = [found[start : start + len(words)] for start in range(0, len(found), len(words))]
    assert all(sorted(one) == sorted(words) for one in passes)
    assert passes[0] != passes[1] != passes[2] != passes[0]
    stream.set_epoch(1)
    assert sorted(texts(stream, len(words))) == sorted(words)
    assert take(stream, 20) != take(TokenStream(TextCorpus(words), tokenizer, 256, mode="document", seed=3), 20)


def test_files_are_shuffled_in_each_pass(tokenizer, tmp_path, words):
    corpus = CORPORA["lines"](tmp_path, words)
    for buffer in (0, 100):
        stream = TokenStream(corpus, tokenizer, 256, mode="document", seed=3, readers=1, buffer=buffer)
        found = texts(stream, 2 * len(words))
        passes = [found[: len(words)], found[len(words) :]]
        assert all(sorted(one) == sorted(words) != one for one in passes) and passes[0] != passes[1]


def test_a_buffer_of_one_keeps_the_order_within_a_part(tokenizer, words):
    def read(buffer):
        return texts(TokenStream(Counted(words), tokenizer, 256, mode="document", buffer=buffer), len(words))

    assert read(0) == read(1) == words
    found = read(8)
    assert sorted(found) == sorted(words) != found
    assert all(abs(found.index(word) - place) < 8 for place, word in enumerate(words))


def test_windows_are_shuffled_differently(words):
    numbers = Counted([f"{n:03}" for n in range(120)])
    reading = Reading(numbers.parts(), 0, 1, seed=0, window=6)
    found = [int(text) for text, _, _ in itertools.islice(reading.texts(reading.start()), 120)]
    windows = [tuple(n - start for n in found[start : start + 6]) for start in range(0, 120, 6)]
    assert all(sorted(window) == list(range(6)) for window in windows) and len(set(windows)) > 10


def test_long_texts_are_held_in_smaller_windows(monkeypatch):
    monkeypatch.setattr(reading_module, "HELD", 60)
    texts = [letter * 10 for letter in "abcdefgh"]
    read = []

    class Read(Counted):
        def __iter__(self):
            for text in self.texts:
                read.append(text)
                yield text

    reading = Reading(
        Read(texts).parts(), 0, 2, seed=0, window=5
    )  # the reader's texts a, c, e, g: 30 characters are 3 of them
    first = reading.texts(reading.start())
    found = [next(first)[0] for _ in range(3)]
    assert sorted(found) == [texts[0], texts[2], texts[4]] and read == texts[:5]


def test_the_stream_is_full_endless_and_deterministic(tokenizer, words):
    stream = TokenStream(TextCorpus(words), tokenizer, 32, seed=3)
    first = take(stream, 200)  # several passes
    assert first == take(stream, 200) == take(TokenStream(TextCorpus(words), tokenizer, 32, seed=3), 200)
    assert first != take(TokenStream(TextCorpus(words), tokenizer, 32, seed=4), 200)
    assert all(block["attention_mask"].all() for block in itertools.islice(stream, 200))
    rows = take(TokenStream(TextCorpus(words), tokenizer, 32, readers=1), 200)
    decoded = tokenizer.decode([token for row in rows for token in row]).split("<|endoftext|>")
    assert set(decoded[:-1]) == set(words)


@pytest.mark.parametrize(
    ("count", "most", "readers"), [(1, 64, 1), (3, 64, 2), (40, 64, 32), (64, 64, 64), (65, 64, 64), (40, 48, 24)]
)
def test_few_texts_have_few_readers(words, count, most, readers):
    corpus = TextCorpus([*words, *map(str, range(100))][:count])
    assert reader_count(corpus, corpus.parts(), most) == readers


def test_readers_follow_texts_and_parts(tokenizer, words):
    assert TokenStream(Counted(words), tokenizer, 8).readers == 1
    assert TokenStream(Counted(words), tokenizer, 8, readers=6).readers == 6
    side = hold_out(TextCorpus(words), 0.1)[1]
    assert TokenStream(side, tokenizer, 8).readers <= len(list(side))


def test_the_process_group_is_asked_for_the_rank(tokenizer, words, monkeypatch):
    corpus = TextCorpus(words)
    explicit = take(TokenStream(corpus, tokenizer, 16, rank=1, world_size=4), 20)
    monkeypatch.setattr(torch.distributed, "is_initialized", lambda: True)
    monkeypatch.setattr(torch.distributed, "get_rank", lambda: 1)
    monkeypatch.setattr(torch.distributed, "get_world_size", lambda: 4)
    assert take(TokenStream(corpus, tokenizer, 16), 20) == explicit


def test_errors(tokenizer, words):
    corpus = TextCorpus(words)
    with pytest.raises(ValueError, match="length must be at least 2; got 1"):
        TokenStream(corpus, tokenizer, 1)
    with pytest.raises(ValueError, match="mode must be one of"):
        TokenStream(corpus, tokenizer, 8, mode="rows")
    with pytest.raises(ValueError, match="must be given together; got 1 and None"):
        TokenStream(corpus, tokenizer, 8, rank=1)
    with pytest.raises(ValueError, match="got rank 2 of 2"):
        TokenStream(corpus, tokenizer, 8, rank=2, world_size=2)
    with pytest.raises(ValueError, match="readers must be at least 1; got 0"):
        TokenStream(corpus, tokenizer, 8, readers=0)
    with pytest.raises(ValueError, match="must divide the number of readers, 32; got 3"):
        next(iter(TokenStream(corpus, tokenizer, 8, rank=0, world_size=3)))
    with pytest.raises(ValueError, match=r"must lie in \[0, 31\]; got 32"):
        TokenStream(corpus, tokenizer, 8).read(32)
    with pytest.raises(ValueError, match="at least one non-empty text; 'texts-validation' has none"):
        next(iter(TokenStream(hold_out(TextCorpus(["a"]), 1e-9)[1], tokenizer, 8, readers=2)))


def test_states_that_do_not_fit_are_refused(tokenizer, words):
    stream = TokenStream(TextCorpus(words), tokenizer, 16, seed=3)
    state = next(stream.read(1))[1]
    with pytest.raises(ValueError, match="one of the same reader; got part 1 for reader 2 of 32"):
        stream.read(2, state)
    with pytest.raises(ValueError, match="must have part, place"):
        stream.read(1, {"part": 1})
    with pytest.raises(ValueError, match="same data; it lies 999 tokens into a text of"):
        next(stream.read(1, {**state, "token": 999}))


def test_the_import_is_light():
    heavy = "{'transformers', 'datasets', 'tokenizers', 'pyarrow', 'safetensors'}"
    code = f"import sys, noiselab.data; assert not {heavy} & set(sys.modules), {heavy} & set(sys.modules)"
    subprocess.run([sys.executable, "-c", code], check=True)
