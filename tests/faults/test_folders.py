"""Saving a model adds to a folder, or replaces an earlier model; nothing else in the folder is lost."""

import os
import subprocess
import sys
import time
import warnings
from pathlib import Path

import pytest
import torch
from small import network, pipeline, tokenizer
from torch import nn

from noiselab.data import vocabulary_size
from noiselab.files import new_folder
from noiselab.pipeline import Pipeline
from noiselab.training.layout import Layout
from noiselab.training.saving import Saving

USERS = {
    "chapter1.tex": "years of work",
    "README.md": "# My thesis",
    ".git/HEAD": "ref: refs/heads/main",
    "checkpoint-5/model.safetensors": "a checkpoint",
    "ema/notes.txt": "notes",
    "vocabulary.txt": "words",
}
LISTS = {"vocab.txt": "words", "merges.txt": "rows"}


def fill(folder: Path, files=USERS):
    for name, text in files.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text(text)


def contents(folder: Path):
    return {name: (folder / name).read_text() for name in USERS}


class Run(Saving):
    """The part of a trainer that `save_final` needs."""

    def __init__(self, model):
        self.network, self.average, self.settings, self.hollow, self.step = model, None, {}, None, 3
        self.layout = Layout(torch.device("cpu"))


def save(kind, folder):
    if kind == "pipeline":
        pipeline(dtype=torch.float32).save_pretrained(folder)
    else:
        words = tokenizer()
        Run(network(vocabulary_size(words))).save_final(folder, tokenizer=words)


@pytest.mark.parametrize("kind", ["pipeline", "trainer"])
def test_other_files_are_kept(tmp_path, kind):
    fill(tmp_path / "thesis")
    for _ in range(2):
        save(kind, tmp_path / "thesis")
        assert contents(tmp_path / "thesis") == USERS
        assert (tmp_path / "thesis" / "model.safetensors").is_file()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)  # the trainer's folder does not name its noise
        Pipeline.from_pretrained(tmp_path / "thesis")
    assert [path.name for path in tmp_path.iterdir()] == ["thesis"]


@pytest.mark.parametrize("kind", ["pipeline", "trainer"])
def test_a_file_is_not_replaced_by_a_folder(tmp_path, kind):
    (tmp_path / "thesis").write_text("years of work")
    for target in (tmp_path / "thesis", tmp_path / "thesis" / "model"):
        with pytest.raises(ValueError, match=r"the target must be a folder; .*thesis' is a file"):
            save(kind, target)
    assert (tmp_path / "thesis").read_text() == "years of work" and len(list(tmp_path.iterdir())) == 1


@pytest.mark.parametrize(("name", "kind"), [("config.json", "pipeline"), ("settings.json", "trainer")])
def test_a_common_name_of_another_program_is_not_replaced(tmp_path, name, kind):
    fill(tmp_path, {name: '{"port": 8080}', "server.py": "..."})
    with pytest.raises(ValueError, match=f"must not replace files of other programs; .*{name}"):
        save(kind, tmp_path)
    assert sorted(path.name for path in tmp_path.iterdir()) == sorted([name, "server.py"])
    (tmp_path / "server.py").unlink()
    with pytest.raises(ValueError, match="must not replace files of other programs"):
        save(kind, tmp_path)


def test_a_model_of_one_s_own_is_replaced_as_a_whole(tmp_path):
    pipe = pipeline(dtype=torch.float32)
    pipe.save_pretrained(tmp_path / "model")
    (tmp_path / "model" / "model-00001-of-00002.safetensors").write_text("of an earlier save")
    before = (tmp_path / "model").stat().st_ino
    pipe.save_pretrained(tmp_path / "model")
    assert (tmp_path / "model").stat().st_ino != before
    assert not list((tmp_path / "model").glob("model-*"))


def test_stale_weights_do_not_mix_with_new_ones(tmp_path):
    stale = ["model-00001-of-00002.safetensors", "model.safetensors.index.json"]
    fill(tmp_path, {**dict.fromkeys(stale, "old"), "notes.txt": "mine"})
    pipeline(dtype=torch.float32).save_pretrained(tmp_path)
    assert not any((tmp_path / name).exists() for name in stale)
    assert (tmp_path / "notes.txt").read_text() == "mine"
    Pipeline.from_pretrained(tmp_path)


def test_names_that_only_look_like_a_model_s_are_kept(tmp_path):
    fill(tmp_path / "lists", LISTS)
    save("pipeline", tmp_path / "lists")
    assert all((tmp_path / "lists" / name).read_text() == text for name, text in LISTS.items())


def test_averaged_weights_belong_to_a_finished_model(tmp_path):
    save("trainer", tmp_path / "final")
    save("trainer", tmp_path / "final" / "ema")
    save("pipeline", tmp_path / "final")  # a pipeline has no averages: those there are somebody's files
    assert (tmp_path / "final" / "ema" / "model.safetensors").is_file()
    save("trainer", tmp_path / "final")  # a finished model without an average must not keep that of another
    assert not (tmp_path / "final" / "ema").exists()


def test_a_link_and_the_present_folder_stay_what_they_are(tmp_path, monkeypatch):
    (tmp_path / "disk").mkdir()
    (tmp_path / "model").symlink_to(tmp_path / "disk")
    save("pipeline", tmp_path / "model")
    save("pipeline", tmp_path / "model")
    assert (tmp_path / "model").is_symlink() and (tmp_path / "disk" / "config.json").is_file()
    monkeypatch.chdir(tmp_path / "disk")
    save("pipeline", ".")
    assert os.path.samefile(".", tmp_path / "disk") and Path("config.json").is_file()
    assert not [path for path in tmp_path.rglob(".*")]


KILLED = """
import sys, time
from pathlib import Path
from noiselab.files import new_folder
with new_folder(Path(sys.argv[1])) as folder:
    (folder / "model.safetensors").write_bytes(bytes(1000))
    print("written", flush=True)
    time.sleep(600)
"""


def test_what_a_killed_save_left_is_removed_by_the_next(tmp_path):
    run = subprocess.Popen([sys.executable, "-c", KILLED, str(tmp_path / "model")], stdout=subprocess.PIPE)
    assert run.stdout.readline() == b"written\n"
    with new_folder(tmp_path / "model") as folder:
        (folder / "config.json").write_text('{"model_type": "dit"}')
        assert len(list(tmp_path.iterdir())) == 2  # one that another process is writing is left alone
    run.kill()
    run.wait()
    run.stdout.close()
    time.sleep(0.1)
    assert len(list(tmp_path.iterdir())) == 2
    fill(tmp_path, {".model-notes/a.txt": "mine", ".modes.noiselab-new-x/a.txt": "of another folder"})
    with new_folder(tmp_path / "model") as folder:
        (folder / "config.json").write_text('{"model_type": "dit"}')
    assert sorted(path.name for path in tmp_path.iterdir()) == [".model-notes", ".modes.noiselab-new-x", "model"]


def test_a_save_killed_between_two_renames_gives_the_old_model_back(tmp_path):
    fill(tmp_path, {".model.noiselab-old-1234/model/config.json": '{"model_type": "dit"}'})
    with pytest.raises(RuntimeError), new_folder(tmp_path / "model"):
        raise RuntimeError
    assert (tmp_path / "model" / "config.json").is_file()
    with new_folder(tmp_path / "model") as folder:
        (folder / "config.json").write_text('{"model_type": "dit"}')
    assert [path.name for path in tmp_path.iterdir()] == ["model"]


def test_a_module_without_a_config_is_saved_twice_in_one_place(tmp_path):
    for _ in range(2):
        Run(nn.Linear(2, 2)).save_final(tmp_path / "final")
    assert sorted(path.name for path in (tmp_path / "final").iterdir()) == ["model.safetensors", "settings.json"]
