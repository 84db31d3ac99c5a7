"""Laws of the parts of corpora: in order they are the corpus, and each continues at any of its texts."""

import gzip
import itertools
import json
import random

import pyarrow
import pytest
from kinds_of_corpora import CORPORA, write_lines

from noiselab.data import FileCorpus, pieces

DIVIDED = {"memory": 40, "hub tables": 6, "hub lines": 1, "one's own": 1}


@pytest.mark.parametrize("kind", CORPORA)
def test_parts_in_order_are_the_corpus_and_continue_anywhere(kind, tmp_path, words):
    corpus = CORPORA[kind](tmp_path, words)
    parts = corpus.parts()
    assert len(parts) == DIVIDED.get(kind, len(parts))
    found = [list(part.read()) for part in parts]
    assert [text for part in found for text, _ in part] == list(corpus)
    for part, texts in zip(parts, found, strict=True):
        for number, (_, place) in enumerate(texts, start=1):
            assert list(part.read(json.loads(json.dumps(place)))) == texts[number:]


def test_lines_of_any_length_belong_to_one_part(tmp_path):
    texts = ["x" * length for length in (1, 5000, 2, 241, 242, 243, 244, 245, 3, 1200)]
    corpus = FileCorpus(write_lines(tmp_path / "a.jsonl", texts))
    found = [[text for text, _ in part.read()] for part in corpus.parts()]
    assert list(itertools.chain(*found)) == texts
    assert len(found) > len(texts)  # ranges of 256 bytes, some of which lie within one line


def test_a_line_that_begins_with_its_part_is_read(tmp_path):
    texts = [f"{number:03}" + "x" * 104 for number in range(64)]  # 128 bytes a line
    path = write_lines(tmp_path / "a.jsonl", texts)
    assert path.read_bytes()[256:].startswith(b'{"text": "002')
    found = [[text for text, _ in part.read()] for part in FileCorpus(path).parts()]
    assert found[:32] == [texts[place : place + 2] for place in range(0, 64, 2)]


def test_a_wrong_line_in_a_part_is_named(tmp_path):
    path = tmp_path / "a.jsonl"
    path.write_text('{"text": "a"}\n' * 40 + '{"other": 1}\n')
    with pytest.raises(ValueError, match=r"'text'.*a\.jsonl, line 41 has the fields \['other'\]"):
        for part in FileCorpus(path).parts():
            list(part.read())


@pytest.fixture
def small_pieces(monkeypatch):
    monkeypatch.setattr(pieces, "LARGE", 400)
    monkeypatch.setattr(pieces, "PIECE", 100)
    monkeypatch.setattr(pieces, "SEARCHED", 40)
    monkeypatch.setattr("noiselab.data.file_parts.PIECE", 100)


def long_texts():
    """Texts with and without places to cut at, of lengths around multiples of a piece."""
    generator = random.Random(0)
    paragraphs = "".join(
        "".join(generator.choices("aä \n試", k=17)) + generator.choice("\n \n\r\n".split(" ")) for _ in range(90)
    )
    yield from (
        "é" * 333,
        "x" + "é" * 333,
        "x" * 401,
        "word " * 100,
        paragraphs,
        "a" * 440 + "\n\n" + "b" * 99,
        "a" * 480 + "\n" * 90,
    )


def test_pieces_are_the_text_whatever_it_is_and_wherever_it_is_read(tmp_path, small_pieces):
    for number, text in enumerate(long_texts()):
        raw = text.encode()
        files = [tmp_path / f"{number}.txt", tmp_path / f"{number}.txt.gz", tmp_path / f"{number}.txt.zst"]
        files[0].write_bytes(raw)
        files[1].write_bytes(gzip.compress(raw))
        files[2].write_bytes(pyarrow.compress(raw, codec="zstd", asbytes=True))
        found = [list(FileCorpus(file)) for file in files]
        assert found[0] == found[1] == found[2] and "".join(found[0]) == text and len(found[0]) > 3
        assert all(len(piece.encode()) <= 140 for piece in found[0])
        for file in files:
            parts = [list(part.read()) for part in FileCorpus(file).parts()]
            assert [piece for part in parts for piece, _ in part] == found[0]
        assert len(FileCorpus(files[0]).parts()) == -(-len(raw) // 100)
        whole = FileCorpus(files[1]).parts()[0]
        texts = list(whole.read())
        assert all(list(whole.read(place)) == texts[number:] for number, (_, place) in enumerate(texts, start=1))


def test_pieces_end_where_a_paragraph_does(tmp_path, small_pieces):
    (tmp_path / "a.txt").write_text(("line\n" * 4 + "\n") * 25)  # a paragraph of 21 bytes
    found = list(FileCorpus(tmp_path / "a.txt"))
    assert [len(piece) for piece in found] == [105, 105, 105, 105, 84, 21]  # ends at 105, ..., 420, 504, 525
    assert all(piece.endswith("\n\n") for piece in found)


def test_a_file_is_one_document_up_to_its_limit(tmp_path, small_pieces):
    for size in (399, 400, 401):
        (tmp_path / "a.txt").write_text("word " * (size // 5) + "x" * (size % 5))
        (tmp_path / "b.txt.gz").write_bytes(gzip.compress((tmp_path / "a.txt").read_bytes()))
        plain, packed = (list(FileCorpus(tmp_path / name)) for name in ("a.txt", "b.txt.gz"))
        assert plain == packed and (len(plain) == 1) == (size <= 400)


def test_the_key_says_that_a_file_is_cut(tmp_path, monkeypatch):
    (tmp_path / "a.txt").write_text("word " * 100)
    small = FileCorpus(tmp_path / "a.txt").key
    (tmp_path / "b.txt").write_text("word")
    both = FileCorpus(tmp_path).key
    monkeypatch.setattr(pieces, "LARGE", 400)
    assert FileCorpus(tmp_path / "a.txt").key != small and FileCorpus(tmp_path).key != both
