"""Callbacks are called at their moments, once each; loggers write what is logged."""

import json

import pytest
from toy_training import make

from noiselab.training import Callback

SHORT = {"steps": 3, "save_every": 9, "ema": None}


class Watching(Callback):
    def __init__(self):
        self.seen = []

    def on_begin(self, trainer):
        self.seen.append(("begin", trainer.step))

    def on_step(self, trainer):
        self.seen.append(("step", trainer.step))

    def on_log(self, trainer, values):
        self.seen.append(("evaluation" if "eval_loss" in values else "log", trainer.step))

    def on_save(self, trainer, folder):
        self.seen.append(("save", folder.name))

    def on_end(self, trainer):
        self.seen.append(("end", trainer.step))


def test_the_moments(tmp_path):
    one = Watching()
    trainer = make(
        tmp_path,
        callbacks=[one],
        **{**SHORT, "save_every": 2},
        log_every=2,
        evaluate_every=3,
        extra={"eval_dataset": rows()},
    )
    trainer.train()
    assert one.seen == [
        ("begin", 0),
        ("step", 1),
        ("step", 2),
        ("log", 2),
        ("save", "checkpoint-2"),
        ("step", 3),
        ("log", 3),
        ("evaluation", 3),
        ("save", "checkpoint-3"),
        ("end", 3),
    ]
    assert [(entry["step"], "loss" in entry) for entry in trainer.history] == [(2, True), (3, True), (3, False)]


def rows():
    from toy_training import Rows

    return Rows(4)


def test_the_same_one_is_called_once_and_two_objects_are_two(tmp_path, caplog):
    one, other = Watching(), Watching()
    make(tmp_path, callbacks=[one, other, one], **SHORT).train()
    assert "Watching is there already; it is called once" in caplog.text
    assert one.seen == other.seen and one.seen.count(("step", 2)) == 1


def test_what_is_none_is_refused(tmp_path, unchecked):
    with pytest.raises(ValueError, match=r"callbacks must be objects of noiselab\.training\.Callback; got <class"):
        make(tmp_path, callbacks=[Watching], **SHORT)


def test_a_callback_ends_the_run_with_a_checkpoint(tmp_path):
    class Enough(Callback):
        def on_step(self, trainer):
            if trainer.step == 5:
                trainer.stop()

    stopped = make(tmp_path, callbacks=[Enough()])
    assert stopped.train().step == 5 and stopped.sealed.name == "checkpoint-5"
    assert make(tmp_path).train().step == 14


def test_the_bar_and_its_summary(tmp_path, capsys):
    make(tmp_path, progress=True, log_every=1, **SHORT).train()
    shown = capsys.readouterr().err
    assert shown.count("trained 3 steps to step 3") == 1 and "tokens/s" in shown
    make(tmp_path, progress=True, log_every=1, **SHORT).train()
    assert "checkpoint-3 is from the last step: training is complete" in capsys.readouterr().err


def test_tensorboard_has_every_logged_value(tmp_path):
    pytest.importorskip(
        "tensorboard", reason="optional: pip install noiselab[tensorboard]; continuous integration has it"
    )
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    trainer = make(tmp_path, report_to="tensorboard", log_every=1, **SHORT)
    trainer.train()
    events = EventAccumulator(str(tmp_path / "logs")).Reload()
    found = {
        name: [(e.step, pytest.approx(e.value)) for e in events.Scalars(name)] for name in events.Tags()["scalars"]
    }
    assert {"loss", "grad_norm", "learning_rate", "tokens_per_second"} <= set(found)
    assert [(entry["step"], entry["loss"]) for entry in trainer.history] == found["loss"]


def test_the_history_is_in_the_checkpoint_and_goes_on(tmp_path):
    class Enough(Callback):
        def on_step(self, trainer):
            trainer.stop() if trainer.step == 6 else None

    whole = make(tmp_path / "whole", log_every=1)
    whole.train()
    make(tmp_path / "parts", log_every=1, callbacks=[Enough()]).train()
    again = make(tmp_path / "parts", log_every=1)
    again.train()
    losses = [[(e["step"], e["loss"]) for e in trainer.history] for trainer in (whole, again)]
    assert losses[0] == losses[1] and len(losses[0]) == 14
    saved = json.loads((tmp_path / "parts" / "checkpoint-14" / "progress.json").read_text())
    assert saved["history"] == again.history
