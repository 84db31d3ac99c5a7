"""Files of samples: what is written can be read, what cannot be read is refused with file and line, and nothing is lost."""

import gzip
import json
import os
import subprocess
import sys

import pyarrow
import pyarrow.parquet
import pytest

from noiselab.commands import common, generate
from noiselab.commands.main import main
from noiselab.data import FileCorpus, HubCorpus
from noiselab.data.records import RecordWriter, as_line
from noiselab.data.samples import read_samples

SIGNS = ["\u0085", "\u2028", "\u2029", "\x0b", "\x0c", "\x1c", "\r", "\n", "\n\n", "\ufeff", "é🙂"]
ROWS = [{"text": f"one{sign}two", "tokens": [1, 2]} for sign in SIGNS]
TEXTS = [row["text"] for row in ROWS]
ENDINGS = ["", ".gz", ".zst"]


def compressed(content, ending):
    packers = {"": bytes, ".gz": gzip.compress, ".zst": lambda c: pyarrow.compress(c, codec="zstd", asbytes=True)}
    return packers[ending](content)


@pytest.mark.parametrize("ending", ENDINGS)
def test_what_is_written_is_read(tmp_path, ending):
    file = tmp_path / f"a.jsonl{ending}"
    common.write_samples(file, ROWS)
    assert [sample.text for sample in read_samples(file)] == TEXTS == list(FileCorpus(file))
    assert all(sample.tokens == (1, 2) for sample in read_samples(file))


def test_programs_that_break_lines_at_every_sign_can_read_it():
    lines = [as_line(row) for row in ROWS]
    assert [json.loads(line) for line in "\n".join(lines).splitlines()] == ROWS


@pytest.mark.parametrize("ending", ENDINGS)
@pytest.mark.parametrize("sign", SIGNS[:3])
def test_files_of_other_programs(tmp_path, sign, ending):
    """Some write these signs as they are, or an array, or one object."""
    rows = [{"text": f"one{sign}two"}, {"text": "three"}]
    for name, content in {
        "lines.jsonl": "".join(json.dumps(row, ensure_ascii=False) + "\r\n" for row in rows),
        "lines.json": "\n".join(json.dumps(row, ensure_ascii=False) for row in rows),
        "array.json": json.dumps(rows, ensure_ascii=False, indent=2),
        "mark.jsonl": "\ufeff" + "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows),
    }.items():
        file = tmp_path / f"{name}{ending}"
        file.write_bytes(compressed(content.encode(), ending))
        assert list(FileCorpus(file)) == [sample.text for sample in read_samples(file)] == [f"one{sign}two", "three"]
    file = tmp_path / f"one.json{ending}"
    file.write_bytes(compressed(json.dumps({"text": "three"}, indent=2).encode(), ending))
    assert list(FileCorpus(file)) == [sample.text for sample in read_samples(file)] == ["three"]
    file = tmp_path / f"a.txt{ending}"
    file.write_bytes(compressed(f"one{sign}\r\n\r\nthree\n".encode(), ending))
    assert [sample.text for sample in read_samples(file)] == [f"one{sign}", "three"]
    assert list(FileCorpus(file)) == [f"one{sign}\r\n\r\nthree\n"]


def test_nested_fields(tmp_path):
    rows = [{"data": {"text": "a"}}, {"data": {"text": "b"}}]
    common.write_samples(tmp_path / "a.jsonl", rows)
    pyarrow.parquet.write_table(pyarrow.Table.from_pylist(rows), tmp_path / "a.parquet")
    common.write_samples(tmp_path / "whole.jsonl", [{"data.text": "c", "data": {"text": "no"}}])
    assert [sample.text for sample in read_samples(tmp_path / "a.jsonl", "data.text")] == ["a", "b"]
    assert list(FileCorpus(tmp_path / "a.jsonl", field="data.text")) == ["a", "b"]
    assert list(FileCorpus(tmp_path / "a.parquet", field="data.text")) == ["a", "b"]
    assert list(FileCorpus(tmp_path / "whole.jsonl", field="data.text")) == ["c"]
    assert list(HubCorpus("json", data_files=str(tmp_path / "a.jsonl"), field="data.text")) == ["a", "b"]
    for field, came in (("data.body", r"\['text'\]"), ("data.text.more", "a str"), ("body", r"\['data'\]")):
        with pytest.raises(ValueError, match=rf"the field '{field}'; .*a\.jsonl, line 1 has .*{came}"):
            list(FileCorpus(tmp_path / "a.jsonl", field=field))


@pytest.mark.parametrize(
    ("name", "content", "words"),
    [
        ("a.jsonl", b'{"text": "a"}\n{"text": null}', "line 2 has null"),
        ("a.jsonl", b'{"text": ["a", "b"]}', "line 1 has a list"),
        ("a.jsonl", b'\n{"text": 3.5}', "line 2 has a float"),
        ("a.jsonl", b'{"text": true}', "line 1 has a bool"),
        ("a.jsonl", b'{"body": "a"}', "line 1 has the fields ['body']"),
        ("a.jsonl", b'["a"]', "line 1 has a list"),
        ("a.jsonl", b'{"text": "a", "tokens": [1.7, 2]}', "line 1 has [1.7, 2]"),
        ("a.jsonl", b'{"text": "a", "tokens": "12"}', "line 1 has 12"),
        ("a.jsonl", b'{"text": "a", "tokens": [true]}', "line 1 has [True]"),
        ("a.jsonl", b'{"text": "a", "tokens": [-1]}', "line 1 has [-1]"),
        ("a.jsonl", b'{"text": "a"}\n{"text": "a', "line 2: Unterminated string"),
        ("a.jsonl", b'{"text": "a"}\n{"text": "caf\xe9"}', "line 2: 'utf-8' codec"),
        ("a.jsonl", b"[" * 100_000, "line 1: maximum recursion"),
        ("a.json", b'[{"text": "a"}, {"text": 3}]', "item 2 has a int"),
        ("a.json", b'[{"text": "a"}, ', "must be one JSON array"),
        ("a.json", b'{"data": [{"text": "a"}]}', "has the fields ['data']"),
        ("a.txt", b"caf\xe9\n", "'utf-8' codec"),
        ("a.txt", b"\n\n", "at least one text"),
        ("a.csv", b"text\na\n", "must end in"),
        ("a.jsonl.gz", b'{"text": "a"}\n', "Not a gzipped file"),
        ("a.jsonl.gz", gzip.compress(b'{"text": "a"}\n' * 99, mtime=0)[:-9], "must be readable"),
        ("a.jsonl.zst", b'{"text": "a"}\n', "must be readable"),
        ("a.parquet", b"not parquet", "must be readable"),
    ],
)
def test_what_is_no_text_is_refused_with_file_and_line(tmp_path, name, content, words):
    file = tmp_path / name
    file.write_bytes(content)
    with pytest.raises(ValueError) as refused:
        read_samples(file)
    assert name in str(refused.value) and words in str(refused.value)
    if "tokens" not in str(content) and "null" not in words and content.strip():
        with pytest.raises(ValueError, match=name):
            list(FileCorpus(file))


def test_folders_leave_out_settings_and_compressed_copies(tmp_path):
    (tmp_path / "settings.json").write_text('{"steps": 3}')
    for file in (tmp_path / "a.jsonl", tmp_path / "a.jsonl.gz", tmp_path / "b.jsonl.zst"):
        common.write_samples(file, [{"text": file.name}])
    assert list(FileCorpus(tmp_path)) == ["a.jsonl", "b.jsonl.zst"]
    (tmp_path / "settings.json").write_text('{"text": "named"}')
    assert list(FileCorpus(tmp_path / "*.json")) == ["named"]


def test_records_are_in_the_file_as_soon_as_they_are_written(tmp_path):
    for ending in ENDINGS:
        file = tmp_path / f"a.jsonl{ending}"
        writer = RecordWriter(file)
        for count in (1, 2):
            writer.write({"text": "a"})
            assert len(read_samples(file)) == count
        with pytest.raises(RuntimeError), writer:
            raise RuntimeError
        assert len(read_samples(file)) == 2


def test_an_older_file_stays_until_there_is_something_to_write(tmp_path):
    old, new = tmp_path / "old.jsonl", tmp_path / "folder" / "new.jsonl"
    common.write_samples(old, [{"text": "old"}])
    for file in (old, new):
        with pytest.raises(RuntimeError), RecordWriter(file):
            raise RuntimeError
    assert read_samples(old)[0].text == "old" and not new.exists()
    common.write_samples(old, [{"text": "a"}])
    assert [sample.text for sample in read_samples(old)] == ["a"]


def test_half_a_surrogate_pair_is_written(tmp_path):
    common.write_samples(tmp_path / "a.jsonl", [{"text": "a\ud800"}])
    assert read_samples(tmp_path / "a.jsonl")[0].text == "a\ud800"


@pytest.mark.parametrize(
    "command",
    [
        "generate nowhere --out",
        "correct nowhere {samples} --out",
        "evaluate perplexity {samples} --judge nowhere --out",
        "evaluate bound nowhere {samples} --out",
        "evaluate correction nowhere --judge nowhere --out",
        "evaluate correction nowhere --judge nowhere --plot",
        "inspect nowhere --out",
        "inspect nowhere --denoising",
    ],
)
def test_an_output_that_cannot_be_written_is_noticed_before_the_model_is_loaded(tmp_path, capsys, monkeypatch, command):
    monkeypatch.setattr(common, "load", None)
    samples = tmp_path / "samples.jsonl"
    common.write_samples(samples, [{"text": "a"}])
    (tmp_path / "folder.svg").mkdir()
    for out in (tmp_path / "folder.svg", samples / "below.svg"):
        with pytest.raises(SystemExit) as end:
            main([*command.format(samples=samples).split(), str(out)])
        said = capsys.readouterr().err
        assert end.value.code == 2 and "must be a file that can be written" in said and str(out) in said
    assert len(read_samples(samples)) == 1


def test_corrections_do_not_replace_what_they_read(tmp_path, capsys):
    samples = tmp_path / "samples.jsonl"
    common.write_samples(samples, [{"text": "a"}])
    with pytest.raises(SystemExit):
        main(["correct", "nowhere", str(samples), "--out", str(samples)])
    assert "out must be another file" in capsys.readouterr().err and len(read_samples(samples)) == 1


def test_what_was_generated_before_an_error_is_kept(tmp_path, monkeypatch):
    def fails_at_the_third_batch(*given):
        yield from ["one", "two"]
        raise RuntimeError

    monkeypatch.setattr(common, "load", lambda model, device: None)
    monkeypatch.setattr(generate, "_generated", fails_at_the_third_batch)
    with pytest.raises(RuntimeError):
        generate.main(generate.Options("model", out=tmp_path / "a.jsonl", num_samples=3))
    assert [sample.text for sample in read_samples(tmp_path / "a.jsonl")] == ["one", "two"]


CODE = """
import sys
from pathlib import Path
from noiselab.commands.common import output, print_text
from noiselab.data.samples import read_samples
for file in (Path(sys.argv[1]), None):
    with output(file) as write:
        write({"text": "caf\\u00e9"})
print_text("1 \\u00b1 2")
assert read_samples(Path(sys.argv[1]))[0].text == "caf\\u00e9"
"""


@pytest.mark.parametrize("encoding", ["ascii", "cp1252", "utf-8"])
def test_every_locale_writes_utf_8(tmp_path, encoding):
    file = tmp_path / "a.jsonl"
    settings = {"LC_ALL": "C", "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0", "PYTHONIOENCODING": encoding}
    done = subprocess.run(
        [sys.executable, "-c", CODE, str(file)], env={**os.environ, **settings}, capture_output=True, check=True
    )
    assert file.read_bytes() == b'{"text": "caf\xc3\xa9"}\n'
    first, second = done.stdout.splitlines()
    assert json.loads(first.decode("utf-8")) == {"text": "café"}
    assert second == "1 ± 2".encode(encoding, "backslashreplace")
