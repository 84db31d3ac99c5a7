"""Files that two processes write at once, and what a killed process leaves: whole content, no rest, nothing of others lost."""

import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch

import noiselab
from noiselab.data import TokenBlocks
from noiselab.files import new_file, new_folder, write_text

FILES = Path(noiselab.__file__).with_name("files.py")
READ = f"""
import importlib.util, os, signal, sys, time
from pathlib import Path
spec = importlib.util.spec_from_file_location("files", {str(FILES)!r})
files = importlib.util.module_from_spec(spec)
spec.loader.exec_module(files)
path, letter = Path(sys.argv[1]), sys.argv[2]
"""
KILLED = "with files.new_file(path) as f:\n    f.write_text(letter)\n    os.kill(os.getpid(), signal.SIGKILL)\n"
WAITING = "with files.new_file(path) as f:\n    f.write_text(letter)\n    print('ready', flush=True)\n    input()\n"
MANY = "for number in range(200):\n    files.write_text(path, letter * 10000)\n"


def start(code, path, letter="b"):
    words = [sys.executable, "-S", "-c", READ + code, str(path), letter]
    return subprocess.Popen(words, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)


def names(folder):
    return sorted(path.name for path in folder.iterdir())


def blocks():
    return TokenBlocks(torch.zeros(2, 3, dtype=torch.long), torch.tensor([3, 2]), vocab_size=5)


def test_two_writers_at_once(tmp_path):
    path = tmp_path / "found.json"
    write_text(path, "a" * 10000)
    writers = [start(MANY, path, letter) for letter in "bc"]
    seen = set()
    while any(writer.poll() is None for writer in writers):
        text = path.read_text()
        assert len(text) == 10000 and len(set(text)) == 1
        seen.add(text[0])
        time.sleep(0.001)
    assert [writer.wait() for writer in writers] == [0, 0] and names(tmp_path) == ["found.json"]
    assert len(seen) > 1
    for writer in writers:
        writer.communicate()


@pytest.mark.parametrize("write", ["text", "blocks"])
def test_what_a_killed_process_left_is_removed_by_the_next_write(tmp_path, write):
    path = tmp_path / "data[1].safetensors"  # a name that a pattern would read as another
    write_text(path, "old")
    killed = start(KILLED, path)
    killed.communicate()
    assert killed.returncode == -signal.SIGKILL and path.read_text() == "old" and len(names(tmp_path)) == 2
    others = {f".{path.name}.tmp": "mine", f".{path.name}.x1": "mine", ".data1.safetensors.noiselab-new-x": "mine"}
    for name, text in others.items():
        (tmp_path / name).write_text(text)
    (tmp_path / ".other.noiselab-new-y").mkdir()
    if write == "text":
        write_text(path, "new")
    else:
        blocks().save(path)
        assert len(TokenBlocks.load(path)) == 2
    assert names(tmp_path) == sorted([path.name, ".other.noiselab-new-y", *others])


def test_a_process_that_still_writes_keeps_its_file(tmp_path):
    path = tmp_path / "found.json"
    alive = start(WAITING, path)
    assert alive.stdout.readline() == "ready\n"
    write_text(path, "ours")
    assert path.read_text() == "ours" and len(names(tmp_path)) == 2
    alive.communicate("\n")
    assert alive.returncode == 0 and path.read_text() == "b" and names(tmp_path) == ["found.json"]


def test_a_folder_that_was_taken_for_an_abandoned_one_is_made_again(tmp_path, monkeypatch):
    """Between the making of a temporary folder and its lock, another process may remove it."""
    made, lost = noiselab.files.tempfile.mkdtemp, []

    def lose(**options):
        found = made(**options)
        if len(lost) < 2:
            lost.append(found)
            os.rmdir(found)
        return found

    monkeypatch.setattr(noiselab.files.tempfile, "mkdtemp", lose)
    write_text(tmp_path / "a.txt", "whole")
    with new_folder(tmp_path / "model") as folder:
        (folder / "config.json").write_text("{}")
    assert len(lost) == 2 and names(tmp_path) == ["a.txt", "model"] and (tmp_path / "a.txt").read_text() == "whole"


def test_a_failed_write_leaves_the_old_file_and_no_rest(tmp_path):
    path = tmp_path / "found.json"
    write_text(path, "old")
    with pytest.raises(RuntimeError), new_file(path) as temporary:
        temporary.write_text("half")
        assert temporary.suffix == ".json"  # by which plots choose their format
        raise RuntimeError
    assert path.read_text() == "old" and names(tmp_path) == ["found.json"]


def test_there_is_one_mechanism():
    """No other module makes temporary names or replaces files."""
    for file in FILES.parent.rglob("*.py"):
        text = re.sub(r"```.*?```", "", file.read_text(), flags=re.DOTALL)
        if file != FILES:
            assert not re.search(r"os\.replace|os\.rename|mkstemp|with_name\(f?\"\.", text), file
