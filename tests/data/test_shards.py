"""Laws of shards: their rows are those of packing, a stopped writer continues, and damage is named."""

import json
import pickle
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from kinds_of_corpora import CORPORA
from torch.utils.data import DataLoader

from noiselab.commands.main import run
from noiselab.data import TokenBlocks, TokenShards, pack, sharding, train_tokenizer, vocabulary_size, write_shards
from noiselab.data.corpus import hold_out
from noiselab.files import sha256


def ids(rows) -> list[list[int]]:
    return [row["input_ids"].tolist() for row in rows]


def contents(folder: Path):
    """All that is written but the order of metadata, which safetensors does not fix."""
    index = json.loads((folder / "index.json").read_text())
    files = {path.name: TokenBlocks.load(path) for path in folder.glob("shard-*")}
    for found in index["shards"]:
        assert sha256(folder / found.pop("file")) == found.pop("sha256") and found.pop("sample")
    return index, {name: (found.key, found.about) for name, found in files.items()}


@pytest.mark.parametrize("mode", ["concatenate", "document"])
@pytest.mark.parametrize("kind", CORPORA)
def test_rows_are_those_of_packing(kind, mode, tokenizer, words, tmp_path):
    (tmp_path / "texts").mkdir()
    corpus = CORPORA[kind](tmp_path / "texts", words)
    shards = write_shards(corpus, tokenizer, tmp_path / "out", 16, mode=mode, shard_tokens=80)
    blocks = pack(corpus, tokenizer, 16, mode=mode, keep_partial=False)
    assert len(shards) == len(blocks) and len(shards.index["shards"]) == -(-len(blocks) // 5)
    for place in torch.randperm(len(blocks), generator=torch.Generator().manual_seed(0)).tolist():
        for name in ("input_ids", "attention_mask"):
            assert shards[place][name].equal(blocks[place][name])
    assert shards.real_tokens == blocks.real_tokens
    assert shards[-1]["input_ids"].equal(blocks[len(blocks) - 1]["input_ids"])
    with pytest.raises(IndexError):
        shards[len(shards)]
    first = TokenBlocks.load(tmp_path / "out" / "shard-00000.safetensors", vocabulary_size(tokenizer))
    assert ids(first[n] for n in range(5)) == ids(blocks[n] for n in range(5))


class Killed(Exception):
    pass


@pytest.mark.parametrize("kind", ["files", "memory", "one's own"])
def test_a_stopped_writer_continues(kind, tokenizer, words, tmp_path, monkeypatch):
    corpus = CORPORA[kind](tmp_path, words)

    def write(folder, **options):
        return write_shards(corpus, tokenizer, folder, 8, shard_tokens=160, **options)

    write(tmp_path / "whole")
    for stop in (7, 20, 47):

        def stopped(blocks, part, stop=stop):
            if blocks == stop:
                raise Killed

        with pytest.raises(Killed):
            write(tmp_path / str(stop), progress=stopped)
        with pytest.raises(ValueError, match="run the same noiselab tokenize again" if stop >= 20 else "has none"):
            TokenShards(tmp_path / str(stop))
        kept = {path: path.stat().st_ino for path in (tmp_path / str(stop)).glob("shard-*")}
        assert len(kept) == stop // 20
        seen = []
        write(tmp_path / str(stop), progress=lambda blocks, part, seen=seen: seen.append(blocks))
        assert seen[0] == stop // 20 * 20 + 1
        assert all(path.stat().st_ino == number for path, number in kept.items())
        assert contents(tmp_path / str(stop)) == contents(tmp_path / "whole")
    write(tmp_path / "whole", progress=stopped)  # complete: nothing is written

    def killed(*_):
        raise Killed

    with monkeypatch.context() as patched, pytest.raises(Killed):
        patched.setattr(sharding, "write_json", killed)  # after a shard and before the index
        write(tmp_path / "between")
    write(tmp_path / "between")
    assert contents(tmp_path / "between") == contents(tmp_path / "whole")


@pytest.fixture
def folder(tokenizer, words, tmp_path) -> Path:
    write_shards(words, tokenizer, tmp_path / "shards", 16, shard_tokens=160)
    return tmp_path / "shards"


def shard(folder: Path, number: int = 1) -> Path:
    return folder / f"shard-{number:05}.safetensors"


def test_what_is_wrong_with_shards_is_named(folder, tokenizer, words, tmp_path):
    other = train_tokenizer(words, vocab_size=290)
    with pytest.raises(
        ValueError, match=r"of the same tokenizer; .* are of 'a tokenizer' of 300 tokens; got 'one' of 290 tok"
    ):
        TokenShards(folder, tokenizer=other)
    write_shards(words, other, tmp_path / "other", 16, shard_tokens=160)

    def refused(match):
        copy = tmp_path / "copy"
        shutil.rmtree(copy, ignore_errors=True)
        shutil.copytree(folder, copy)
        return copy, pytest.raises(ValueError, match=match)

    copy, error = refused(r"shard-00001.safetensors is missing")
    shard(copy).unlink()
    with error:
        TokenShards(copy)
    copy, error = refused(r"shard-00001.safetensors has [\d,]+ bytes instead of")
    shard(copy).write_bytes(shard(folder).read_bytes()[:-2])
    with error:
        TokenShards(copy)
    copy, error = refused(r"shard-00001.safetensors differs from the index")
    assert shard(tmp_path / "other").stat().st_size == shard(folder).stat().st_size
    shutil.copy(shard(tmp_path / "other"), shard(copy))
    with error:
        TokenShards(copy)
    copy, error = refused("must be JSON")
    (copy / "index.json").write_text("{")
    with error:
        TokenShards(copy)
    copy, error = refused("must be of the format 'noiselab.token_shards.1'; .* is None")
    (copy / "index.json").write_text("{}")
    with error:
        TokenShards(copy)
    copy, error = refused("in the folder of its index; .* names '../elsewhere'")
    index = json.loads((copy / "index.json").read_text())
    index["shards"][0]["file"] = "../elsewhere"
    (copy / "index.json").write_text(json.dumps(index))
    with error:
        TokenShards(copy)
    with pytest.raises(ValueError, match="has none"):
        TokenShards(tmp_path)


def test_verify_reads_everything(words, tokenizer, tmp_path):
    shards = write_shards([word * 40 for word in words], tokenizer, tmp_path, 16)
    shards.verify()
    content = bytearray(shard(tmp_path, 0).read_bytes())
    content[6000] ^= 1  # between two places that are compared when it is opened
    shard(tmp_path, 0).write_bytes(content)
    again = TokenShards(tmp_path)
    with pytest.raises(ValueError, match=r"shard-00000\.safetensors differs from the index"):
        again.verify()


def test_another_corpus_or_setting_needs_another_folder(folder, tokenizer, words):
    for change in ({"length": 8}, {"mode": "document"}, {"shard_tokens": 320}, {"corpus": words[:-1]}):
        arguments = {
            "corpus": words,
            "tokenizer": tokenizer,
            "folder": folder,
            "length": 16,
            "shard_tokens": 160,
            **change,
        }
        with pytest.raises(ValueError, match=r"differ \(choose another folder"):
            write_shards(**arguments)
    with pytest.raises(ValueError, match="at least one block of 5000 tokens; 'texts' does not"):
        write_shards(words, tokenizer, folder.parent / "few", 5000)
    with pytest.raises(ValueError, match="at least one block of 16 tokens; got shard_tokens=15"):
        write_shards(words, tokenizer, folder.parent / "small", 16, shard_tokens=15)


def test_two_writers_are_refused(tokenizer, words, tmp_path):
    def second(blocks, part):
        with pytest.raises(ValueError, match="only one process may write"):
            write_shards(words, tokenizer, tmp_path, 16)
        raise Killed

    with pytest.raises(Killed):
        write_shards(words, tokenizer, tmp_path, 16, progress=second)
    assert len(write_shards(words, tokenizer, tmp_path, 16))


def test_the_key_follows_rows_and_is_read_from_the_index(folder, tokenizer, words, tmp_path, monkeypatch):
    shutil.copytree(folder, tmp_path / "copy")
    changed = write_shards([*words[:-1], "other"], tokenizer, tmp_path / "changed", 16, shard_tokens=160)
    longer = write_shards(words, tokenizer, tmp_path / "longer", 32, shard_tokens=160)
    monkeypatch.setattr("noiselab.data.shards.sha256", None)  # no file is read as a whole
    key = TokenShards(folder).key
    assert key == TokenShards(tmp_path / "copy").key
    assert len({key, changed.key, longer.key, TokenShards(folder, separate=True).key}) == 4


@pytest.mark.parametrize(("states", "size"), [(2**16, 2), (2**16 + 1, 4)])
def test_tokens_take_two_or_four_bytes(states, size, tokenizer, words, tmp_path, monkeypatch):
    monkeypatch.setattr(sharding, "vocabulary_size", lambda _: states)
    shards = write_shards(words, tokenizer, tmp_path, 16)
    row = shards[0]["input_ids"]
    (opened,) = shards._open.values()
    assert opened.row(0)[0].itemsize == size
    assert opened.row(0)[0].tolist() == row.tolist() == pack(words, tokenizer, 16)[0]["input_ids"].tolist()


def test_loader_workers_read_shards(folder):
    shards = TokenShards(folder, separate=True)
    assert "documents" in shards[0]
    expected = ids(shards[n] for n in range(len(shards)))
    assert ids(DataLoader(shards, batch_size=None, num_workers=2)) == expected
    again = pickle.loads(pickle.dumps(shards))
    assert not again._open and ids(again[n] for n in range(len(again))) == expected


def test_the_command_writes_shards(tokenizer, words, tmp_path, capsys):
    tokenizer.save_pretrained(tmp_path / "tokenizer")
    for number, word in enumerate(words):
        (tmp_path / f"{number:02}.txt").write_text(word)
    common = ["--tokenizer", str(tmp_path / "tokenizer"), "--length", "16", "--quiet"]
    files = [str(tmp_path / "0*.txt"), str(tmp_path / "[1-3]*.txt")]
    found = run("tokenize", [*files, *common, "--output", str(tmp_path / "all"), "--shard-tokens", "160"])
    blocks = pack(words, tokenizer, 16, keep_partial=False)
    shards = TokenShards(tmp_path / "all", tokenizer=tokenizer)
    assert ids(shards[n] for n in range(len(shards))) == ids(blocks[n] for n in range(len(blocks)))
    assert found == {str(tmp_path / "all"): {"blocks": len(blocks), "tokens": blocks.real_tokens, "key": shards.key}}
    assert f"TokenShards(blocks={len(blocks)}" in capsys.readouterr().out

    run("tokenize", [*files, *common, "--output", str(tmp_path / "split"), "--validation", "0.3"])
    for name, side in zip(("train", "validation"), hold_out(words, 0.3), strict=True):
        packed = pack(side, tokenizer, 16, keep_partial=False)
        assert len(TokenShards(tmp_path / "split" / name)) == len(packed)
        row = TokenShards(tmp_path / "split" / name)[0]["input_ids"]
        assert row.equal(packed[0]["input_ids"])
    with pytest.raises(ValueError, match="must be files, or one hub:NAME"):
        run("tokenize", ["hub:a", *files, *common, "--output", str(tmp_path / "two")])


def test_few_files_are_open_at_a_time(folder, monkeypatch):
    shards = TokenShards(folder)
    expected = ids(shards[n] for n in range(len(shards)))
    files = len(shards.index["shards"])
    assert files > 3
    monkeypatch.setattr("noiselab.data.shards.OPEN", 2)
    few, before = TokenShards(folder), len(list(Path("/proc/self/fd").iterdir()))
    order = torch.randperm(len(few), generator=torch.Generator().manual_seed(0)).tolist()
    assert {n: few[n]["input_ids"].tolist() for n in order} == dict(enumerate(expected))
    assert len(list(Path("/proc/self/fd").iterdir())) == before + 2


def test_a_file_that_is_cut_while_it_is_read_is_named(folder):
    shards = TokenShards(folder)
    first = shards[0]
    with shard(folder, 0).open("r+b") as file:
        file.truncate(shard(folder, 0).stat().st_size - 170)  # the counts of real tokens come first, and stay
    with pytest.raises(ValueError, match=r"shard-00000\.safetensors differs from the index"):
        ids(shards[n] for n in range(10))
    assert first["input_ids"].shape == (16,)


def test_the_tokenizer_is_beside_its_tokens(folder, tokenizer, words, tmp_path):
    found = TokenShards(folder).tokenizer()
    assert all(found(word)["input_ids"] == tokenizer(word)["input_ids"] for word in words)
    other = train_tokenizer(words, vocab_size=290)
    other.save_pretrained(tmp_path / "given" / "tokenizer")
    with pytest.raises(ValueError, match=r"must hold their tokenizer; .*tokenizer' holds another"):
        write_shards(words, tokenizer, tmp_path / "given", 16)
    assert len(write_shards(words, other, tmp_path / "given", 16))
    shutil.copytree(tmp_path / "given" / "tokenizer", folder / "tokenizer", dirs_exist_ok=True)
    with pytest.raises(ValueError, match=r"must be theirs; .* differs from that of the index"):
        TokenShards(folder).tokenizer()
    shutil.rmtree(folder / "tokenizer")
    with pytest.raises(ValueError, match="has none"):
        TokenShards(folder).tokenizer()


def test_other_files_in_a_folder_are_kept(tokenizer, words, tmp_path):
    (tmp_path / "notes.txt").write_text("mine")
    shard(tmp_path, 0).write_text("mine, too")
    with pytest.raises(ValueError, match=r"no other files of their names; .*shard-00000.safetensors is not one"):
        write_shards(words, tokenizer, tmp_path, 16)
    assert shard(tmp_path, 0).read_text() == "mine, too" and not (tmp_path / "tokenizer").exists()
    shard(tmp_path, 0).rename(tmp_path / "shard-one.txt")
    (tmp_path / "index.json").write_text('{"mine": 1}')
    with pytest.raises(ValueError, match="must be of the format"):
        write_shards(words, tokenizer, tmp_path, 16)
    assert (tmp_path / "index.json").read_text() == '{"mine": 1}'
    (tmp_path / "index.json").unlink()
    write_shards(words, tokenizer, tmp_path, 16)
    assert (tmp_path / "notes.txt").read_text() == "mine" and (tmp_path / "shard-one.txt").read_text() == "mine, too"


FULL = """
import json, resource, sys
from noiselab.data import load_tokenizer, write_shards
texts = json.load(open(sys.argv[1]))
tokenizer = load_tokenizer(sys.argv[2])
import noiselab.data.sharding as sharding
finish = sharding._finish_shard

def filled(folder, index, *rest):
    if len(index["shards"]) == 2:
        resource.setrlimit(resource.RLIMIT_FSIZE, (100, resource.RLIM_INFINITY))  # no file can be larger
    finish(folder, index, *rest)

sharding._finish_shard = filled
try:
    write_shards(texts, tokenizer, sys.argv[3], 16, shard_tokens=160)
except OSError as error:
    print(error)
    sys.exit(7)
"""


def test_a_full_disk_leaves_what_is_finished(folder, tokenizer, words, tmp_path):
    tokenizer.save_pretrained(tmp_path / "tokenizer")
    (tmp_path / "texts.json").write_text(json.dumps(words))
    full = tmp_path / "full"
    arguments = [str(tmp_path / "texts.json"), str(tmp_path / "tokenizer"), str(full)]
    done = subprocess.run([sys.executable, "-c", FULL, *arguments], capture_output=True, text=True)
    assert done.returncode == 7 and "File too large" in done.stdout and "shard-00002" in done.stdout, done.stderr
    names = {path.name for path in full.iterdir()}
    assert names - {".lock"} == {"index.json", "tokenizer", "shard-00000.safetensors", "shard-00001.safetensors"}
    kept = {path: path.stat().st_ino for path in full.glob("shard-*")}
    write_shards(words, tokenizer, full, 16, shard_tokens=160)
    assert all(path.stat().st_ino == number for path, number in kept.items())
    found, expected = contents(full), contents(folder)
    assert found[0].pop("tokenizer_name") == str(tmp_path / "tokenizer") and not expected[0].pop("tokenizer_name")
    assert found == expected
