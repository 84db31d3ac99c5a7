"""Laws of formats: the same texts in files of any format and compression are the same tokens, and damage is named."""

import gzip
import itertools
import json
from pathlib import Path

import pyarrow
import pyarrow.parquet
import pytest

from noiselab.data import Corpus, FileCorpus, HubCorpus, TokenStream, hold_out, pack, write_shards
from noiselab.training.options import Data
from noiselab.training.texts import load_data

PACK = {
    "": lambda content: content,
    ".gz": gzip.compress,
    ".zst": lambda content: pyarrow.compress(content, codec="zstd", asbytes=True),
    ".gz, in members": lambda content: gzip.compress(content[:100]) + gzip.compress(content[100:]),
    ".zst, in frames": lambda content: PACK[".zst"](content[:100]) + PACK[".zst"](content[100:]),
}
SMALL = ("", ".gz", ".zst")


def lines(texts) -> bytes:
    return "".join(json.dumps({"text": text}, ensure_ascii=False) + "\n" for text in texts).encode()


def write(folder: Path, texts, kind: str, packing: str) -> Path:
    """Files of some texts; several of them, so that readers have parts."""
    folder.mkdir()
    suffix = packing.partition(",")[0]
    shares = [texts[first : first + 10] for first in range(0, len(texts), 10)]
    for number, share in enumerate([[text] for text in texts] if kind == "txt" else shares):
        path = folder / f"{number:02}.{kind}{suffix}"
        if kind == "parquet":
            table = pyarrow.table({"text": pyarrow.array(share, pyarrow.string())})
            pyarrow.parquet.write_table(table, path, row_group_size=4, compression=suffix[1:4] or None)
            continue
        content = {
            "txt": lambda share: share[0].encode(),
            "jsonl": lines,
            "json": lambda share: json.dumps([{"text": text} for text in share]).encode(),
        }[kind](share)
        path.write_bytes(PACK[packing](content))
    return folder


FILES = [
    *itertools.product(("jsonl", "json"), PACK),
    *itertools.product(("txt",), PACK),
    ("parquet", ""),
]
HUB = [*itertools.product(("jsonl", "json"), PACK), ("parquet", "")]


def corpus(reader: str, folder: Path, texts, kind: str, packing: str) -> Corpus:
    place = write(folder / "texts", texts, kind, packing)
    return HubCorpus(str(place)) if reader == "hub" else FileCorpus(f"{place}/*")


def documents(stream: TokenStream, count: int) -> list[list[int]]:
    rows = itertools.islice(stream, count)
    return sorted(row["input_ids"][row["attention_mask"]].tolist() for row in rows)


@pytest.mark.long_for("* in *", "files-json-*", "hub-json-.gz", "hub-json-", "hub-jsonl-", "*-txt-", "files-jsonl-.gz")
@pytest.mark.parametrize(
    ("reader", "kind", "packing"), [*(("files", *one) for one in FILES), *(("hub", *one) for one in HUB)]
)
def test_formats_have_equal_tokens(reader, kind, packing, words, tokenizer, tmp_path):
    given = corpus(reader, tmp_path, words, kind, packing)
    expected = pack(words, tokenizer, 16)
    found = pack(given, tokenizer, 16)
    assert found.tokens.numpy().tobytes() == expected.tokens.numpy().tobytes() and found.real.equal(expected.real)
    shards = write_shards(given, tokenizer, tmp_path / "shards", 16)
    full = pack(words, tokenizer, 16, keep_partial=False)
    assert [shards[n]["input_ids"].tolist() for n in range(len(shards))] == [row["input_ids"].tolist() for row in full]
    sides = zip(hold_out(given, 0.3), hold_out(words, 0.3), strict=True)
    assert all(list(one) == list(other) for one, other in sides)
    # A stream has an order of its own, and each text once in each pass of all readers.
    stream = TokenStream(given, tokenizer, 256, mode="document", seed=3, readers=1)
    assert documents(stream, len(words)) == documents(TokenStream(words, tokenizer, 256, mode="document"), len(words))


def test_a_data_set_of_lines_of_text_has_the_lines(words, tmp_path):
    for packing in SMALL:
        (tmp_path / f"texts{packing}").mkdir()
        path = tmp_path / f"texts{packing}" / f"a.txt{packing}"
        path.write_bytes(PACK[packing]("".join(f"{word}\n" for word in words).encode()))
        assert list(HubCorpus(str(path.parent))) == words


@pytest.mark.parametrize("packing", [".gz", ".zst"])
@pytest.mark.parametrize("kind", ["jsonl", "json", "txt"])
def test_a_file_that_is_cut_anywhere_is_named_and_never_ends_early(kind, packing, words, tmp_path):
    path = tmp_path / f"a.{kind}{packing}"
    texts = ["".join(words)] if kind == "txt" else words
    content = texts[0].encode() if kind == "txt" else lines(texts)
    whole = PACK[packing](content)
    for cut in range(0, len(whole), 7):
        path.write_bytes(whole[:cut])
        with pytest.raises(ValueError, match=rf"a\.{kind}\{packing}"):
            list(FileCorpus(path))
    path.write_bytes(whole)
    assert list(FileCorpus(path)) == texts


def test_a_footer_is_read_once_for_all_row_groups(words, tmp_path, monkeypatch):
    (path,) = write(tmp_path / "texts", words[:10], "parquet", "").iterdir()
    read, original = [], pyarrow.parquet.read_metadata

    def counted(place):
        read.append(place)
        return original(place)

    monkeypatch.setattr(pyarrow.parquet, "read_metadata", counted)
    opened = [part.read() for part in FileCorpus(path).parts()]
    assert [next(texts)[0] for texts in opened] == [words[0], words[4], words[8]] and read == [path]
    table = pyarrow.table({"text": pyarrow.array(words[20:29], pyarrow.string())})
    pyarrow.parquet.write_table(table, path, row_group_size=4)  # another file at the same place
    assert list(FileCorpus(path)) == words[20:29] and read == [path, path]


def test_rows_that_are_left_out_are_counted_as_all_others(tmp_path):
    path = tmp_path / "a.jsonl.gz"
    found = [b'{"text": "a"}', b"", b"  ", b'  {"text": "b"}', "\u3000".encode(), b'{"text": null}', b'\t{"text": "c"}']
    path.write_bytes(gzip.compress(b"\n".join(found)))
    (part,) = FileCorpus(path).parts()
    assert list(part.read()) == [("a", 1), ("b", 2), ("c", 4)]
    assert [list(part.read(start)) for start in (1, 2, 3, 4)] == [[("b", 2), ("c", 4)], [("c", 4)], [("c", 4)], []]


def test_a_data_set_is_parsed_in_small_parts_whose_columns_come_late(tmp_path, monkeypatch):
    """The types of all columns are known from the first 10 MB, although less is parsed at once."""
    monkeypatch.setattr("noiselab.data.hub.CHUNK", 1000)
    rows = [{"text": f"{number} " * 20, "late": None if number < 900 else {"a": number}} for number in range(1000)]
    (tmp_path / "a.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    corpus = HubCorpus(str(tmp_path))
    assert list(corpus) == [row["text"] for row in rows]
    (part,) = corpus.parts()
    assert [text for text, _ in part.read(700)] == [row["text"] for row in rows[700:]]


@pytest.mark.parametrize("packing", [".gz", ".zst"])
@pytest.mark.parametrize("number", [0, 2])  # the first file gives the columns
def test_a_data_set_with_a_file_that_is_cut_names_it(number, packing, words, tmp_path):
    place = write(tmp_path / "texts", words, "jsonl", packing)
    path = place / f"{number:02}.jsonl{packing}"
    whole = path.read_bytes()
    for cut in (20, len(whole) // 2, len(whole) - 3):
        path.write_bytes(whole[:cut])
        with pytest.raises(ValueError, match=rf"a data set must be readable; .*{number:02}\.jsonl\{packing}"):
            list(HubCorpus(str(place)))
    path.write_bytes(whole)
    assert list(HubCorpus(str(place))) == words


@pytest.mark.long_for("json*-.gz", "parquet-")
@pytest.mark.parametrize(("kind", "packing"), [("jsonl", ".gz"), ("jsonl", ".zst"), ("json", ".gz"), ("parquet", "")])
def test_settings_stream_a_data_set_and_continue_anywhere(kind, packing, words, tokenizer, tmp_path):
    place = write(tmp_path / "texts", words * 2, kind, packing)
    tokenizer.save_pretrained(tmp_path / "tokenizer")
    data = Data(f"hub:{place}", tokenizer=str(tmp_path / "tokenizer"), length=8, validation=0.2, stream=True)
    _, stream, held_out = load_data(data, tmp_path / "unused", seed=3)
    assert isinstance(stream, TokenStream) and stream.readers == {"jsonl": 8, "json": 8, "parquet": 16}[kind]
    expected = [row["input_ids"].tolist() for row in itertools.islice(stream, 240)]
    rows = {reader: stream.read(reader) for reader in range(stream.readers)}
    states = {reader: [next(rows[reader])[1] for _ in range(120 // stream.readers)][-1] for reader in rows}
    again = load_data(data, tmp_path / "unused", seed=3)[1]  # as in a new process
    resumed = [again.read(reader, json.loads(json.dumps(states[reader]))) for reader in rows]
    count = 120 // stream.readers * stream.readers
    found = [next(resumed[number % len(resumed)])[0]["input_ids"].tolist() for number in range(120)]
    assert found == expected[count : count + 120]
    assert len(held_out)
