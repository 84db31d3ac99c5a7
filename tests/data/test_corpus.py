"""Laws of corpora: parts and splits are disjoint, complete and stable; wrong files are named."""

import json
import re
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from noiselab.data import Corpus, FileCorpus, HubCorpus, TextCorpus, TokenStream, hold_out, pack, standard_library

TOPICS = (
    'topics = {"yield": "A yield expression is used in a generator.\\n\\n   y = yield x", "if": "An if statement."}'
)
MODULE = '''"""This module does one thing very well."""
# Comments that are sentences are counted as prose too.
def f():
    """This module does one thing very well.

    >>> f()
    1
    """
    return 1
'''


@pytest.fixture
def stdlib(tmp_path: Path) -> Path:
    """A small folder laid out as a standard library."""
    files = {
        "one.py": MODULE,
        "deep/two.py": '"""This paragraph is in the second file only."""\n',
        "empty.py": "",
        "site-packages/other.py": "other = 1",
        "deep/test/test_two.py": "test = 1",
        "encodings/table.py": "table = 1",
        "_sysconfigdata_linux.py": "machine = 1",
        "pydoc_data/topics.py": TOPICS,
        "broken.py": "def (:",
    }
    for name, text in files.items():
        path = tmp_path / "library" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text, encoding="utf-8")
    (tmp_path / "library" / "latin.py").write_bytes(b"name = '\xe4'")
    return tmp_path / "library"


def test_library_sources_are_the_modules_in_order(stdlib: Path):
    texts = list(standard_library("sources", "all", folder=stdlib))
    assert texts == [
        "def (:",
        '"""This paragraph is in the second file only."""\n',
        MODULE,
        "An if statement.",
        "A yield expression is used in a generator.\n\n   y = yield x",
    ]


def test_library_prose_holds_each_paragraph_once(stdlib: Path):
    texts = list(standard_library("prose", "all", folder=stdlib))
    assert texts == [
        "This paragraph is in the second file only.",
        "This module does one thing very well.\nComments that are sentences are counted as prose too.",
        "A yield expression is used in a generator.",
    ]


def test_library_on_this_machine_splits_without_overlap():
    parts = {split: standard_library("sources", split) for split in ("train", "validation", "all")}
    assert sorted([*parts["train"], *parts["validation"]]) == sorted(parts["all"])
    share = len(parts["validation"]) / len(parts["all"])
    assert 0.02 < share < 0.10  # 5 % of some 700 documents
    assert sum(map(len, parts["all"])) > 5e6
    assert parts["train"].key != parts["validation"].key
    assert parts["train"].key == standard_library("sources", "train").key


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"contents": "poems"}, "contents must be"),
        ({"split": "test"}, "split must be"),
        ({"validation_share": 1.0}, "validation_share must lie"),
    ],
)
def test_library_refuses_unknown_choices(arguments: dict, message: str):
    with pytest.raises(ValueError, match=message):
        standard_library(**arguments)


def test_library_without_sources_is_an_error(tmp_path: Path):
    with pytest.raises(ValueError, match="must contain text"):
        standard_library(folder=tmp_path)


@settings(max_examples=50, deadline=None)
@given(
    texts=st.lists(st.text(min_size=1, max_size=5), min_size=1, max_size=30),
    more=st.lists(st.text(min_size=1, max_size=5), max_size=5),
)
def test_hold_out_is_disjoint_complete_and_stable(texts: list[str], more: list[str]):
    training, validation = map(list, hold_out(TextCorpus(texts), 0.3))
    assert sorted(training + validation) == sorted(texts)
    assert not set(training) & set(validation)
    assert set(validation) <= set(hold_out(TextCorpus(texts + more), 0.3)[1])


def test_hold_out_share_is_met():
    numbers = TextCorpus(str(number) for number in range(4000))
    validation = list(hold_out(numbers, 0.1)[1])
    assert abs(len(validation) - 400) < 4 * (4000 * 0.1 * 0.9) ** 0.5
    with pytest.raises(ValueError, match="share must lie between 0 and 1; got 0"):
        hold_out(numbers, 0.0)


def test_keys_follow_the_contents():
    assert TextCorpus(["ab", "c"]).key == TextCorpus(["ab", "", "c"]).key
    assert TextCorpus(["ab", "c"]).key != TextCorpus(["a", "bc"]).key


def test_empty_corpus_is_an_error():
    with pytest.raises(ValueError, match="at least one non-empty text"):
        TextCorpus(["", ""])


def write_lines(path: Path, texts: list[str | None]) -> Path:
    path.write_text("".join(json.dumps({"text": text, "n": 1}) + "\n" for text in texts), encoding="utf-8")
    return path


def write_parquet(path: Path, texts: list[str | None]) -> Path:
    import pyarrow
    import pyarrow.parquet

    pyarrow.parquet.write_table(pyarrow.table({"text": pyarrow.array(texts, pyarrow.string())}), path)
    return path


def test_all_kinds_of_files_give_their_texts(tmp_path: Path, words: list[str]):
    (tmp_path / "a.txt").write_bytes(b"line\r\nline")
    write_lines(tmp_path / "b.jsonl", [*words[:5], "", None])
    write_parquet(tmp_path / "c.parquet", [*words[5:9], None])
    (tmp_path / "ignored.bin").write_bytes(b"\x00")
    (tmp_path / ".hidden").mkdir()
    (tmp_path / ".hidden" / "d.txt").write_text("hidden")
    (tmp_path / "E.TXT").write_text("capitals")
    expected = ["line\r\nline", *words[:9]]
    assert list(FileCorpus(tmp_path)) == ["capitals", *expected]
    assert list(FileCorpus([tmp_path / "b.jsonl", tmp_path / "*.parquet"])) == expected[1:]
    assert list(FileCorpus(str(tmp_path / "**" / "*.txt"))) == expected[:1]


def test_file_key_follows_the_files(tmp_path: Path):
    path = write_lines(tmp_path / "b.jsonl", ["one"])
    first = FileCorpus(path).key
    assert FileCorpus(path).key == first
    assert FileCorpus(path, field="other").key != first
    write_lines(path, ["one", "two"])
    assert FileCorpus(path).key != first


@pytest.mark.parametrize(
    ("name", "contents", "message"),
    [
        ("a.jsonl", b'{"text": "a"}\n\n{"other": 1}\n', r"'text'.*a\.jsonl, line 3 has the fields \['other'\]"),
        ("a.jsonl", b'{"text": "a"}\n[1]\n', r"a\.jsonl, line 2 has a list"),
        ("a.jsonl", b'{"text": "a"}\n{"text": \n', r"must be JSON; .*a\.jsonl, line 2"),
        ("a.jsonl", b'{"text": 3}\n', r"must be text; .*a\.jsonl, line 1 has a int"),
        ("a.jsonl", b'{"text": ""}\n', "at least one non-empty text"),
        ("a.txt", b"\xff\xfe", r"must be UTF-8; .*a\.txt"),
        ("a.bin", b"text", r"must end in .*\.parquet.*; got .*a\.bin"),
    ],
)
def test_wrong_files_are_named(tmp_path: Path, name: str, contents: bytes, message: str):
    (tmp_path / name).write_bytes(contents)
    with pytest.raises(ValueError, match=message):
        list(FileCorpus(tmp_path / name))


def test_missing_files_are_named(tmp_path: Path):
    with pytest.raises(ValueError, match=r"nothing found at .*absent\.txt"):
        FileCorpus(tmp_path / "absent.txt")
    with pytest.raises(ValueError, match="a folder must contain files that end in"):
        FileCorpus(tmp_path)
    path = write_parquet(tmp_path / "a.parquet", ["a"])
    with pytest.raises(ValueError, match=r"column 'body'; .*a\.parquet has \['text'\]"):
        list(FileCorpus(path, field="body"))


@pytest.fixture
def shards(tmp_path: Path, words: list[str]) -> list[str]:
    """Four files in two formats' worth of shards, ten texts each."""
    return [str(write_lines(tmp_path / f"{n}.jsonl", [*words[10 * n : 10 * n + 10], None])) for n in range(4)]


def test_hub_streams_local_files(shards: list[str], tmp_path: Path, words: list[str]):
    assert list(HubCorpus("json", data_files=shards)) == words
    path = str(write_parquet(tmp_path / "a.parquet", words))
    corpus = HubCorpus("parquet", data_files={"train": path}, name="local")
    assert list(corpus) == list(corpus) == words
    assert corpus.key == HubCorpus("parquet", data_files={"train": path}).key
    assert corpus.key != HubCorpus("parquet", data_files={"train": path}, field="body").key


@pytest.mark.parametrize(
    ("names", "words"),
    [("a", "{}a.txt has none"), ("ab", "{}a.txt and 1 other have none"), ("abc", "{}a.txt and 2 others have none")],
)
def test_files_without_a_text_are_counted(tmp_path: Path, names: str, words: str):
    files = [tmp_path / f"{name}.txt" for name in names]
    for file in files:
        file.write_text("")
    with pytest.raises(
        ValueError, match="at least one non-empty text; " + re.escape(words.format(f"{tmp_path}/")) + "$"
    ):
        list(FileCorpus(files))


def test_hub_errors(shards: list[str], tmp_path: Path):
    with pytest.raises(ValueError, match=r"field 'body'; .* has \['n', 'text'\]"):
        list(HubCorpus("json", data_files=shards, field="body"))
    with pytest.raises(ValueError, match=r"must be text; .* has a int"):
        list(HubCorpus("json", data_files=shards, field="n"))
    empty = str(write_lines(tmp_path / "empty.jsonl", [""]))
    with pytest.raises(ValueError, match="at least one non-empty text"):
        list(HubCorpus("json", data_files=[empty]))


class Nameless(Corpus):
    def __iter__(self):
        yield from ["a", "b"]


class Keyless(Nameless):
    def __init__(self):
        self.name = "mine"


class Once(Corpus):
    name, key = "once", "1"

    def __init__(self):
        self.texts = iter(["a", "b"])

    def __iter__(self):
        return self.texts


class Itself(Once):
    def __iter__(self):
        return self

    def __next__(self):
        return next(self.texts)


class Anew(Once):
    def __iter__(self):
        return iter(["a", "b"])


@pytest.mark.parametrize(
    ("kind", "message"),
    [
        (Nameless, "Nameless has no name"),
        (Keyless, "key, a text that changes .*Keyless has no key"),
        (Once, "read several times; Once returns the same iterator again"),
        (Itself, "read several times; Itself returns the same iterator again"),
    ],
)
def test_a_corpus_of_ones_own_that_cannot_work_is_refused_where_it_is_given(kind, message, tokenizer):
    for use in (hold_out, lambda c: pack(c, tokenizer, 8), lambda c: TokenStream(c, tokenizer, 8)):
        with pytest.raises(ValueError, match=message):
            use(kind())
    assert list(hold_out(Anew(), share=0.5)[0]) + list(hold_out(Anew(), share=0.5)[1])
