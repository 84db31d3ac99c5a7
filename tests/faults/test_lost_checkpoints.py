"""Nothing is lost: clocks that are set back, checkpoints that lack a file."""

import json
import os
import shutil
import sys
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parents[1] / "training"))

from toy_training import digest, make

from noiselab.training import Callback
from noiselab.training import checkpoints as ck

NEEDED = ("progress.json", "settings.json", "data-0.json", "state/shard-00001-model-00001-of-00001.safetensors")


class Dated(Callback):
    """Gives each checkpoint the modification time that `date(step)` names, before the next one is written."""

    def __init__(self, run, date):
        self.run, self.date = run, date

    def on_step(self, trainer):
        trainer.finish_saving()
        for folder in ck.checkpoints(self.run):
            date = self.date(int(folder.name.split("-")[1]))
            os.utime(folder, (date, date))


def steps(run):
    return sorted(int(path.name.split("-")[1]) for path in run.glob("checkpoint-*"))


@pytest.mark.parametrize("date", [lambda step: 2e9 - 1e4 * step, lambda step: 2e9], ids=["backwards", "ahead"])
def test_a_clock_that_is_set_back_loses_no_checkpoint(tmp_path, date):
    run = make(tmp_path, steps=10, save_every=2, keep=2, callbacks=[Dated(tmp_path, date)])
    run.train()
    assert steps(tmp_path) == [8, 10]
    assert all(ck.intact(folder) for folder in ck.checkpoints(tmp_path))
    again = make(tmp_path, steps=10, save_every=2, keep=2)
    again.train()
    assert again.resumed.name == "checkpoint-10" and digest(again) == digest(run)


def test_a_run_that_goes_back_to_an_early_checkpoint_keeps_the_new_ones(tmp_path):
    """The same by another way: by step alone, those that are written first would be deleted first."""
    run = make(tmp_path, steps=10, save_every=2, keep=9)
    run.train()
    assert steps(tmp_path) == [2, 4, 6, 8, 10]
    seen = []

    class Look(Callback):
        def on_step(self, trainer):
            trainer.finish_saving()
            seen.append((trainer.step, steps(tmp_path)))

    back = make(tmp_path, steps=10, save_every=2, keep=2, callbacks=[Look()])
    back.train(resume=tmp_path / "checkpoint-2")
    assert dict(seen)[5] == [2, 4, 6, 8, 10] and dict(seen)[7] == [4, 6, 8, 10] and steps(tmp_path) == [8, 10]
    assert digest(back) == digest(run)


def test_nothing_is_sealed_that_is_not_there(tmp_path):
    with pytest.raises(FileNotFoundError, match="all that a resumed run reads"):
        ck.seal(tmp_path / "checkpoint-4")
    assert not (tmp_path / "checkpoint-4").exists()

    class Vanish(Callback):
        def on_save(self, trainer, folder):
            if trainer.step == 8:
                trainer.writer.wait()  # sealed by now
                (folder / "manifest.json").unlink()
                shutil.rmtree(folder / "state")
                trainer.writer.write(folder, {}, lambda: ck.seal(folder))

    run = make(tmp_path / "run", callbacks=[Vanish()])
    with pytest.raises(
        OSError, match=r"checkpoint-8 could not be written .*the last good checkpoint is .*checkpoint-4"
    ):
        run.train()
    assert steps(tmp_path / "run") == [4]
    again = make(tmp_path / "run")
    again.train()
    assert again.resumed.name == "checkpoint-4" and again.step == 14


def test_an_error_of_the_data_is_not_one_of_the_checkpoint_in_progress(tmp_path, monkeypatch):
    class Unreadable(Callback):
        def on_step(self, trainer):
            if trainer.step == 9:  # checkpoint-8 is not sealed yet
                raise OSError(5, "row 7 cannot be read")

    run = make(tmp_path, callbacks=[Unreadable()])
    monkeypatch.setattr("noiselab.training.saving.seal", lambda folder: None)
    with pytest.raises(OSError, match=r"^\[Errno 5\] row 7 cannot be read$"):
        run.train()
    assert steps(tmp_path) == []


@pytest.mark.parametrize("name", [*NEEDED, "everything"])
def test_intact_means_that_all_that_a_resume_needs_is_there(tmp_path, name):
    """Also if the manifest agrees with the folder, as one that was written too late did."""
    make(tmp_path, steps=4, save_every=2).train()
    folder = tmp_path / "checkpoint-4"
    content = json.loads((folder / ck.MANIFEST).read_text())
    for lost in [*content] if name == "everything" else [name]:
        (folder / lost).unlink()
        del content[lost]
    (folder / ck.MANIFEST).write_text(json.dumps(content))
    assert not ck.intact(folder) and "is missing" in ck.damage(folder)
    again = make(tmp_path, steps=4, save_every=2)
    again.train()
    assert again.resumed.name == "checkpoint-2" and again.step == 4
