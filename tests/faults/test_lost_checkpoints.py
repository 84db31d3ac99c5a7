"""Nothing is lost: clocks that are set back, checkpoints that lack a file."""

import json
import os
import shutil
import sys
from pathlib import Path

import pytest
import transformers

sys.path.insert(0, str(Path(__file__).parents[1] / "training"))

from toy_training import digest, make

from noiselab.training import checkpoints as ck

NEEDED = ("model.safetensors", "optimizer.pt", "scheduler.pt", "rng_state.pth", "trainer_state.json", "settings.json")


class Dated(transformers.TrainerCallback):
    """Gives each checkpoint the modification time that `date(step)` names, before the next one is written."""

    def __init__(self, run, date):
        self.run, self.date = run, date

    def on_step_end(self, args, state, control, **_):
        for folder in ck.checkpoints(self.run):
            date = self.date(int(folder.name.split("-")[1]))
            os.utime(folder, (date, date))


def steps(run):
    return sorted(int(path.name.split("-")[1]) for path in run.glob("checkpoint-*"))


@pytest.mark.parametrize("date", [lambda step: 2e9 - 1e4 * step, lambda step: 2e9], ids=["backwards", "ahead"])
def test_a_clock_that_is_set_back_loses_no_checkpoint(tmp_path, date):
    run = make(tmp_path, max_steps=10, save_steps=2, save_total_limit=2, callbacks=[Dated(tmp_path, date)])
    run.train()
    assert steps(tmp_path) == [8, 10]
    assert all(ck.intact(folder) for folder in ck.checkpoints(tmp_path))
    again = make(tmp_path, max_steps=10, save_steps=2, save_total_limit=2)
    again.train()
    assert again.resumed.name == "checkpoint-10" and digest(again) == digest(run)


def test_a_run_that_goes_back_to_an_early_checkpoint_keeps_the_new_ones(tmp_path):
    """The same by another way: by step alone, those that are written first would be deleted first."""
    run = make(tmp_path, max_steps=10, save_steps=2, save_total_limit=None)
    run.train()
    assert steps(tmp_path) == [2, 4, 6, 8, 10]
    seen = []

    class Look(transformers.TrainerCallback):
        def on_step_end(self, args, state, control, **_):
            seen.append((state.global_step, steps(tmp_path)))

    back = make(tmp_path, max_steps=10, save_steps=2, save_total_limit=2, callbacks=[Look()])
    back.train(resume_from_checkpoint=tmp_path / "checkpoint-2")
    assert dict(seen)[5] == [2, 4, 6, 8, 10] and dict(seen)[7] == [4, 6, 8, 10] and steps(tmp_path) == [8, 10]
    assert digest(back) == digest(run)


def test_the_arguments_that_were_given_are_not_changed(tmp_path):
    from toy_training import Rows, V, network

    import noiselab as nl
    from noiselab.training import Trainer, training_arguments

    args = training_arguments(tmp_path, use_cpu=True, save_total_limit=4)
    trainer = Trainer(network(), args, train_dataset=Rows(), process=nl.masked(vocab_size=V, mask_id=V - 1))
    assert args.save_total_limit == 4 == trainer.keep


def test_nothing_is_sealed_that_is_not_there(tmp_path):
    with pytest.raises(FileNotFoundError, match="all that a resumed run reads"):
        ck.seal(tmp_path / "checkpoint-4")
    assert not (tmp_path / "checkpoint-4").exists()

    class Vanish(transformers.TrainerCallback):
        def on_save(self, args, state, control, **_):
            if state.global_step == 8:
                shutil.rmtree(tmp_path / "run" / "checkpoint-8")

    run = make(tmp_path / "run")
    run.callback_handler.callbacks.insert(0, Vanish())  # before the one that seals
    with pytest.raises(
        OSError, match=r"checkpoint-8 could not be written .*the last good checkpoint is .*checkpoint-4"
    ):
        run.train()
    assert steps(tmp_path / "run") == [4]
    again = make(tmp_path / "run")
    again.train()
    assert again.resumed.name == "checkpoint-4" and again.state.global_step == 14


@pytest.mark.parametrize("name", [*NEEDED, "ema.safetensors", "everything"])
def test_intact_means_that_all_that_a_resume_needs_is_there(tmp_path, name):
    """Also if the manifest agrees with the folder, as one that was written too late did."""
    make(tmp_path, max_steps=4, save_steps=2).train()
    folder = tmp_path / "checkpoint-4"
    content = json.loads((folder / ck.MANIFEST).read_text())
    for lost in [*content] if name == "everything" else [name]:
        (folder / lost).unlink()
        del content[lost]
    (folder / ck.MANIFEST).write_text(json.dumps(content))
    assert not ck.intact(folder) and "is missing" in ck.damage(folder)
    again = make(tmp_path, max_steps=4, save_steps=2)
    again.train()
    assert again.resumed.name == "checkpoint-2" and again.state.global_step == 4
